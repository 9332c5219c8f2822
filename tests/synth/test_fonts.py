"""Fonts: which are found, which are left out and why, and which is picked."""

import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTCollection, TTFont

from crnn.config.synth import FontConfig
from crnn.errors import ConfigError, DataError
from crnn.synth.font_check import Font, shipped_folder
from crnn.synth.fonts import FontSet, find_fonts

ALNUM = string.ascii_letters + string.digits
OPEN_SANS = shipped_folder() / "open-sans" / "open-sans-latin-400-normal.ttf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "faces"
    place.mkdir()
    return place


def font(family: str, characters: str, *, style: str = "Regular", weight: int = 400) -> Font:
    return Font(
        path=f"{family}-{style}.ttf", index=0, axes=(), family=family, style=style, weight=weight, italic=False,
        one_case=False, cap_height=0.7, characters=frozenset(characters),
    )  # fmt: skip


def remapped(path: Path, drawn_as: dict[str, str]) -> None:
    """Save Open Sans with some characters drawn as others."""
    font = TTFont(OPEN_SANS)
    for table in font["cmap"].tables:
        names = dict(table.cmap)
        table.cmap.update({ord(c): names[ord(d)] for c, d in drawn_as.items() if ord(d) in names})
    font.save(path)


def found(folder: Path | str = "shipped", characters: str = ALNUM, **settings: object) -> FontSet:
    config = FontConfig.model_validate({"folders": (str(folder),), **settings})
    return find_fonts(config, characters, workers=0, quiet=True)


# --- what ships -------------------------------------------------------------------------------------------------------


def test_what_ships_writes_ascii_and_latin_1_and_is_read_as_itself() -> None:
    latin_1 = "".join(chr(code) for code in [*range(0x21, 0x7F), *range(0xC0, 0x100), 0xA3, 0xA9, 0xB0])
    fonts = found(characters=latin_1)
    assert len(fonts.families) == 14
    assert not fonts.skipped
    assert all(font.characters == frozenset(latin_1) for font in fonts.fonts)
    assert {"Open Sans", "Pacifico", "Special Elite"} <= set(fonts.families)
    assert all(0.5 < font.cap_height < 1 for font in fonts.fonts)


def test_every_shipped_family_has_its_licence_and_is_in_the_readme() -> None:
    readme = (shipped_folder() / "README.md").read_text(encoding="utf-8")
    families = found().families
    assert all(f"| {family} |" in readme for family in families)
    folders = [folder for folder in shipped_folder().iterdir() if folder.is_dir()]
    assert len(folders) == len(families)
    for place in folders:
        licence = (place / "LICENSE.txt").read_text(encoding="utf-8")
        assert "SIL OPEN FONT LICENSE" in licence or "Apache License" in licence
        assert "with reserved font name" not in licence.lower()


def test_fonts_are_chosen_by_style_and_family() -> None:
    fonts = found(families=("Open*",)).fonts
    assert [(font.weight, font.italic) for font in fonts] == [(400, False), (400, True), (700, False)]
    only = found(families=("open sans",), italics=False, max_weight=500)
    assert [(font.weight, font.italic) for font in only.fonts] == [(400, False)]
    assert only.skipped["other_style"] == 2
    chosen = found(families=("*o*",), exclude=("roboto*", "OPEN *")).families
    assert all("o" in family.lower() for family in chosen)
    assert not {"Roboto Slab", "Open Sans", "Caveat"} & set(chosen)
    assert "Oswald" in chosen


# --- what is left out -------------------------------------------------------------------------------------------------


def test_broken_files_are_counted_and_the_others_used(folder: Path) -> None:
    whole = OPEN_SANS.read_bytes()
    (folder / "good.ttf").write_bytes(whole)
    (folder / "again.ttf").write_bytes(whole)
    (folder / "text.ttf").write_text("not a font")
    (folder / "empty.otf").touch()
    (folder / "cut.ttf").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not looked at")
    fonts = found(folder)
    assert len(fonts) == 1
    assert fonts.skipped["duplicate"] == 1
    assert fonts.skipped["not_a_font"] == 3
    assert fonts.skipped.total() == 4


def test_no_bytes_of_a_font_end_a_run(folder: Path) -> None:
    rng = np.random.default_rng(5)
    whole = np.frombuffer(OPEN_SANS.read_bytes(), np.uint8)
    for number in range(12):
        damaged = whole.copy()
        places = rng.integers(12, len(damaged), size=40)
        damaged[places] = rng.integers(0, 256, size=40)
        (folder / f"{number}.ttf").write_bytes(damaged.tobytes())
    (folder / "good.ttf").write_bytes(whole.tobytes())
    fonts = find_fonts(FontConfig(folders=(str(folder),)), ALNUM, workers=1, quiet=True)
    assert len(fonts) + fonts.skipped.total() == 13


def test_a_character_that_is_mapped_and_not_drawn_is_not_used(folder: Path) -> None:
    remapped(folder / "holes.ttf", {"I": " "})
    font = TTFont(folder / "holes.ttf")
    font["glyf"]["J"] = font["glyf"][".notdef"]
    font.save(folder / "holes.ttf")
    (only,) = found(folder, ALNUM + " ж").fonts
    assert only.characters == frozenset(ALNUM + " ") - set("IJ")  # empty, and like the box of missing ones


def test_a_face_that_draws_one_box_for_all_is_left_out(folder: Path) -> None:
    remapped(folder / "boxes.ttf", dict.fromkeys(ALNUM, "H"))
    with pytest.raises(DataError, match="1 draws_nothing"):
        found(folder)


def test_a_face_unlike_letters_is_left_out_unless_asked_for(folder: Path) -> None:
    remapped(folder / "shuffled.ttf", {c: ALNUM[(at + 17) % 62] for at, c in enumerate(ALNUM)})
    (folder / "good.ttf").write_bytes((shipped_folder() / "anton" / "anton-latin-400-normal.ttf").read_bytes())
    fonts = found(folder)
    assert fonts.families == ("Anton",)
    assert fonts.skipped == Counter({"unlike_letters": 1})
    assert found(folder, min_readable=0).families == ("Anton", "Open Sans")


def test_fonts_in_colour_and_without_outlines_are_left_out(folder: Path) -> None:
    for name, change in (("colour", "COLR"), ("bitmap", "glyf")):
        font = TTFont(OPEN_SANS)
        if change in font:
            del font[change]
            del font["loca"]
        else:
            font[change] = font["gasp"] if "gasp" in font else font["prep"]
        font.save(folder / f"{name}.ttf")
    (folder / "good.ttf").write_bytes(OPEN_SANS.read_bytes())
    assert found(folder).skipped == Counter({"colour": 1, "bitmap_only": 1})


def test_all_faces_of_a_collection_are_found(folder: Path) -> None:
    collection = TTCollection()
    collection.fonts = [TTFont(OPEN_SANS), TTFont(shipped_folder() / "anton" / "anton-latin-400-normal.ttf")]
    collection.save(folder / "two.ttc")
    assert [(font.family, font.index) for font in found(folder).fonts] == [("Anton", 1), ("Open Sans", 0)]


def test_a_font_that_is_too_large_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "large.ttf").write_bytes(OPEN_SANS.read_bytes())
    monkeypatch.setattr("crnn.synth.font_check._MAX_FILE_BYTES", 20_000)
    with pytest.raises(DataError, match="1 too_large"):
        found(folder)


# --- settings and messages --------------------------------------------------------------------------------------------


def test_why_there_are_no_fonts_is_said_in_one_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^fonts\.folders: '.*nowhere' does not exist"):
        found(folder / "nowhere")
    with pytest.raises(DataError, match=r"^fonts\.folders: no font file .* in '.*faces'"):
        found(folder)
    with pytest.raises(DataError, match=r"fonts\.families .* leave no font of 'shipped'"):
        found(families=("Foo",))
    with pytest.raises(DataError, match=r"^fonts\.folders: .*: 24 too_few_characters, such as "):
        found(characters="देवनागरी")
    with pytest.raises(ValueError, match="min_weight 700 is above max_weight 400"):
        FontConfig(min_weight=700, max_weight=400)


# --- picking ----------------------------------------------------------------------------------------------------------


def test_families_are_equally_likely_whatever_their_number_of_faces() -> None:
    many = [font("Many", ALNUM, style=f"Style {n}", weight=100 + n) for n in range(30)]
    fonts = FontSet([*many, font("One", ALNUM), font("Two", ALNUM)])
    rng = np.random.default_rng(3)
    counts = Counter(picked.family for _ in range(3000) if (picked := fonts.pick(rng, "Hello42")))
    assert counts.total() == 3000
    assert all(abs(count - 1000) < 120 for count in counts.values())


def test_only_faces_with_all_characters_of_the_text_are_picked() -> None:
    rare = font("Rare", "xyz€", weight=700)
    fonts = FontSet([font(f"Plain {n}", ALNUM) for n in range(40)] + [font("Rare", "xyz"), rare, font("Euro", "€")])
    rng = np.random.default_rng(4)
    assert {fonts.pick(rng, "zy€") for _ in range(50)} == {rare}
    assert {picked.family for _ in range(100) if (picked := fonts.pick(rng, "€"))} == {"Rare", "Euro"}
    assert fonts.pick(rng, "ß") is None
    assert fonts.pick(rng, "a€") is None  # each is there, but no font has both
    assert fonts.characters == frozenset(ALNUM + "€")


def test_the_choice_depends_on_the_seed_and_not_on_where_the_files_are(tmp_path: Path) -> None:
    names = ["open-sans/open-sans-latin-400-normal", "anton/anton-latin-400-normal", "oswald/oswald-latin-700-normal"]
    sets = []
    for place, order in (("z/one", names), ("two", names[::-1])):
        for at, name in enumerate(order):
            inside = tmp_path / place / str(at)
            inside.mkdir(parents=True)
            source = shipped_folder() / f"{name}.ttf"
            (inside / source.name).write_bytes(source.read_bytes())
        sets.append(found(tmp_path / place))
    assert sets[0].digest == sets[1].digest
    texts = ["word", "A1", "zebra"] * 20
    one, other = (
        [fonts.pick(np.random.default_rng([7, at]), text).family for at, text in enumerate(texts)] for fonts in sets
    )
    assert one == other
    assert len(set(one)) == 3
