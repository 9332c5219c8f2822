"""``crnn synth``: sets that other tools and ``crnn train`` read, the same however written, and sheets to look at."""

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
from crnn.synth import renderer as renderer_module
from crnn.synth import samples
from crnn.synth.camera import apply_camera
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.samples import explain_sheet, preview_sheet, write_samples
from crnn.synth.words import CLASS_BITS
from crnn.training.batches import BatchFeed

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

Configs = Callable[..., Config]

CELL = (136, 90)  # Of a sheet for images of 64 x 32: twice as large, with a line of text below


@pytest.fixture
def config(synth_config: Configs) -> Config:
    return synth_config()


@pytest.fixture
def keep_ratio(synth_config: Configs) -> Config:
    return synth_config(
        image={"resize": "keep_ratio", "max_width": 200}, charset={"characters": "95", "max_text_length": 40}
    )


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


def labels_of(renderer: Renderer, numbers: np.ndarray) -> list[str]:
    words = renderer.writer.write(numbers)
    rows = zip(words.targets.tolist(), words.lengths.tolist(), strict=True)
    return [renderer.writer.charset.decode(target[:length]) for target, length in rows]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# ---- sets


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
    assert [label for _, label, _ in found] == labels_of(Renderer(config), np.arange(3, 73))
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


def test_images_may_be_jpeg(config: Config, tmp_path: Path) -> None:
    write_samples(config, tmp_path / "png", 5, shape="network")
    write_samples(config, tmp_path / "jpeg", 5, shape="network", encoding="jpeg", to="list")
    assert {opened(data).format for data, *_ in samples_of(tmp_path / "jpeg")} == {"JPEG"}
    lossless, lossy = (
        np.array([opened(data) for data, *_ in samples_of(tmp_path / name)], dtype=int) for name in ("png", "jpeg")
    )
    assert 0 < np.abs(lossless - lossy).max() < 60
    assert sorted(path.name for path in (tmp_path / "jpeg" / "images" / "000000").iterdir())[0] == "000000001.jpg"


def test_a_sample_is_the_same_in_any_set(config: Config, tmp_path: Path) -> None:
    write_samples(config, tmp_path / "one", 80)
    write_samples(config, tmp_path / "other", 30, first=50)
    assert samples_of(tmp_path / "one")[50:80] == samples_of(tmp_path / "other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_set_does_not_depend_on_workers(synth_config: Configs, tmp_path: Path) -> None:
    for workers in (0, 2):
        write_samples(synth_config(data={"workers": workers}), tmp_path / str(workers), 150)
    assert samples_of(tmp_path / "0") == samples_of(tmp_path / "2")


@pytest.mark.parametrize("name", ["config", "keep_ratio"])
def test_training_reads_it(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """Each image is wide enough for its label; spaces are kept."""
    config = request.getfixturevalue(name)
    write_samples(config, tmp_path / "set", 100)
    if name == "keep_ratio":
        assert sum(" " in label for _, label, _ in samples_of(tmp_path / "set")) > 20
    data = config.data.model_copy(update={"train": (str(tmp_path / "set"),)})
    feed = BatchFeed(config.model_copy(update={"data": data}))
    assert feed.num_samples == 100
    assert all(len(batch) == 8 and not batch.skipped for batch in feed.iterate(0, 3))


@pytest.mark.parametrize("shape", ["natural", "network"])
def test_samples_of_many_widths_are_in_the_order_of_their_numbers(
    keep_ratio: Config, tmp_path: Path, shape: Any
) -> None:
    write_samples(keep_ratio, tmp_path / "set", 70, first=3, shape=shape)
    renderer = Renderer(keep_ratio)
    kinds = set()
    for number, (data, label, _) in enumerate(samples_of(tmp_path / "set"), start=3):
        # Alone, a sample is what it is among others.
        own = renderer.numbers(np.array([number]))
        images, _, scene = renderer.samples(own)
        assert [label] == labels_of(renderer, own)
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


def test_text_in_a_loose_crop_has_as_many_pixels_as_in_a_tight_one(
    synth_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights = {}
    for loose in (0.0, 2.0):
        config = synth_config(style={"loose_share": 1.0, "loose": loose, "neighbor_share": 0.0})
        native: list[np.ndarray] = []

        def noted(images: Any, random: Any, settings: Any, size: np.ndarray, found: Any = native) -> Any:
            found.append(size[:, 0])
            return apply_camera(images, random, settings, size)

        monkeypatch.setattr(renderer_module, "apply_camera", noted)
        _, _, scene = Renderer(config).samples(np.arange(200))
        heights[loose] = np.concatenate(native) / scene.geometry.crop[:, 0]
        assert heights[loose].min() >= 11.0
    assert (heights[2.0] < 11.01).sum() > 20  # which needed the limit


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
        {"style": {"margin": 0.2}}, {"fonts": {"italics": False}}, {"camera": {"noise": 1.0}},
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
    with pytest.raises(DataError, match=r"set\.partial: was begun with other settings"):
        write_samples(synth_config(**sections), tmp_path / "set", **{**arguments, **options})
    assert write_samples(synth_config(), tmp_path / "set", **arguments) == 200


# ---- sheets


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    """Return the image of a cell, without its caption and margins."""
    left, top = column * CELL[0] + 4, row * CELL[1] + 4
    return np.asarray(sheet.convert("L").crop((left, top, left + 128, top + 64)))


def test_a_sheet_shows_the_samples_and_their_labels(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    draw = samples.contact_sheet

    def noted(images: list[np.ndarray], texts: list[str], **options: Any) -> np.ndarray:
        captions.extend(texts)
        return draw(images, texts, **options)

    monkeypatch.setattr(samples, "contact_sheet", noted)
    said: list[str] = []
    sheet = preview_sheet(config, 70, first=5, say=said.append)
    assert said[0] == "rendered text: 6 fonts of 4 families"
    assert sheet.size == (8 * CELL[0], 9 * CELL[1])
    renderer = Renderer(config)
    images, words, _ = renderer.samples(np.arange(5, 75))
    for number in (0, 7, 8, 63, 64, 69):
        doubled = Image.fromarray(to_bytes(images)[number, 0].numpy()).resize((128, 64))
        assert (cell(sheet, *divmod(number, 8)) == np.asarray(doubled)).all(), number
    labels = labels_of(renderer, np.arange(5, 75))
    assert captions == [
        label if label == text else f"{label}   ({text})" for label, text in zip(labels, words.texts, strict=True)
    ]
    assert any("(" in caption for caption in captions)
    assert preview_sheet(config, 3).size == (3 * CELL[0], CELL[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_explanation_shows_each_stage(synth_config: Configs, channels: int) -> None:
    config = synth_config(image={"image_channels": channels})
    said: list[str] = []
    sheet = explain_sheet(config, 3, first=40, say=said.append)
    assert said[0] == "rendered text: 6 fonts of 4 families"
    assert sheet.size == (8 * CELL[0], 3 * CELL[1])  # the word, six stages, the camera
    images, _, _ = Renderer(config).samples(np.arange(40, 43))
    for row in range(3):
        finished = to_bytes(images)[row].permute(1, 2, 0).numpy()
        doubled = Image.fromarray(finished[:, :, 0] if channels == 1 else finished).resize((128, 64)).convert("L")
        assert (cell(sheet, row, 7) == np.asarray(doubled)).all()
        # A mask is black and white, a background has no letters on it yet.
        assert np.ptp(cell(sheet, row, 1).astype(int)) > 150
        assert (cell(sheet, row, 5) != cell(sheet, row, 2)).any()


def test_images_of_many_widths_are_packed_in_order(keep_ratio: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[np.ndarray] = []
    captions: list[str] = []
    draw = samples.packed_sheet

    def noted(images: list[np.ndarray], texts: list[str], **options: Any) -> np.ndarray:
        shown.extend(images)
        captions.extend(texts)
        return draw(images, texts, **options)

    monkeypatch.setattr(samples, "packed_sheet", noted)
    sheet = preview_sheet(keep_ratio, 70, first=5)
    assert sheet.width == 1600
    assert sheet.height < 12 * 90, "rows are full"
    renderer = Renderer(keep_ratio)
    for place in (0, 1, 30, 63, 64, 69):
        numbers = renderer.numbers(np.array([5 + place]))
        assert (shown[place] == to_bytes(renderer.samples(numbers)[0])[0].permute(1, 2, 0).numpy()).all()
        assert captions[place].startswith(labels_of(renderer, numbers)[0])
    assert len({image.shape[1] for image in shown}) > 6
    one, three = explain_sheet(keep_ratio, 1, first=40), explain_sheet(keep_ratio, 3, first=40)
    assert one.width == three.width == 1600
    assert (np.asarray(three)[: one.height] == np.asarray(one)).all()  # each sample has rows of its own


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


@pytest.mark.parametrize("name", ["out.png", "OUT.JPEG", "out.webp"])
def test_a_sheet_is_written(settings: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    assert main(["synth", "preview", str(path), settings, "--count", "3"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{path}\n"
    assert "crnn synth: rendered text: 6 fonts of 4 families" in output.err
    with Image.open(path) as sheet:
        assert sheet.size == (3 * CELL[0], CELL[1])


def test_flags_stand_anywhere_and_settings_are_those_of_training(settings: str, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    assert main(["synth", "preview", "--explain", str(path), settings, "--count=2", "--image.image_width", "80"]) == 0
    with Image.open(path) as sheet:
        assert sheet.size == (8 * 168, 2 * 90)
    sheets = []
    for flags in (["--first", "7"], ["--first", "8"], ["--first", "7", "--train.seed", "9"], ["--first", "7"]):
        assert main(["synth", "preview", str(path), settings, "--count", "1", *flags]) == 0
        sheets.append(path.read_bytes())
    assert sheets[0] == sheets[3]
    assert len(set(sheets)) == 3


def test_without_settings_there_is_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "out.png", tmp_path / "other.png"
    assert main(["synth", "preview", str(path), "--count", "1", "--style.texture_tiles", "2"]) == 0
    assert main(["synth", "preview", str(other), "crnn-small", "--count", "1", "--style.texture_tiles", "2"]) == 0
    assert path.read_bytes() == other.read_bytes()
    assert "24 fonts of 14 families" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "'nonsense'"),
        (["preview", "out.txt"], "OUT out.txt: expected a name that ends in .png or .jpg or"),
        (["preview", "missing/out.png"], "OUT missing/out.png: there is no such folder to write it in"),
        (["preview", "folder.png"], "OUT folder.png: is a folder; expected a file in a folder that exists"),
        (["preview", "out.png", "--count", "4001"], "'--count': Input should be less than or equal to 4000"),
        (["preview", "out.png", "--first", str(10**20)], f"'--first': Input should be less than or equal to {10**12}"),
        (["preview", "out.png", "nonsense"], "config 'nonsense' is neither a file nor a preset"),
        (["preview", "out.png", "--fonts.folders", "nowhere"], "fonts.folders: 'nowhere' does not exist"),
        (["write", "set"], "'--count'"),
        (["write", "set", "--count", "0"], "'--count': Input should be greater than or equal to 1"),
        (["write", "set", "--count", "3", "--format", "gif"], "'gif' is not one of"),
        # Before fonts are looked for:
        (["write", "folder.png", "--count", "3", "--fonts.families", "Nobody"], "folder.png: exists already"),
        (["write", "set", "--count", "3", "--fonts.families", "Nobody"], "fonts.families ['Nobody']"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "file").touch()
    assert main(["synth", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.splitlines()[-1]
    assert last.startswith("crnn synth: ")
    assert said in last
    assert "Traceback" not in output.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("too large")])
def test_a_sheet_that_cannot_be_written_is_said(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "save", fail)
    path = tmp_path / "out.webp"
    assert main(["synth", "preview", str(path), settings, "--count", "1"]) == 2
    assert f"crnn synth: {path}: cannot be written: {error.args[-1]}. " in capsys.readouterr().err


def test_rendering_needs_torch(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for arguments in (["preview", str(tmp_path / "out.png")], ["write", str(tmp_path / "set"), "--count", "1"]):
        assert main(["synth", *arguments, settings]) == 2
        error = capsys.readouterr().err
        assert "rendering text needs the package 'torch'. Install it with: pip install 'crnn[train]'" in error
        assert error.count("\n") == 1
