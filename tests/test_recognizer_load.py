"""A reader with its network: loading, single images and batches, half precision, no torch, real crops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crnn.config.run import Config
from crnn.engines.torch_engine import TorchEngine
from crnn.errors import CheckpointError, ConfigError
from crnn.model.checkpoint import build_network, load_weights, save_weights
from crnn.recognizer import Reading, load


def texts(readings: list[Reading]) -> list[str]:
    return [reading.text for reading in readings]


def test_the_network_reads_an_image_alone_as_in_any_batch(trained_run: Any, one_thread: None) -> None:
    reader = load(trained_run.folder, device="cpu")
    images = [path.read_bytes() for path in sorted((trained_run.words.parent / "images").iterdir())]
    together = reader.read(images)
    assert sorted(texts(together)) == sorted(trained_run.labels)
    for batch_size in (1, 5):
        reader = load(trained_run.folder, device="cpu", batch_size=batch_size)
        for one, other in zip(together, reader.read(images), strict=True):
            assert one.text == other.text
            # float32 sums in another order; log-probabilities are of the size of one.
            assert one.score == pytest.approx(other.score, abs=1e-4)
            for a, b in zip(one.characters, other.characters, strict=True):
                assert (a.text, a.start, a.end) == (b.text, b.start, b.end)
                assert a.score == pytest.approx(b.score, abs=1e-4)


def test_load_takes_a_run_folder_or_a_weights_file(trained_run: Any, one_thread: None) -> None:
    image = trained_run.words.parent / "images" / "1.png"
    folder = load(trained_run.folder, device="cpu").read(image)
    assert folder.text == trained_run.labels[0]
    assert load(str(trained_run.folder / "best.safetensors"), device="cpu").read(image) == folder
    beam = load(trained_run.folder, device="cpu", decode="beam", beam_width=4, engine="torch").read(image)
    assert beam.text == folder.text


def test_half_precision_reads_the_same_words(trained_run: Any, one_thread: None) -> None:
    images = [trained_run.words.parent / "images" / f"{n + 1}.png" for n in range(len(trained_run.labels))]
    exact = load(trained_run.folder, device="cpu").read(images)
    rounded = load(trained_run.folder, device="cpu", precision="bf16").read(images)
    # bf16 has 8 bits: scores differ, words that are read with some certainty do not.
    sure = [i for i, reading in enumerate(exact) if reading.score > -0.5]
    assert len(sure) >= len(exact) // 2
    assert [rounded[i].text for i in sure] == [exact[i].text for i in sure]
    assert [r.score for r in rounded] != [r.score for r in exact]


def test_the_engine_leaves_the_network_as_it_was(trained_run: Any, one_thread: None) -> None:
    network = build_network(load_weights(trained_run.folder)).train()
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 48), dtype=np.uint8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = TorchEngine(network).log_probs(images)
    second = TorchEngine(network, channels_last=False).log_probs(images)
    assert network.training
    assert all((tensor == before[name]).all() for name, tensor in network.state_dict().items())
    assert first.shape == (3, 11, 37)
    assert first.dtype == np.float32
    assert np.allclose(np.exp(first).sum(axis=2), 1, atol=1e-5)
    assert np.allclose(first, second, atol=1e-3)  # float32 in another order of sums


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "nothing/here"},
            "model 'nothing/here' is no weights file, run folder or shipped name (crnn-small, crnn-vgg)",
        ),
        ({"model": "."}, "a folder without best.safetensors or last.safetensors; expected a run folder"),
        ({"engine": "tensorrt"}, "engine is 'tensorrt'; expected one of: auto, torch, onnx, openvino"),
        ({"precision": "fp16"}, "precision is 'fp16'; expected one of: fp32, bf16, int8"),
        ({"decode": "best"}, "decode is 'best'; expected one of: auto, greedy, beam, lexicon"),
        ({"decode": "lexicon"}, "decode is 'lexicon', and no lexicon is given; expected one"),
        ({"threads": 0}, "threads is 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"device": "abacus"}, "'abacus', which cannot be used here"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_load_says_what_is_wrong(
    options: dict[str, Any], message: str, small_config: Callable[..., Config], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from crnn.model.crnn import build_model

    monkeypatch.chdir(tmp_path)
    config = small_config()
    network = build_model(config.model, config.image, 11, seed=0)
    save_weights(tmp_path / "new.safetensors", network.state_dict(), config, {})
    assert load("new.safetensors", device="cpu").charset.num_classes == 11
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        load(**{"model": "new.safetensors", **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_an_engine_the_message_says_what_to_install() -> None:
    program = """
import sys

class NoEngines:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxruntime", "openvino"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoEngines())
import crnn
from crnn.recognizer import Recognizer
for engine in ("auto", "torch", "openvino", "onnx"):
    try:
        crnn.load("weights.safetensors", engine=engine)
    except crnn.MissingExtraError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.stdout.splitlines() == [
        "no engine that can do it is installed; openvino needs the package 'openvino'. "
        "Install it with: pip install 'crnn[openvino]'",
        "reading with the engine torch needs the package 'torch'. Install it with: pip install 'crnn[torch]'",
        "reading with the engine openvino needs the package 'openvino'. Install it with: pip install 'crnn[openvino]'",
        "reading with the engine onnx needs the package 'onnxruntime'. Install it with: pip install 'crnn[onnx]'",
    ]
    assert done.stderr == ""


# ---------------------------------------------------------------------------------------------------------------------
# Real crops


@pytest.mark.real
def test_real_crops_are_read(trained_run: Any, one_thread: None) -> None:
    """CRNN_REAL_CROPS names a list file; CRNN_REAL_MODEL, where it is given, a model that should read most of it."""
    from crnn.data.source import open_source

    listing, model = os.environ.get("CRNN_REAL_CROPS"), os.environ.get("CRNN_REAL_MODEL")
    if not listing:
        pytest.skip("real crops are no part of the project; CRNN_REAL_CROPS names no list file of them")
    with open_source(listing) as store:
        count = min(len(store), 200)
        results = list(load(model or trained_run.folder).stream(store.image_bytes(i) for i in range(count)))
        labels = [store.label(i).lower() for i in range(count)]
    assert len(results) == count
    readings = [result for result in results if isinstance(result, Reading)]
    assert len(readings) >= 0.99 * count
    for reading in readings:
        assert reading.score <= 0
        assert all(c.start < c.end for c in reading.characters)
    if model:
        right = sum(isinstance(r, Reading) and r.text == label for r, label in zip(results, labels, strict=True))
        assert right >= 0.5 * count
