"""The beam with a character model: exact when it is wide, unchanged without weight, useful when it is narrow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn.charset import Charset
from crnn.decoding import beam
from crnn.decoding.beam import Fusion, beam_search, decode_beam
from crnn.decoding.ctc import align, sequence_log_probs
from crnn.decoding.language_model import CharacterModel
from crnn.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def models():
    """By number of classes a model of up to three characters."""
    words = ["ab", "abba", "b", "cab", "acc"]
    made = {}
    for count in (1, 2, 3):
        characters = "abc"[:count]
        fitting = [w for w in (*words, "a", "aaa") if set(w) <= set(characters)]
        made[count + 1] = CharacterModel.train(fitting, Charset(characters), 3)
    return made


@settings(max_examples=40)
@given(data=st.data(), weight=st.sampled_from([0.0, 0.3, 1.0, 4.0]), bonus=st.sampled_from([0.0, -1.0, 0.7, 3.0]))
def test_a_wide_beam_ranks_every_text(small_log_probs, data, path_sums, models, weight, bonus):
    log_probs = data.draw(small_log_probs)
    model = models[log_probs.shape[2]]
    fusion = Fusion(model, weight, bonus)
    for sample, found in zip(log_probs, beam_search(log_probs, 1000, fusion), strict=True):
        sums = {text: math.log(total) for text, (total, _) in path_sums(sample).items() if total > 0.0}
        assert {text for text, _ in found} == set(sums)
        ranks, texts = [], [text for text, _ in found]
        for text, score in found:
            assert score == pytest.approx(sums[text], abs=1e-12)  # the network's alone
            ranks.append(score + weight * model.log_probs([text])[0] + bonus * len(text))
        assert ranks == sorted(ranks, reverse=True)
        assert ranks == pytest.approx([s + p for (_, s), p in zip(found, fusion.priors(texts), strict=True)])


@pytest.mark.parametrize("width", [1, 4, 10])
def test_without_weight_and_bonus_it_is_the_plain_beam(width, peaked_log_probs):
    log_probs = peaked_log_probs(3, num_samples=12)
    model = CharacterModel.train(["house", "mouse", "42"], Charset("36"), 3)
    assert beam_search(log_probs, width, Fusion(model, 0.0, 0.0)) == beam_search(log_probs, width)


def plain_fused_search(log_probs, width, fusion):
    """The search for one sample (T, V) with a dictionary: what survives the last step."""
    blank = log_probs.shape[1] - 1
    end = {(): 0.0}

    def prior(text):
        """Without what the model says of the end."""
        if text not in end:
            state, total = np.array([fusion.model.start]), 0.0
            for k in text:
                log_probs, following = fusion.model.next_log_probs(state)
                total += fusion.weight * float(log_probs[0, k]) + fusion.length_bonus
                state = following[:, k]
            end[text] = total
        return end[text]

    beams = {(): (0.0, -math.inf)}
    for step in log_probs.tolist():
        following = {}
        for prefix, (ends_blank, ends_char) in beams.items():
            total = np.logaddexp(ends_blank, ends_char)
            for k, score in enumerate(step):
                if k == blank:
                    arrivals = [(prefix, 0, total + score)]
                elif prefix and prefix[-1] == k:
                    arrivals = [(prefix, 1, ends_char + score), ((*prefix, k), 1, ends_blank + score)]
                else:
                    arrivals = [((*prefix, k), 1, total + score)]
                for text, ending, arriving in arrivals:
                    both = following.setdefault(text, [-math.inf, -math.inf])
                    both[ending] = np.logaddexp(both[ending], arriving)
        ranked = sorted(following, key=lambda text: -np.logaddexp(*following[text]) - prior(text))
        beams = {text: tuple(following[text]) for text in ranked[:width]}
    return set(beams)


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_narrow_beam_keeps_what_the_plain_search_keeps(width, sharpness, random_log_probs):
    model = CharacterModel.train(["abba", "cde", "bad", "cab", "fed", "a"], Charset("abcdef"), 4)
    fusion = Fusion(model, 0.6, 0.5)
    log_probs = random_log_probs(width, 10, 12, 7, sharpness)
    for sample, found in zip(log_probs, beam_search(log_probs, width, fusion), strict=True):
        assert {text for text, _ in found} == plain_fused_search(sample, width, fusion)


def test_the_model_decides_what_the_picture_leaves_open():
    charset = Charset("36")
    model = CharacterModel.train(["house", "mouse", "horse"], charset, 4)
    log_probs = np.full((1, 9, 37), math.log(0.01 / 35))
    for t, character in enumerate("house"):
        log_probs[0, 2 * t, charset.encode(character)] = math.log(0.99)
    log_probs[0, 1::2, 36] = math.log(0.99)
    log_probs[0, 4, charset.encode("u")] = math.log(0.40)
    log_probs[0, 4, charset.encode("v")] = math.log(0.55)
    plain, fused = decode_beam(log_probs, 5), decode_beam(log_probs, 5, Fusion(model))
    assert [charset.decode(text.ids) for text in (*plain, *fused)] == ["hovse", "house"]
    assert fused[0].score == sequence_log_probs(log_probs, [fused[0].ids])[0] < plain[0].score
    assert fused[0].spans == tuple(align(log_probs[0], fused[0].ids))


def test_a_batch_gives_exactly_what_its_samples_give(peaked_log_probs):
    log_probs = peaked_log_probs(9, num_samples=17)
    fusion = Fusion(CharacterModel.train(["house", "mouse", "42"], Charset("36"), 4))
    found = beam_search(log_probs, 5, fusion)
    for n in range(17):
        assert beam_search(log_probs[n : n + 1], 5, fusion) == found[n : n + 1]


def test_large_charsets_extend_by_the_likeliest_characters(monkeypatch, random_log_probs):
    fusion = Fusion(CharacterModel.train(["abba", "cde", "bad"], Charset("abcdef"), 3))
    log_probs = random_log_probs(4, 6, 10, 7, 3.0)
    everything = beam_search(log_probs, 3, fusion)
    monkeypatch.setattr(beam, "_FUSED_CLASSES", 4)
    assert beam_search(log_probs, 3, fusion)[0][0] == everything[0][0]
    monkeypatch.setattr(beam, "_FUSED_CLASSES", 1)
    assert len({k for text, _ in beam_search(log_probs[:, :1], 1, fusion)[0] for k in text}) <= 1


def test_no_steps_and_no_samples():
    fusion = Fusion(CharacterModel.train(["abba"], Charset("abcd"), 2))
    assert beam_search(np.zeros((2, 0, 5)), 3, fusion) == [[((), 0.0)]] * 2
    assert beam_search(np.zeros((0, 7, 5)), 3, fusion) == []


def test_wrong_numbers(random_log_probs):
    model = CharacterModel.train(["abba"], Charset("abcd"), 2)
    for weight, bonus in ((-0.1, 0.0), (math.nan, 0.0), (math.inf, 0.0), (1.0, math.inf), (1.0, math.nan)):
        with pytest.raises(ConfigError, match="expected a weight of 0 or more, and a finite bonus"):
            Fusion(model, weight, bonus)
    with pytest.raises(DataError, match="so 4 classes, the character model has 5"):
        beam_search(random_log_probs(0, 1, 2, 4), 3, Fusion(model))


def test_a_beam_wider_than_the_limit_extends_by_as_many_classes(monkeypatch, random_log_probs):
    fusion = Fusion(CharacterModel.train(["abba", "cde", "bad"], Charset("abcdef"), 3))
    log_probs = random_log_probs(4, 6, 10, 7, 3.0)
    expected = beam_search(log_probs, 6, fusion)
    monkeypatch.setattr(beam, "_FUSED_CLASSES", 1)
    assert beam_search(log_probs, 6, fusion) == expected  # six of six characters: nothing is left out
