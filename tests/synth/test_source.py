"""Rendered text as batches: the same whatever the workers, ranks and where it begins; labels say what was drawn."""

from __future__ import annotations

import ast
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crnn.config.run import Config
from crnn.data.dataset import Batch
from crnn.errors import ConfigError, DataError, TrainingError
from crnn.synth.batches import SynthBatches
from crnn.synth.fonts import system_folders
from crnn.synth.rasterizer import Words
from crnn.synth.renderer import Renderer

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Configs = Callable[..., Config]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture(autouse=True)
def one_thread_and_no_worker_left(one_thread: None) -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def same(one: Batch, other: Batch) -> bool:
    names = ("images", "widths", "targets", "target_lengths")
    return one.keys == other.keys and all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def all_same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(same(a, b) for a, b in zip(some, others, strict=True))


def joined(batches: list[Batch]) -> Batch:
    longest = max(batch.targets.shape[1] for batch in batches)
    pad = torch.nn.functional.pad
    return Batch(
        torch.cat([b.images for b in batches]),
        torch.cat([b.widths for b in batches]),
        torch.cat([pad(b.targets, (0, longest - b.targets.shape[1])) for b in batches]),
        torch.cat([b.target_lengths for b in batches]),
        sum((b.keys for b in batches), ()),
    )


def drawn_texts(batch: Batch) -> list[str]:
    """What was drawn, as the keys say it."""
    return [ast.literal_eval(key.split(": ", 1)[1]) for key in batch.keys]


def labels_of(batch: Batch, config: Config) -> list[str]:
    charset = config.charset.charset()
    rows = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
    return [charset.decode(target[:length]) for target, length in rows]


# ---- what a batch is


@pytest.mark.parametrize(("channels", "width"), [(1, 64), (3, 100), (1, 30)])
def test_a_batch_is_like_any_other(synth_config: Configs, channels: int, width: int) -> None:
    config = synth_config(image={"image_channels": channels, "image_width": width})
    batch = SynthBatches(config)[3]
    assert batch.images.shape == (8, channels, 32, width)
    assert batch.images.dtype == torch.uint8
    assert batch.widths.tolist() == [width] * 8
    assert (batch.targets.dtype, batch.target_lengths.dtype) == (torch.int64, torch.int64)
    assert batch.targets.shape == (8, int(batch.target_lengths.max()))
    assert batch.target_lengths.min() >= 1
    behind = torch.arange(batch.targets.shape[1]) >= batch.target_lengths[:, None]
    assert (batch.targets[behind] == 0).all()
    assert [key.split(":")[0] for key in batch.keys] == [f"rendered {number}" for number in range(24, 32)]
    assert batch.skipped == ()
    assert batch.images.flatten(1).float().std(dim=1).min() > 2.0


def test_an_epoch_is_what_the_settings_say(synth_config: Configs) -> None:
    config = synth_config(synth={"epoch_samples": 1000})
    assert (SynthBatches(config).epoch_batches, SynthBatches(config).num_samples) == (125, 1000)
    assert SynthBatches(config, rank=1, world_size=4).epoch_batches == 31
    assert SynthBatches(synth_config(synth={"epoch_samples": 1})).epoch_batches == 1


def test_batches_and_seeds_differ(synth_config: Configs) -> None:
    source = SynthBatches(synth_config())
    images = [source[number].images for number in range(4)]
    images.append(SynthBatches(synth_config(train={"seed": 2}))[0].images)
    assert len({image.numpy().tobytes() for batch in images for image in batch}) == 40


def test_a_word_that_is_used_again_looks_otherwise(synth_config: Configs) -> None:
    source = SynthBatches(synth_config(synth={"pool_size": 64, "reuse": 8.0}))
    batches = list(source.iterate(0, 30))
    texts = [text for batch in batches for text in drawn_texts(batch)]
    assert len({image.numpy().tobytes() for batch in batches for image in batch.images}) == 240
    assert len(set(texts)) < 120


# ---- the same batches


def test_batches_do_not_depend_on_where_one_begins(synth_config: Configs) -> None:
    config = synth_config(synth={"pool_size": 64})  # small: words are forgotten and drawn again
    whole = list(SynthBatches(config).iterate(0, 14))
    assert len({key for batch in whole for key in batch.keys}) == 14 * 8
    for first in (1, 6, 13):
        assert all_same(list(SynthBatches(config).iterate(first, 14)), whole[first:])
    source = SynthBatches(config)
    for number in (9, 2, 13, 2):
        assert same(source[number], whole[number])
    # One source, used again and again, from behind and from before.
    for first in (10, 3):
        assert all_same(list(source.iterate(first, 14)), whole[first:])
    assert list(source.iterate(5, 5)) == []


@forks
@pytest.mark.parametrize(("workers", "start"), [(1, "fork"), (2, "fork"), (3, "fork"), (1, "spawn")])
def test_batches_do_not_depend_on_workers(synth_config: Configs, workers: int, start: str) -> None:
    config = synth_config(synth={"pool_size": 64})
    expected = list(SynthBatches(config).iterate(2, 12))
    changed = synth_config(synth={"pool_size": 64}, data={"workers": workers, "worker_start": start})
    assert all_same(list(SynthBatches(changed).iterate(2, 12)), expected)


@pytest.mark.parametrize("global_size", [8, 12])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_out_what_one_would_have(synth_config: Configs, world_size: int, global_size: int) -> None:
    whole = list(SynthBatches(synth_config(train={"batch_size": global_size})).iterate(0, 8))
    config = synth_config(train={"batch_size": global_size // world_size})
    parts = [list(SynthBatches(config, rank, world_size).iterate(0, 8)) for rank in range(world_size)]
    assert all_same([joined(list(some)) for some in zip(*parts, strict=True)], whole)


def test_images_do_not_depend_on_how_many_are_made_at_a_time(
    synth_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = synth_config(train={"batch_size": 20})
    expected = SynthBatches(config)[1]
    for rows in (1, 7, 64):
        monkeypatch.setattr("crnn.synth.batches._CPU_ROWS", rows)
        assert same(SynthBatches(config)[1], expected)


def test_files_may_lie_elsewhere(synth_config: Configs, tmp_path: Path) -> None:
    """Fonts and words decide, not their folders."""
    import shutil

    from crnn.synth.font_check import shipped_folder

    for name in ("pacifico", "open-sans", "anton", "bangers"):
        shutil.copytree(shipped_folder() / name, tmp_path / "faces" / name)
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "some_words.txt", tmp_path / "other" / "list.txt")
    other = synth_config(
        fonts={"folders": [str(tmp_path / "faces")]}, corpus={"words": [str(tmp_path / "other" / "list.txt")]}
    )
    one, two = SynthBatches(synth_config()), SynthBatches(other)
    assert same(one[5], two[5])
    assert one.digest == two.digest
    fewer = SynthBatches(synth_config(fonts={"exclude": ["Open Sans"]}))
    assert fewer.digest != one.digest


# ---- labels


def face_folder_with(characters: str) -> str:
    """A font file of the system that has these characters; there need not be any."""
    from PIL import ImageFont

    for folder in system_folders():
        for path in sorted(folder.rglob("*.ttf")):
            if path.name in ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "arial.ttf"):
                font = ImageFont.truetype(str(path), 24)
                boxes = {bytes(font.getmask(c)) for c in characters}
                if len(boxes) > 0.9 * len(set(characters)):
                    return str(path)
    pytest.skip(f"no font of this system has {characters!r}")


CHARSETS: dict[str, tuple[str, dict[str, Any]]] = {
    "36": ("36", {}),
    "62": ("62", {"max_text_length": 9}),
    "94": ("94", {}),
    "capitals": ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", {}),
    "digits": ("0123456789", {}),
    "with a space": (" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,-", {}),
    "umlauts": ("abcdefghijklmnopqrstuvwxyzäöüß", {}),
}


@pytest.mark.parametrize("name", CHARSETS)
def test_labels_are_what_was_drawn_under_the_rules(synth_config: Configs, name: str) -> None:
    characters, rules = CHARSETS[name]
    words = {"corpus": {"words": ["shipped"]}} if name == "digits" else {}  # there are none of digits alone
    config = synth_config(charset={"characters": characters, **rules}, train={"batch_size": 100}, **words)
    source, charset = SynthBatches(config), config.charset.charset()
    batch = source[0]
    labels, texts = labels_of(batch, config), drawn_texts(batch)
    assert all(labels)
    for label, text in zip(labels, texts, strict=True):
        assert label == config.charset.rules().apply(text, charset), text
    assert max(map(len, labels)) <= min(config.charset.max_text_length, 15)
    assert sum(label != text for label, text in zip(labels, texts, strict=True)) > (0 if name != "94" else -1)
    if " " in characters:
        assert any(" " in label for label in labels)
    if name in ("36", "62"):
        assert any(not text.isalnum() for text in texts)
        assert all(label.isalnum() for label in labels)
    if name == "94":
        assert any(not label.isalnum() for label in labels)


def test_another_script(synth_config: Configs, tmp_path: Path) -> None:
    letters = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
    font = face_folder_with(letters)
    (tmp_path / "russian.txt").write_text("хлеб\nмолоко\nулица\nвыход\nаптека\nключ\n", encoding="utf-8")
    config = synth_config(
        charset={"characters": letters},
        corpus={"words": [str(tmp_path / "russian.txt")]},
        fonts={"folders": [font], "min_readable": 0.0},
        train={"batch_size": 50},
    )
    source = SynthBatches(config)
    batch = source[0]
    texts = drawn_texts(batch)
    assert any("хлеб" in text.lower() for text in texts)
    for label, text in zip(labels_of(batch, config), texts, strict=True):
        assert set(label) <= set(letters)
        assert label == config.charset.rules().apply(text, config.charset.charset())


def test_where_both_cases_count_no_small_letter_is_drawn_as_a_capital(synth_config: Configs) -> None:
    style = {"small_caps_share": 1.0, "texture_tiles": 4}
    both, lower = (
        Renderer(synth_config(charset={"characters": characters}, style=style)) for characters in ("62", "36")
    )
    plain = Renderer(synth_config(charset={"characters": "62"}, style={**style, "small_caps_share": 0.0}))
    numbers = np.arange(60)
    assert (both.writer.write(numbers).masks == plain.writer.write(numbers).masks).all()
    assert {font.family for font in plain.fonts.fonts if font.one_case and set("abc") & font.characters} == set()
    capitals = Renderer(synth_config(style={**style, "small_caps_share": 0.0})).writer.write(numbers)
    assert (lower.writer.write(numbers).masks != capitals.masks).any(axis=(1, 2)).sum() > 20


# ---- what is refused, and what is said


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"fonts": {"folders": ["nowhere"]}}, "fonts.folders: 'nowhere' does not exist"),
        ({"fonts": {"families": ["No Such*"]}}, r"leave none of the 4 families in .* expected names of some"),
        ({"corpus": {"words": ["nowhere.txt"]}}, "word list nowhere.txt: No such file"),
        ({"style": {"backgrounds": ["nowhere"]}}, "style.backgrounds: .*nowhere"),
        ({"charset": {"characters": "漢字"}}, "漢字|font files|word"),
    ],
)
def test_settings_that_leave_nothing_are_refused_in_one_line(
    synth_config: Configs, sections: dict[str, Any], said: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=said) as caught:
        SynthBatches(synth_config(**sections))[0]
    assert "\n" not in str(caught.value)


def test_what_it_is_made_of_is_said(synth_config: Configs) -> None:
    fonts, words = SynthBatches(synth_config()).remarks()
    assert fonts == "rendered text: 6 fonts of 4 families"
    assert "no list has a word with dfgvw" in words
    config = synth_config(
        charset={"characters": "abcdefghijklmnopqrstuvwxyz", "unknown": "drop_sample"},
        fonts={"italics": False, "exclude": ["anton"]},
    )
    fonts, *words = SynthBatches(config).remarks()
    assert fonts == "rendered text: 4 fonts of 3 families; left out 1 other_style, 1 excluded"
    assert any("some_words.txt" in line for line in words)


class Dying:
    """A writer whose process dies at the first words that it is to draw."""

    def write(self, _: np.ndarray) -> Words:
        os._exit(1)


class Failing:
    """A writer that finds nothing to draw."""

    def write(self, _: np.ndarray) -> Words:
        raise DataError("none of 50 texts in a row could be drawn")


@forks
def test_a_dead_worker_is_said(synth_config: Configs) -> None:
    source = SynthBatches(synth_config(data={"workers": 1}))
    source._renderer.writer = Dying()  # type: ignore[assignment]
    with pytest.raises(TrainingError, match=r"a data worker died .*Continue with --resume"):
        next(source.iterate(0, 3))


@forks
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_out_of_workers_as_they_were_raised(synth_config: Configs, workers: int) -> None:
    source = SynthBatches(synth_config(data={"workers": workers}))
    source._renderer.writer = Failing()  # type: ignore[assignment]
    with pytest.raises(DataError) as caught:
        next(source.iterate(0, 3))
    assert str(caught.value) == "none of 50 texts in a row could be drawn"


def test_texts_that_cannot_be_drawn_are_counted(synth_config: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    from crnn.synth import rasterizer as words

    draw, calls = words.render_mask, 0

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return None if calls % 3 == 0 else draw(*arguments)

    monkeypatch.setattr(words, "render_mask", sometimes)
    source = SynthBatches(synth_config())
    list(source.iterate(0, 2))
    source[40]
    assert source.skipped["no_ink"] == calls // 3
    monkeypatch.setattr(words, "render_mask", lambda *_: None)
    with pytest.raises(
        DataError, match=r"none of 50 texts in a row could be drawn, the last '.*'\. *|: no single font"
    ):
        source[80]
