"""Engines: the same readings from each of them, which one is taken, and what they refuse."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crnn.engines.loading
from crnn.engines.engine import Engine, Pixels, cpu_threads
from crnn.engines.loading import installed_engines, open_model
from crnn.engines.onnx_engine import OnnxEngine
from crnn.engines.openvino_engine import OpenVinoEngine
from crnn.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from crnn.export import export
from crnn.model.checkpoint import load_weights, save_weights
from crnn.recognizer import load

ENGINES = ("torch", "onnx", "openvino")
pytestmark = pytest.mark.usefixtures("one_thread")


def random_pixels(count: int, width: int = 100, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 32, width), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(trained_run: Any) -> list[Path]:
    return [trained_run.words.parent / "images" / f"{n + 1}.png" for n in range(len(trained_run.labels))]


@pytest.fixture(scope="module")
def opened(trained_run: Any) -> Callable[..., Engine]:
    """A function that opens the trained run in an engine with two threads; each way once."""

    @functools.cache
    def make(engine: Any, **options: Any) -> Engine:
        # torch's number of threads is one for the whole process.
        options = {"threads": None if engine == "torch" else 2, **options}
        return open_model(trained_run.folder, engine=engine, device="cpu", **options)[0]

    return make


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_the_log_probabilities_are_those_of_torch(engine: str, mode: str, opened: Any) -> None:
    for count, width in ((1, 48), (5, 48), (2, 100), (3, 33)):
        images = random_pixels(count, width)
        expected = opened("torch").log_probs(images)
        found = opened(engine, mode=mode).log_probs(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-3)
        np.testing.assert_allclose(np.exp(found).sum(axis=2), 1.0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_texts_and_places_are_those_of_torch_in_any_batch(engine: Any, trained_run: Any, images: list[Path]) -> None:
    expected = load(trained_run.folder, engine="torch", device="cpu", threads=1).read(images)
    assert [reading.text for reading in expected] == trained_run.labels
    for batch_size in (1, 5, 64):
        threads = 1 if engine == "torch" else 2
        reader = load(trained_run.folder, engine=engine, device="cpu", threads=threads, batch_size=batch_size)
        for one, other in zip(expected, reader.read(images), strict=True):
            assert one.text == other.text
            assert one.score == pytest.approx(other.score, abs=1e-3)
            assert [(c.text, c.start, c.end) for c in one.characters] == [
                (c.text, c.start, c.end) for c in other.characters
            ]


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_one_thread_and_several_say_the_same(engine: str, opened: Any) -> None:
    images = random_pixels(7)
    expected = opened(engine, threads=1).log_probs(images)
    for options in ({"threads": 3}, {"threads": 3, "mode": "latency"}):
        np.testing.assert_allclose(opened(engine, **options).log_probs(images), expected, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_callers_in_several_threads_get_their_own(engine: str, opened: Any) -> None:
    compute = opened(engine)
    batches = [random_pixels(1 + seed % 3, 48, seed) for seed in range(12)]
    expected = [compute.log_probs(batch) for batch in batches]  # which later calls leave as they are
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(compute.log_probs, batches), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)


# A reader that has read before ``fork``, as under gunicorn's --preload: it reads in the child, which ends as ever.
FORKED = """
import copy, multiprocessing, os, pickle, signal, sys
import crnn

def texts(reader, images):
    return [reader.read(images[0]).text] + [reading.text for reading in reader.read(images)]

if __name__ == "__main__":
    engine, mode, method, model, *images = sys.argv[1:]
    signal.alarm(100)
    reader = crnn.load(model, engine=engine, mode=mode, device="cpu", threads=2)
    expected = texts(reader, images)
    assert texts(copy.deepcopy(reader), images) == expected
    assert texts(pickle.loads(pickle.dumps(reader)), images) == expected
    if method == "os":
        for _ in range(2):
            if (child := os.fork()) == 0:
                signal.alarm(60)
                assert texts(reader, images) == expected
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    else:
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply_async(texts, (reader, images)).get(90) == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    ("engine", "mode", "method"),
    [
        ("torch", "throughput", "os"),
        ("onnx", "latency", "os"),
        ("openvino", "throughput", "os"),
        ("onnx", "throughput", "spawn"),
        ("openvino", "throughput", "fork"),
        ("torch", "throughput", "forkserver"),
    ],
)
def test_a_reader_goes_into_other_processes(
    engine: str, mode: str, method: str, trained_run: Any, images: list[Path], tmp_path: Path
) -> None:
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    arguments = [script, engine, mode, method, trained_run.folder, *images[:3]]
    environment = {**os.environ, "OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_torch_is_loaded_in_a_forked_process_with_one_thread(trained_run: Any, images: list[Path]) -> None:
    script = (
        "import os, signal, sys, crnn, torch\n"
        "torch.set_num_threads(2)\n"
        "open = lambda: crnn.load(sys.argv[1], engine='torch', device='cpu', threads=2).read(sys.argv[2:])\n"
        "open()\n"
        "if (child := os.fork()) == 0:\n"
        "    signal.alarm(60)\n"
        "    open()\n"
        "    sys.exit(torch.get_num_threads() + 6)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
    )
    arguments = [str(trained_run.folder), *map(str, images[:3])]
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_image_takes_one_thread_of_torch(trained_run: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)
    for mode, expected in (("throughput", [1, 2]), ("latency", [2, 2])):
        engine: Any = open_model(trained_run.folder, engine="torch", device="cpu", mode=mode)[0]  # type: ignore[arg-type]
        used: list[int] = []
        engine._network.register_forward_pre_hook(lambda *_, used=used: used.append(torch.get_num_threads()))
        scores = [engine.log_probs(random_pixels(count, 16)) for count in (1, 3)]
        assert used == expected
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        for found in scores:
            np.testing.assert_allclose(engine.log_probs(random_pixels(len(found), 16)), found, atol=1e-5)
        torch.set_num_threads(2)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 32, 100), np.uint8),
        np.zeros((1, 1, 31, 100), np.uint8),
        np.zeros((1, 1, 32, 7), np.uint8),
        np.zeros((0, 1, 32, 100), np.uint8),
        np.zeros((1, 1, 32, 100), np.float32),
        np.zeros((1, 32, 100), np.uint8),
    ],
    ids=["channels", "height", "width", "none", "type", "axes"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_that_are_no_images(engine: str, images: np.ndarray, opened: Any) -> None:
    with pytest.raises(DataError, match=r"expected \(N >= 1, 1, 32, W >= 8\) of uint8"):
        opened(engine).log_probs(images)


@pytest.mark.parametrize(("kind", "name"), [(OnnxEngine, "ONNX Runtime"), (OpenVinoEngine, "OpenVINO")])
def test_a_graph_that_is_none(kind: Any, name: str, capfd: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{name} cannot run this graph") as caught:
        kind(b"no graph at all", channels=1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onnx", "device": "cuda"}, "engine is 'onnx', which computes on the CPU, and device is 'cuda'"),
        ({"engine": "openvino", "device": "cuda"}, "expected engine torch, or auto"),
        ({"engine": "onnx", "precision": "bf16"}, "engine is 'onnx', which does not compute in bf16 on CPUs; expected"),
        ({"engine": "torch", "precision": "int8"}, "engine is 'torch', which does not compute in int8"),
        ({"precision": "int8"}, "or a file written by: crnn export"),
        ({"mode": "quick"}, "mode is 'quick'; expected one of: throughput, latency"),
        ({"threads": 0, "engine": "onnx"}, "threads is 0; expected 1 or more"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_an_engine_cannot_do_is_said(options: dict[str, Any], message: str, trained_run: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        open_model(trained_run.folder, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def only_installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that makes these packages the only ones that are there to be chosen."""

    def hide(*packages: str) -> None:
        monkeypatch.setattr(crnn.engines.loading, "_is_installed", lambda package: package in packages)

    return hide


@pytest.mark.parametrize(
    ("installed", "options", "expected"),
    [
        (("openvino", "torch"), {}, "openvino"),
        (("torch",), {}, "onnx"),
        ((), {}, "onnx"),
        (("torch",), {"precision": "bf16"}, "torch"),
        (("openvino", "torch"), {"precision": "bf16"}, "openvino"),
        (("openvino", "torch"), {"engine": "torch"}, "torch"),
        (("openvino", "torch"), {"device": "cpu:0"}, "torch"),  # a name of torch's
        (("openvino", "torch"), {"device": "cpu"}, "openvino"),
    ],
)
def test_auto_takes_the_fastest_that_can_do_it(
    installed: tuple[str, ...], options: dict[str, Any], expected: str, trained_run: Any, only_installed: Any
) -> None:
    only_installed(*installed)
    engine, config, _ = open_model(trained_run.folder, threads=1, **options)
    assert type(getattr(engine, "_engine", engine)).__module__ == f"crnn.engines.{expected}_engine"
    assert config.model.lstm_size == 32


def test_what_is_missing_is_said_with_what_to_install(trained_run: Any, only_installed: Any) -> None:
    only_installed()
    assert installed_engines() == ["onnx"]
    with pytest.raises(MissingExtraError, match=r"engine openvino needs the package 'openvino'.*'crnn\[read\]'"):
        open_model(trained_run.folder, engine="openvino")
    with pytest.raises(MissingExtraError, match=r"torch needs the package 'torch'.*'crnn\[train\]'"):
        open_model(trained_run.folder, device="cuda")


@pytest.mark.parametrize(
    ("variable", "given", "expected"),
    [("3", None, 3), ("3", 2, 2), ("4,2", None, None), ("", None, None)],  # "4,2": nested teams; none of ours
)
def test_threads_are_those_of_the_variable_where_none_are_given(
    variable: str, given: int | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert cpu_threads(given) == expected


def test_weights_name_their_language_to_every_engine(trained_run: Any, tmp_path: Path, images: list[Path]) -> None:
    weights = load_weights(trained_run.folder)
    charset = weights.config.charset.model_copy(update={"language": "en"})
    path = tmp_path / "spoken.safetensors"
    save_weights(path, weights.tensors, weights.config.model_copy(update={"charset": charset}), weights.info)
    export(path, tmp_path / "spoken.onnx", samples=4)
    scores = []
    for model, engine in [(path, "torch"), (path, "onnx"), (tmp_path / "spoken.onnx", "openvino")]:
        reader = load(model, engine=engine, device="cpu", threads=1)  # type: ignore[arg-type]
        prior = reader.decoder.prior
        assert (reader.decoder.method, prior is not None and prior.language.name) == ("beam", "en")
        reading = reader.read(images[0])
        scores.append(reading.score)
        assert reading.text == trained_run.labels[0]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-3)
    assert load(trained_run.folder, engine="torch", device="cpu").decoder.method == "greedy"


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_nothing_is_printed_nothing_is_left_and_nobody_is_told(engine: str, trained_run: Any, tmp_path: Path) -> None:
    """Both packages tell their vendors of each import and keep a number for that in the user's home, if they can."""
    program = f"""
import socket, sys

def refuse(*_):
    print("somebody wants to connect", file=sys.stderr)
    raise OSError("no network here")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
import crnn
reader = crnn.load({str(trained_run.folder)!r}, engine={engine!r}, threads=1)
text = reader.read({str(trained_run.words.parent / "images" / "1.png")!r}).text
assert text == {trained_run.labels[0]!r}, text
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY")
    }
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_an_openvino_reader_was_let_go(trained_run: Any) -> None:
    """Loaded here, let go in another thread: the stack for signals that OpenVINO sets must outlive that."""
    script = f"""
import gc, os, signal, threading
import numpy as np
import crnn

reader = [crnn.load({str(trained_run.folder)!r}, engine="openvino")]
reader[0].read(np.full((32, 100), 255, np.uint8))
thread = threading.Thread(target=lambda: (reader.clear(), gc.collect()))
thread.start(); thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
