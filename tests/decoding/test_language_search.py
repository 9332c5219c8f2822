"""Reading with a language: what it adds to a text, when it searches, how lines are cut and joined."""

import itertools
import string
from collections.abc import Callable

import numpy as np
import pytest

from crnn.charset import Charset
from crnn.decoding import language_search
from crnn.decoding.beam import beam_search
from crnn.decoding.ctc import sequence_log_probs
from crnn.decoding.language import Language, load_language, train_language
from crnn.decoding.language_prior import LanguagePrior, padded
from crnn.decoding.language_search import search_with_language

Draw = Callable[..., np.ndarray]

CHARSET = Charset("95")
LOWER = Charset("36")


@pytest.fixture(scope="module")
def language() -> Language:
    words = ["house", "mouse", "horse", "the", "hotel", "in", "street", "don't", "total", "invoice"]
    return train_language([(word, 1.0 + k) for k, word in enumerate(words)], "test", 6)


def shown(text: str, charset: Charset, doubts: dict[int, str] | None = None, sure: float = 0.999) -> np.ndarray:
    """Log-probabilities ``(T, V)`` of an image that shows a text; ``doubts``: another character as likely, by place."""
    probabilities = []
    for place, character in enumerate(text):
        step = np.full(charset.num_classes, (1.0 - sure) / charset.num_classes)
        step[charset.encode(character)[0]] += sure
        if doubts and place in doubts:
            step[charset.encode(character)[0]] -= 0.45 * sure
            step[charset.encode(doubts[place])[0] if doubts[place] else charset.blank] += 0.45 * sure
        blank = np.full(charset.num_classes, (1.0 - sure) / charset.num_classes)
        blank[charset.blank] += sure
        probabilities += [step, blank]
    return np.log(np.array(probabilities)).astype(np.float32)


def read(
    log_probs: np.ndarray, language: Language, charset: Charset = CHARSET, weight: float = 0.5
) -> tuple[str, float]:
    ((found,),) = search_with_language([log_probs[None]], LanguagePrior(language, charset, weight))
    return charset.decode(found.texts[0].ids), found.probability


@pytest.mark.parametrize(
    ("text", "doubts", "expected"),
    [
        ("hcuse", {1: "o"}, "house"),
        ("HCUSE", {1: "O"}, "HOUSE"),
        ("Hcuse", {1: "o"}, "House"),
        ("hOuse", {1: "o"}, "house"),
        ("HoTEL", {1: "O"}, "HOTEL"),
        ("the hcuse, in", {5: "o"}, "the house, in"),
        ("d0n't", {1: "o"}, "don't"),
        ("12.3O", {4: "0"}, "12.30"),
        ("house", {}, "house"),
        ("xqzvw", {2: "k"}, "xqzvw"),
    ],
)
def test_doubts_are_settled_by_the_language(
    language: Language, text: str, doubts: dict[int, str], expected: str
) -> None:
    assert read(shown(text, CHARSET, doubts), language)[0] == expected


def test_what_is_clear_stays_whatever_the_language_says(language: Language) -> None:
    for text in ("hcuse", "X7-44 Q", "mOuSe", "hte", "in  the", "zz top!"):
        found, probability = read(shown(text, CHARSET, sure=0.99999), language)
        assert found == " ".join(text.split())
        assert probability > 0.9


def test_codes_are_not_bent_into_words(language: Language) -> None:
    """A text far from the dictionary pays one constant; the network needs little more to be believed."""
    prior = LanguagePrior(language, LOWER)
    (one, other), _ = prior.score(*padded([LOWER.encode("h0u5e7"), LOWER.encode("x1q4z8")]))
    assert one == pytest.approx(other)
    for code, word in (("xkqvt", "house"), ("h0u5e7", "house7")):
        (alone, known), _ = prior.score(*padded([LOWER.encode(code), LOWER.encode(word)]))
        assert 1.0 < known - alone < 10.0
    # A digit more is worth next to nothing: numbers do not grow.
    scores, _ = prior.score(*padded([LOWER.encode("1" * count) for count in range(1, 12)]))
    assert (np.diff(scores) < 0.3).all()
    assert scores[-1] < scores[0] - 1.0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("21.00", "21,00"),
        ("RM0.17", "RMO.17"),
        ("08:10PM", "08: 10PM"),
        ("25/10/2017", "25/10/20:7"),
    ],
)
def test_numbers_have_forms(language: Language, right: str, wrong: str) -> None:
    (one, other), _ = LanguagePrior(language, CHARSET).score(*padded([CHARSET.encode(text) for text in (right, wrong)]))
    assert one > other + 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_beams_are_wider_where_the_network_hardly_reads(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Each letter is one of six about as likely ones: a word of nine needs many prefixes."""
    rng, english = np.random.default_rng(seed), load_language("en")
    probabilities = np.exp(shown("francisco", CHARSET, sure=0.99))
    for step, character in zip(probabilities[::2], "francisco", strict=True):
        step[:] = 1e-4
        step[CHARSET.encode("".join(rng.choice(list(string.ascii_lowercase), 5, replace=False)))] += 0.16
        step[CHARSET.encode(character)] += 0.05
    log_probs = np.log(probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    assert read(log_probs, english, weight=0.6)[0] == "francisco"
    monkeypatch.setattr(language_search, "_WIDE_BEAM", 1)
    assert read(log_probs, english, weight=0.6)[0] != "francisco"


def test_superscripts_are_no_part_of_numbers(language: Language) -> None:
    """All have the costs of any string, the zero as well, which has the form of a digit."""
    charset = Charset("ab0⁰¹")
    scores, _ = LanguagePrior(language, charset).score(*padded([charset.encode(text) for text in ("a⁰⁰", "a¹¹")]))
    assert scores[0] == pytest.approx(scores[1])


def test_the_least_score_is_none_that_a_text_exceeds(language: Language) -> None:
    prior = LanguagePrior(language, CHARSET)
    for text in ("aBc-aBc-aBc", "house", "tHe hoTel, IN", "!!", "3.50 EUR", "X7-44 qQ"):
        assert prior.least([CHARSET.encode(text)])[0][0] <= prior.score(*padded([CHARSET.encode(text)]))[0][0]


def test_unknown_words_come_together(language: Language) -> None:
    """As in names and other languages: their spaces cost hardly more than those before words that are known."""
    prior = LanguagePrior(language, CHARSET)

    def score(text: str) -> float:
        return float(prior.score(*padded([CHARSET.encode(text)]))[0][0])

    unknown = score("house XKQVT") - score("house")
    assert score("KXGVQ XKQVT") - score("KXGVQ") > unknown + 1.0
    assert score("XKQVT house") - score("XKQVT") == pytest.approx(score("hotel house") - score("hotel"), abs=0.2)
    # Two unknown words as one gain less than a letter's worth.
    assert score("KXGVQXKQVT") - score("KXGVQ XKQVT") < prior.bonus


def test_closing_marks_stand_at_their_word(language: Language) -> None:
    """Where an image says nothing of the space before one, there is none; where it shows one, it stays."""
    for mark in ".,:;!?)":
        assert read(shown(f"total {mark} 3", CHARSET, {5: ""}), language)[0] == f"total{mark} 3"
        assert read(shown(f"total {mark} 3", CHARSET), language)[0] == f"total {mark} 3"
    assert read(shown("in (house", CHARSET, {2: ""}), language)[0] == "in (house"


def test_apostrophes_are_marks_around_words_and_letters_within(language: Language) -> None:
    prior = LanguagePrior(language, CHARSET)
    texts = ("'house'", '"house"', "house',", 'house",', "'Hotel", '"Hotel', "don't", 'don"t')
    scores = prior.score(*padded([CHARSET.encode(text) for text in texts]))[0].tolist()
    assert scores[0:6:2] == pytest.approx(scores[1:6:2], abs=0.02)
    assert scores[6] > scores[7] + 1.0
    assert read(shown("in 'house' the", CHARSET, {5: "a"}), language)[0] == "in 'house' the"


def test_marks_with_which_words_begin_are_letters() -> None:
    language = train_language([("'n", 5.0), ("huis", 5.0), ("#fade", 3.0), ("huizen", 2.0)], "test", 6)
    prior = LanguagePrior(language, CHARSET)
    texts = ("'n huis", "n huis", "#fade", "fade")
    scores = prior.score(*padded([CHARSET.encode(text) for text in texts]))[0].tolist()
    assert scores[0] > scores[1] + 1.0
    assert scores[2] > scores[3] + 1.0


def test_the_score_of_a_text_is_that_of_its_steps(language: Language) -> None:
    """What beams add up prefix by prefix ends in what whole texts get."""
    prior = LanguagePrior(language, CHARSET)
    for text in (
        "",
        "house",
        "The hotel",
        "A1-22",
        "don't stop",
        "'house' hotel's in'",
        "'' don't'-'",
        "HOUSE in",
        " in",
        "3.50 EUR",
        "in : 3 ,",
        " )",
        "! a",
    ):
        ids = CHARSET.encode(text)
        state, lengths = prior.start(1), np.zeros((1, 1), dtype=np.int64)
        for one in ids:
            more = prior.extended(state, np.array([[one, 0]]), lengths)
            state = prior.advanced(state, np.array([[one]]), np.array([[True]]))
            lengths = lengths + 1
            assert more[0, 0, 0] == pytest.approx(prior.total(state, lengths)[0, 0])
        assert prior.final(state, lengths)[0, 0] == pytest.approx(prior.score(*padded([ids]))[0][0])
        least, most = prior.least([ids])
        score, gap = prior.score(*padded([ids]))
        assert least[0] <= score[0] + 1e-9
        assert most[0] >= gap[0] - 1e-9


def test_the_beam_finds_the_best_rank_of_all(language: Language, random_log_probs: Draw) -> None:
    charset = Charset("ehmo ")
    prior = LanguagePrior(language, charset)
    texts = [ids for length in range(5) for ids in itertools.product(range(5), repeat=length)]
    added = prior.score(*padded(texts))[0]
    for seed in range(6):
        log_probs = random_log_probs(seed, 1, 4, 6)
        best = (sequence_log_probs(log_probs, texts, np.zeros(len(texts), dtype=np.intp)) + added).max()
        found = beam_search(log_probs, 400, prior)[0][0]
        assert found.rank == pytest.approx(best, abs=1e-6)
        assert found.score == pytest.approx(float(sequence_log_probs(log_probs, [found.ids])[0]))


def test_readings_do_not_depend_on_what_is_read_with_them(language: Language, random_log_probs: Draw) -> None:
    groups = [random_log_probs(k, 5, steps, CHARSET.num_classes, sharpness=3.0) for k, steps in enumerate((7, 12, 30))]
    prior = LanguagePrior(language, CHARSET)
    together = search_with_language(groups, prior)
    for group, expected in zip(groups, together, strict=True):
        assert search_with_language([group], prior) == [expected]
        for n in range(len(group)):
            assert search_with_language([group[n : n + 1]], prior)[0] == expected[n : n + 1]


def test_lines_are_cut_at_spaces_and_joined_again(language: Language) -> None:
    text = "the horse, in the hotel"
    ((found,),) = search_with_language([shown(text, CHARSET)[None]], LanguagePrior(language, CHARSET), n_best=4)
    texts = [CHARSET.decode(h.ids) for h in found.texts]
    assert texts[0] == text
    assert len(set(texts)) == 4
    assert [h.rank for h in found.texts] == sorted((h.rank for h in found.texts), reverse=True)
    log_probs = np.repeat(shown(text, CHARSET)[None], 4, axis=0)
    scores = sequence_log_probs(log_probs, [h.ids for h in found.texts])
    assert [h.score for h in found.texts] == pytest.approx(scores.tolist(), abs=1e-6)


def test_empty_groups_and_empty_texts(language: Language) -> None:
    prior = LanguagePrior(language, CHARSET)
    assert search_with_language([], prior) == []
    assert search_with_language([np.zeros((0, 8, CHARSET.num_classes), np.float32)], prior) == [[]]
    blanks = np.full((1, 5, CHARSET.num_classes), -30.0, np.float32)
    blanks[:, :, -1] = 0.0
    ((found,),) = search_with_language([blanks], prior)
    assert found.texts[0].ids == ()
    assert found.probability == pytest.approx(1.0)


def test_without_a_weight_the_language_changes_nothing(language: Language, random_log_probs: Draw) -> None:
    log_probs = random_log_probs(0, 3, 6, CHARSET.num_classes)
    assert beam_search(log_probs, 4, LanguagePrior(language, CHARSET, 0.0)) == beam_search(log_probs, 4)
