"""``crnn synth write``: sets that other tools and ``crnn train`` read, the same however they were written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crnn.cli import main
from crnn.config.run import Config, dump_config
from crnn.data.source import open_source
from crnn.errors import DataError
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.samples import write_samples
from crnn.synth.widths import CLASS_BITS

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

Configs = Callable[..., Config]


@pytest.fixture
def config(synth_config: Configs) -> Config:
    return synth_config()


@pytest.fixture
def settings(config: Config, tmp_path: Path) -> str:
    path = tmp_path / "settings.toml"
    path.write_text(dump_config(config), encoding="utf-8")
    return str(path)


def samples_of(path: Path) -> list[tuple[bytes, str, tuple[int, int] | None]]:
    """Images, labels and recorded sizes of a set."""
    store = open_source(str(path / "labels.tsv" if (path / "labels.tsv").exists() else path))
    try:
        return [(store.image_bytes(i), store.label(i), store.stored_size(i)) for i in range(len(store))]
    finally:
        store.close()


def labels_of(config: Config, numbers: np.ndarray) -> list[str]:
    words = Renderer(config).writer.write(numbers)
    rows = zip(words.targets.tolist(), words.lengths.tolist(), strict=True)
    return [config.charset.charset().decode(target[:length]) for target, length in rows]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# ---- what is written


@pytest.mark.parametrize("to", ["lmdb", "list"])
@pytest.mark.parametrize("shape", ["natural", "network"])
def test_a_set_is_read_back(config: Config, tmp_path: Path, to: Any, shape: Any) -> None:
    done: list[int] = []
    said: list[str] = []
    path = tmp_path / "set"
    assert write_samples(config, path, 70, first=3, to=to, shape=shape, progress=done.append, say=said.append) == 70
    assert sum(done) == 70
    assert said[0] == "rendered text: 6 fonts of 4 families"
    found = samples_of(path)
    assert [label for _, label, _ in found] == labels_of(config, np.arange(3, 73))
    widths = set()
    for data, _, size in found:
        image = opened(data)
        assert (image.format, image.mode, image.height) == ("PNG", "L", 32)
        assert size == (image.size if to == "lmdb" else None)
        assert 8 <= image.width <= 640
        widths.add(image.width)
    assert (widths == {64}) if shape == "network" else (len(widths) > 20)


@pytest.mark.parametrize("channels", [1, 3])
def test_in_the_shape_of_the_network_a_set_is_what_the_network_sees(
    synth_config: Configs, tmp_path: Path, channels: int
) -> None:
    config = synth_config(image={"image_channels": channels})
    write_samples(config, tmp_path / "set", 66, shape="network")
    images, _, _ = Renderer(config).samples(np.arange(66))
    expected = to_bytes(images).permute(0, 2, 3, 1).numpy()
    for (data, _, _), pixels in zip(samples_of(tmp_path / "set"), expected, strict=True):
        assert (np.asarray(opened(data)).reshape(32, 64, channels) == pixels).all()


def test_natural_images_have_the_proportions_of_their_crops(config: Config, tmp_path: Path) -> None:
    write_samples(config, tmp_path / "set", 40)
    _, _, scene = Renderer(config, width=160).samples(np.arange(40))
    for (data, _, _), (high, wide) in zip(samples_of(tmp_path / "set"), scene.geometry.crop, strict=True):
        assert opened(data).width == pytest.approx(32 * wide / high, abs=0.51)


def test_images_may_be_jpeg(config: Config, tmp_path: Path) -> None:
    write_samples(config, tmp_path / "png", 5, shape="network")
    write_samples(config, tmp_path / "jpeg", 5, shape="network", encoding="jpeg", to="list")
    for (lossless, _, _), (lossy, _, _) in zip(
        samples_of(tmp_path / "png"), samples_of(tmp_path / "jpeg"), strict=True
    ):
        assert opened(lossy).format == "JPEG"
        difference = np.asarray(opened(lossless)).astype(int) - np.asarray(opened(lossy))
        assert 0 < np.abs(difference).max() < 60
    assert sorted(path.name for path in (tmp_path / "jpeg" / "images" / "000000").iterdir())[0] == "000000001.jpg"


def test_a_sample_is_the_same_in_any_set(config: Config, tmp_path: Path) -> None:
    write_samples(config, tmp_path / "one", 100)
    write_samples(config, tmp_path / "other", 30, first=50)
    assert samples_of(tmp_path / "one")[50:80] == samples_of(tmp_path / "other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_set_does_not_depend_on_workers(synth_config: Configs, tmp_path: Path) -> None:
    for workers in (0, 1, 2):
        write_samples(synth_config(data={"workers": workers}), tmp_path / str(workers), 150)
    assert samples_of(tmp_path / "0") == samples_of(tmp_path / "1") == samples_of(tmp_path / "2")


def test_training_reads_it(synth_config: Configs, tmp_path: Path) -> None:
    from crnn.training.batches import open_batches

    write_samples(synth_config(), tmp_path / "set", 40)
    batch = next(open_batches(synth_config(tmp_path / "set")).iterate(0, 1))
    assert len(batch) == 8
    assert batch.skipped == ()


# ---- where images keep their proportions


@pytest.fixture
def keep_ratio(synth_config: Configs) -> Config:
    return synth_config(
        image={"resize": "keep_ratio", "max_width": 200}, charset={"characters": "95", "max_text_length": 40}
    )


@pytest.mark.parametrize("shape", ["natural", "network"])
def test_samples_of_many_widths_are_in_the_order_of_their_numbers(
    keep_ratio: Config, tmp_path: Path, shape: Any
) -> None:
    write_samples(keep_ratio, tmp_path / "set", 70, first=3, shape=shape)
    renderer = Renderer(keep_ratio)
    charset = keep_ratio.charset.charset()
    kinds = set()
    for number, (data, label, _) in enumerate(samples_of(tmp_path / "set"), start=3):
        # Alone, a sample is what it is among others.
        own = renderer.numbers(np.array([number]))
        images, words, scene = renderer.samples(own)
        assert label == charset.decode(words.targets[0, : words.lengths[0]].tolist())
        kind = renderer.classes[int(own[0]) >> CLASS_BITS]
        kinds.add(kind)
        image = opened(data)
        if shape == "network":
            assert image.width == kind.middle
            assert (np.asarray(image) == to_bytes(images)[0, 0].numpy()).all()
        else:
            high, wide = scene.geometry.crop[0]
            assert image.width == pytest.approx(32 * wide / high, abs=0.51)
    assert len(kinds) > 6


def test_any_part_of_a_set_of_many_widths_is_the_same(keep_ratio: Config, tmp_path: Path) -> None:
    write_samples(keep_ratio, tmp_path / "one", 70)
    write_samples(keep_ratio, tmp_path / "other", 20, first=50)
    assert samples_of(tmp_path / "one")[50:] == samples_of(tmp_path / "other")


def test_training_reads_natural_images_of_their_labels(keep_ratio: Config, tmp_path: Path) -> None:
    """Each is wide enough for its label; spaces are kept."""
    from crnn.training.batches import open_batches

    write_samples(keep_ratio, tmp_path / "set", 150)
    assert sum(" " in label for _, label, _ in samples_of(tmp_path / "set")) > 30
    config = keep_ratio.model_copy(
        update={"data": keep_ratio.data.model_copy(update={"train": (str(tmp_path / "set"),)})}
    )
    feed = open_batches(config)
    assert feed.num_samples == 150
    assert all(len(batch) == 8 and not batch.skipped for batch in feed.iterate(0, 3))


# ---- interrupted


@pytest.mark.parametrize("to", ["lmdb", "list"])
@pytest.mark.parametrize("stop", [0, 64, 130])
def test_an_interrupted_set_goes_on_where_it_ended(synth_config: Configs, tmp_path: Path, to: Any, stop: int) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    seen = 0

    def stopping(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= stop:
            raise Stopped

    config = synth_config()
    with pytest.raises(Stopped):
        write_samples(config, tmp_path / "set", 200, to=to, progress=stopping)
    assert not (tmp_path / "set").exists()
    # The number of workers is nobody's business but the machine's.
    done: list[int] = []
    other = synth_config(data={"workers": 1}, train={"batch_size": 3})
    assert write_samples(other, tmp_path / "set", 200, to=to, progress=done.append) == 200
    assert sum(done) == 200
    assert done[0] == min(-(-stop // 64) * 64, 192)
    write_samples(config, tmp_path / "never", 200, to=to)
    assert samples_of(tmp_path / "set") == samples_of(tmp_path / "never")
    assert not list(tmp_path.glob("set.*"))


@pytest.mark.parametrize(
    "change",
    [
        {"count": 150}, {"first": 1}, {"shape": "network"}, {"encoding": "jpeg"}, {"train": {"seed": 9}},
        {"style": {"margin": 0.2}}, {"charset": {"characters": "62"}}, {"fonts": {"italics": False}},
        {"camera": {"noise": 1.0}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_settings_do_not_go_on_with_a_set(synth_config: Configs, tmp_path: Path, change: dict[str, Any]) -> None:
    def stopping(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"count": 200, "to": "list"}
    with pytest.raises(KeyboardInterrupt):
        write_samples(synth_config(), tmp_path / "set", progress=stopping, **arguments)
    options = {key: value for key, value in change.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in change.items() if isinstance(value, dict)}
    with pytest.raises(DataError, match=r"set: a set with other settings was begun there; .* Remove .*set\.partial"):
        write_samples(synth_config(**sections), tmp_path / "set", **{**arguments, **options})
    assert write_samples(synth_config(), tmp_path / "set", **arguments) == 200


# ---- the command


@pytest.mark.parametrize("to", ["lmdb", "list"])
def test_the_command_writes_a_set(settings: str, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "missing" / "folder" / "set"
    flags = ["--to", to, "--shape", "network", "--format=jpeg", "--first", "2", "--count", "3"]
    assert main(["synth", "write", str(path), settings, *flags]) == 0
    output = capsys.readouterr()
    assert output.out == f"{path}: 3 samples written\n"
    assert "crnn synth: rendered text: 6 fonts of 4 families" in output.err
    assert len(samples_of(path)) == 3
    assert main(["synth", "write", str(path), settings, *flags]) == 2
    assert "exists already; expected a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "DST"),
        (["set"], "'--count'"),
        (["set", "--count", "0"], "--count is 0; expected 1 to 1000000000"),
        (["set", "--count", "1.5"], "'--count'"),
        (["set", "--count", str(10**10)], "--count is 10000000000; expected 1 to 1000000000"),
        (["set", "--count", "3", "--first", str(10**13)], "--first is 10000000000000; expected 0 to 1000000000000"),
        (["set", "--count", "3", "--to", "folder"], "'folder' is not one of 'lmdb', 'list'"),
        (["set", "--count", "3", "--shape", "square"], "'square' is not one of"),
        (["set", "--count", "3", "--format", "gif"], "'gif' is not one of"),
        (["set", "--count", "3", "--explain"], "unknown key 'explain'"),
        (["set", "nonsense", "--count", "3"], "config 'nonsense' is neither a file nor a preset"),
        (["full", "--count", "3", "--fonts.families", "Nobody"], "full: exists already"),  # before fonts are looked for
        (["set", "--count", "3", "--fonts.families", "Nobody"], "fonts.families ['Nobody']"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["synth", "write", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.splitlines()[-1]
    assert last.startswith("crnn synth: ")
    assert said in last
    assert "Traceback" not in output.err
    assert not (tmp_path / "set").exists()
