"""Reading order and the order of the image: letters from the right, with all else between them, there and back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn.charset import Charset
from crnn.config.model import CharsetConfig
from crnn.decoding.language import train_language
from crnn.errors import CharsetError, ConfigError
from crnn.evaluation.evaluate import evaluate
from crnn.explanation import explain
from crnn.reading_order import as_read, has_right_to_left, mirrored, reorder

HEBREW = "אבגד"
MIXED = HEBREW + "abcfi0123 .,:-/()[]<>"

# a label, and its characters from left to right in the image (Unicode Standard Annex 9, in a line from right to left)
LINES = [
    ("אבג", "גבא"),
    ("fi", "fi"),
    ("a (b) 12-3", "a (b) 12-3"),
    ("אב fi", "fi בא"),
    ("fi אב", "בא fi"),
    ("אב 12:30", "12:30 בא"),
    ("12-3 אב", "בא 12-3"),
    ("(אב) ג", "ג (בא)"),
    ("אב (fi) 12", "12 (fi) בא"),
    ("a[ב]c", "c[ב]a"),
    ("אב, ג.", ".ג ,בא"),
    ("<א>", "<א>"),
    ("سلام ١٢٣", "١٢٣ مالس"),
    ("١٢٣", "١٢٣"),
]


@pytest.mark.parametrize(("label", "image"), LINES)
def test_the_order_of_the_image_and_back(label, image):
    assert reorder(label) == image
    assert reorder(image) == label == as_read(label)


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12))
def test_a_text_without_letters_from_the_right_stays(text):
    if not has_right_to_left(text):
        assert reorder(text) == text


@given(st.text(MIXED, max_size=20))
def test_no_character_is_lost_but_brackets_may_turn(text):
    def kinds(characters):
        return sorted(min(c, mirrored(c)) for c in characters)

    assert kinds(reorder(text)) == kinds(text)


@given(st.lists(st.text(HEBREW, min_size=1, max_size=4) | st.from_regex("[0-9]{1,3}", fullmatch=True), max_size=5))
def test_words_and_numbers_come_back(words):
    text = " ".join(words)
    assert as_read(text) == text


def test_texts_with_one_image_are_read_as_one():
    assert reorder("12 fi אב") == reorder("fi 12 אב") == "בא fi 12"
    assert as_read("12 fi אב") == as_read("fi 12 אב")


def test_class_ids_are_in_the_order_of_the_image():
    charset = Charset(MIXED)
    for label, image in LINES[:12]:
        assert charset.encode(label) == [MIXED.index(c) for c in image]
        assert charset.decode(charset.encode(label)) == label
    assert Charset("abc()").encode("(a)") == [3, 0, 4]


@pytest.mark.parametrize("label", ["אב 03 123", "12 ab אב", "אב 12 - 3", "אב 2.0 ab", "אב (ab) 12", "א?ב 12", "גב"])
def test_what_the_rules_leave_out_keeps_its_part_in_the_order(label):
    settings = CharsetConfig(characters="אבגab0123")
    charset = settings.charset()
    seen = [c for c in reorder(label) if c in charset]
    assert charset.encode(settings.rules().apply(label, charset)) == [charset.characters.index(c) for c in seen]


def test_a_bracket_without_its_counterpart_is_refused_beside_letters_from_the_right():
    assert Charset("abc(").blank == 4
    with pytest.raises(CharsetError, match=re.escape("charset has '(' without ')'")):
        Charset(HEBREW + "(")


# ---- Readings


@pytest.fixture
def reader(barcode_reader):
    def make(**options):
        return barcode_reader(MIXED, {"max_width": 512}, **options)

    return make


@pytest.fixture
def image_of(barcode):
    return lambda label: barcode(reorder(label), MIXED)


def test_lines_are_read_in_reading_order(reader, image_of):
    labels = [label for label, _ in LINES[:12]]
    readings = reader().read([image_of(label) for label in labels])
    assert [reading.text for reading in readings] == labels
    for reading, (_, image) in zip(readings, LINES, strict=False):  # characters are places in the image
        assert "".join(c.text for c in reading.characters) == image
        assert sorted(c.start for c in reading.characters) == [c.start for c in reading.characters]


def test_alternatives_and_lexicon_are_in_reading_order(reader, image_of):
    image = image_of("אב (12)")
    found = reader(n_best=3).read(image)
    assert found.text == "אב (12)"
    assert all(len(other.text) < 9 and has_right_to_left(other.text) for other in found.alternatives)
    words = ["גד", "12 אב", "אב (12)"]
    assert reader(lexicon=words).read(image).text == "אב (12)"
    assert reader(lexicon=words[:2]).read(image_of("12 אב")).text == "12 אב"


def test_a_language_goes_along_the_image():
    language = train_language([("אבגד", 1.0), ("fi", 1.0)], "words")
    for word, other in (("דגבא", "אבגד"), ("fi", "if")):
        assert language.word_log_prob(word) > language.word_log_prob(other) + 1.0


def test_patterns_are_for_letters_from_the_left(reader, image_of):
    with pytest.raises(ConfigError, match=r"written from right to left; expected 'allow' without them"):
        reader(pattern="[0-9]+")
    assert reader(pattern="[0-9]{2}", allow="0123").read(image_of("12")).text == "12"


def test_explanations_show_the_classes_where_they_are(reader, image_of):
    found = explain(reader(), image_of("אב (1)"))
    rows = {row.character: row for row in found.rows() if row.spans}
    assert rows["א"].spans[0][0] > rows["ב"].spans[0][0] > rows["1"].spans[0][0]


def test_an_exact_reading_is_right_whatever_the_label(reader, image_of, tmp_path):
    labels = [*(label for label, _ in LINES[:12]), "1 a אב", "a 1 אב", "אב a 1", "אב 1 a"]
    lines = []
    for number, label in enumerate(labels):
        (tmp_path / f"{number}.png").write_bytes(image_of(label))
        lines.append(f"{number}.png\t{label}\n")
    (tmp_path / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    result = evaluate(reader(), tmp_path / "labels.tsv").datasets[0]
    assert (result.sums.correct, result.sums.samples) == (len(labels), len(labels))
    as_lines = evaluate(reader(), tmp_path / "labels.tsv", protocol="lines").datasets[0]
    assert as_lines.sums.correct == len(labels)
    assert all(sums.correct == len(labels) for _, sums in as_lines.forms)
