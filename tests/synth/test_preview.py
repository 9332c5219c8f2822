"""``crnn synth preview``: sheets of samples and of how they come about, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn.cli import main
from crnn.config.run import Config, dump_config
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.samples import explain_sheet, preview_sheet

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]

LABEL_HEIGHT, CELL = 26, (136, 90)
"""Of the sheets for images of 64 x 32: twice as large, with a line of text below."""


@pytest.fixture
def config(synth_config: Configs) -> Config:
    return synth_config()


@pytest.fixture
def settings(config: Config, tmp_path: Path) -> str:
    path = tmp_path / "settings.toml"
    path.write_text(dump_config(config), encoding="utf-8")
    return str(path)


def mask(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    """The image of a cell, without its caption and margins."""
    left, top = column * CELL[0] + 4, row * CELL[1] + 4
    return np.asarray(sheet.convert("L").crop((left, top, left + 128, top + 64)))


def doubled(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((128, 64)))


# ---- sheets


def test_a_sheet_shows_the_samples_and_their_labels(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    from crnn.synth import samples as preview

    draw = preview.contact_sheet

    def noted(images: list[np.ndarray], texts: list[str], **options: object) -> np.ndarray:
        captions.extend(texts)
        return draw(images, texts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(preview, "contact_sheet", noted)
    sheet = preview_sheet(config, 70, first=5)
    assert sheet.size == (8 * CELL[0], 9 * CELL[1])
    with np.errstate(all="raise"):
        images, words, _ = Renderer(config).samples(np.arange(5, 75))
    expected = to_bytes(images)[:, 0].numpy()
    for number in (0, 7, 8, 63, 64, 69):
        assert (mask(sheet, *divmod(number, 8)) == doubled(expected[number])).all(), number
    assert len(captions) == 70
    charset = config.charset.charset()
    for caption, text, target, length in zip(captions, words.texts, words.targets, words.lengths, strict=True):
        label = charset.decode(target[:length].tolist())
        assert caption == (label if label == text else f"{label}   ({text})")
    assert any("(" in caption for caption in captions)


def test_few_samples_make_a_narrow_sheet(config: Config) -> None:
    assert preview_sheet(config, 1).size == CELL
    assert preview_sheet(config, 3).size == (3 * CELL[0], CELL[1])
    assert preview_sheet(config, 9).size == (8 * CELL[0], 2 * CELL[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_explanation_shows_each_stage(synth_config: Configs, channels: int) -> None:
    config = synth_config(image={"image_channels": channels})
    sheet = explain_sheet(config, 3, first=40)
    # The word, six stages, the camera.
    assert sheet.size == (8 * CELL[0], 3 * CELL[1])
    images, _, _ = Renderer(config).samples(np.arange(40, 43))
    for row in range(3):
        finished = to_bytes(images)[row].permute(1, 2, 0).numpy()
        grey = np.asarray(
            Image.fromarray(finished[:, :, 0] if channels == 1 else finished).resize((128, 64)).convert("L")
        )
        assert (mask(sheet, row, 7) == grey).all()
        # A mask is black and white, a background has no letters on it yet.
        assert np.ptp(mask(sheet, row, 1).astype(int)) > 150
        assert (mask(sheet, row, 5) != mask(sheet, row, 2)).any()


def test_what_was_left_out_is_said(config: Config) -> None:
    said: list[str] = []
    preview_sheet(config, 1, say=said.append)
    explain_sheet(config, 1, say=said.append)
    assert said[0] == "rendered text: 6 fonts of 4 families"
    assert said[: len(said) // 2] == said[len(said) // 2 :]


# ---- where images keep their proportions


@pytest.fixture
def keep_ratio(synth_config: Configs) -> Config:
    return synth_config(
        image={"resize": "keep_ratio", "max_width": 200}, charset={"characters": "95", "max_text_length": 40}
    )


def test_images_of_many_widths_are_packed_in_order(keep_ratio: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from crnn.synth import samples as preview

    shown: list[np.ndarray] = []
    captions: list[str] = []
    draw = preview.packed_sheet

    def noted(images: list[np.ndarray], texts: list[str], **options: object) -> np.ndarray:
        shown.extend(images)
        captions.extend(texts)
        return draw(images, texts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(preview, "packed_sheet", noted)
    sheet = preview_sheet(keep_ratio, 70, first=5)
    assert sheet.width == 1600
    assert sheet.height < 12 * 90, "rows are full"
    renderer = Renderer(keep_ratio)
    for place in (0, 1, 30, 63, 64, 69):
        images, words, _ = renderer.samples(renderer.numbers(np.array([5 + place])))
        assert (shown[place] == to_bytes(images)[0].permute(1, 2, 0).numpy()).all()
        label = keep_ratio.charset.charset().decode(words.targets[0, : words.lengths[0]].tolist())
        assert captions[place].startswith(label)
    assert len({image.shape[1] for image in shown}) > 6


def test_an_explanation_has_rows_of_its_own_for_each_sample(keep_ratio: Config) -> None:
    one, three = explain_sheet(keep_ratio, 1, first=40), explain_sheet(keep_ratio, 3, first=40)
    assert one.width == three.width == 1600
    assert (np.asarray(three)[: one.height] == np.asarray(one)).all()


# ---- the command


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "OUT.JPEG", "out.webp"])
def test_a_sheet_is_written(settings: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    assert main(["synth", "preview", str(path), settings, "--count", "3"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{path}\n"
    assert "crnn synth: rendered text: 6 fonts of 4 families" in output.err
    with Image.open(path) as sheet:
        assert sheet.size == (3 * CELL[0], CELL[1])


def test_flags_stand_anywhere_and_settings_are_those_of_training(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.png"
    assert main(["synth", "preview", "--explain", str(path), settings, "--count=2", "--image.image_width", "80"]) == 0
    with Image.open(path) as sheet:
        assert sheet.size == (8 * 168, 2 * 90)
    assert main(["synth", "preview", str(path), settings, "--first", "7", "--count", "1"]) == 0
    first = path.read_bytes()
    assert main(["synth", "preview", str(path), settings, "--first", "8", "--count", "1"]) == 0
    assert path.read_bytes() != first
    assert main(["synth", "preview", str(path), settings, "--first", "7", "--count", "1", "--train.seed", "9"]) == 0
    assert path.read_bytes() != first
    assert main(["synth", "preview", str(path), settings, "--first", "7", "--count", "1"]) == 0
    assert path.read_bytes() == first
    capsys.readouterr()


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
        (["--count", "3"], "--count"),
        (["preview"], "OUT.png"),
        (["preview", "--count", "3"], "OUT.png"),
        (["preview", "out.txt"], "out.txt: expected an image file to write, such as preview.png"),
        (
            ["preview", "missing/out.png"],
            "OUT missing/out.png: there is no such folder to write it in; expected a file in",
        ),
        (["preview", "folder.png"], "OUT folder.png: is a folder; expected a file in a folder that exists"),
        (["preview", "out.png", "--count"], "'--count'"),
        (["preview", "out.png", "--count", "many"], "'--count'"),
        (["preview", "out.png", "--count", "-3"], "--count is -3; expected 1 to 4000"),
        (["preview", "out.png", "--count", "0"], "--count is 0; expected 1 to 4000"),
        (["preview", "out.png", "--count", "4001"], "--count is 4001; expected 1 to 4000"),
        (["preview", "out.png", "--first", str(10**20)], f"--first is {10**20}; expected 0 to 1000000000000"),
        (["preview", "out.png", "--explain=yes"], "'--explain'"),
        (["preview", "out.png", "nonsense"], "config 'nonsense' is neither a file nor a preset"),
        (["preview", "out.png", "tiny", "more"], "more"),
        (["preview", "out.png", "--to", "list"], "unknown key 'to'"),
        (["preview", "out.png", "--style.arc_shar", "1"], "style.arc_shar"),
        (["preview", "out.png", "--style.arc_share", "2"], "style.arc_share is 2"),
        (["preview", "out.png", "--fonts.folders", "nowhere"], "fonts.folders: 'nowhere' does not exist"),
        (["preview", "out.png", "--corpus.words", "nowhere"], "word list nowhere: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    assert main(["synth", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("crnn synth: ")
    assert said in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_a_sheet_that_cannot_be_written_is_said(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.webp"
    for error, why in (
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("too large"), "too large"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Image.Image, "save", fail)
        assert main(["synth", "preview", str(path), settings, "--count", "1"]) == 2
        assert capsys.readouterr().err.endswith(
            f"crnn synth: {path}: cannot be written: {why}. Choose another file, or fewer samples\n"
        )


def test_rendering_needs_torch(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for arguments in (["preview", str(tmp_path / "out.png")], ["write", str(tmp_path / "set"), "--count", "1"]):
        assert main(["synth", *arguments, settings]) == 2
        error = capsys.readouterr().err
        assert "rendering text needs the package 'torch'. Install it with: pip install 'crnn[train]'" in error
        assert error.count("\n") == 1
