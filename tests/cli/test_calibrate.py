"""``crnn calibrate``: curves that are kept with the weights."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from crnn.decoding.confidence import Calibration, ConfidenceCurve, confidences
from crnn.errors import CheckpointError
from crnn.model.checkpoint import load_weights, read_tensors, save_weights, write_tensors


@pytest.fixture
def weights(trained_run, tmp_path):
    """A copy of trained weights."""
    return Path(shutil.copy(trained_run.folder / "best.safetensors", tmp_path / "model.safetensors"))


@pytest.fixture
def doubtful(trained_run, tmp_path):
    """A list of 36 crops, a third of whose labels are others than what they show."""
    shutil.copytree(trained_run.words.parent / "images", tmp_path / "images")
    lines = [f"images/{1 + n % 12}.png\t{trained_run.labels[n % 12] if n % 3 else 'zzz'}\n" for n in range(36)]
    lines.append("images/gone.png\tgone\n")
    (tmp_path / "doubtful.tsv").write_text("".join(lines))
    return tmp_path / "doubtful.tsv"


# ---- weights


def test_a_calibration_that_cannot_be_one_is_refused(weights):
    tensors, metadata = read_tensors(weights)
    curve = ConfidenceCurve(0.5, 0.1, 30, 0.5, 0.2, 0.1)
    wrong = Calibration(curve, curve, ("words",)).as_dict()
    wrong["language"]["slope"] = -1
    for given, message in [
        (wrong, r"slope is -1\.0, offset 0\.1; expected a slope above 0"),
        ({"data": []}, "calibration .* cannot be used"),
        ({"temperature": 0}, "calibration .* cannot be used"),
    ]:
        write_tensors(weights, tensors, {**metadata, "calibration": given})
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: {message}.*Make it anew"):
            load_weights(weights)


# ---- the command


def test_calibrate_writes_the_curve_and_confidences_are_on_it(run, weights, doubtful, trained_run):
    image = trained_run.words.parent / "images" / "1.png"
    tensors, metadata = read_tensors(weights)
    shifted = Calibration(ConfidenceCurve(), shift=1.5).as_dict()  # of places: no business of this command
    write_tensors(weights, tensors, {**metadata, "calibration": shifted})
    plain = json.loads(run("read", image, "--model", weights, "--json")[1])
    assert plain["confidence"] == pytest.approx(math.exp(plain["score"]), abs=1e-6)
    status, out, err = run("calibrate", weights, f"mine={doubtful}", "--json")
    assert status == 0
    assert err.splitlines()[-1] == f"crnn calibrate: {weights} is changed: it has these confidences, the rest stays"
    values = json.loads(out)
    assert (values["model"], values["data"], values["language"]) == (str(weights), ["mine"], None)
    assert values["greedy"]["samples"] == 36
    assert values["greedy"]["accuracy"] == pytest.approx(2 / 3)
    again, more = read_tensors(weights)
    assert all((tensors[name] == again[name]).all() for name in tensors)
    assert {key: value for key, value in more.items() if key != "calibration"} == metadata
    found = load_weights(weights).calibration
    assert found.as_dict() == {name: values[name] for name in ("greedy", "language", "data", "shift")}
    assert found.shift == 1.5
    sure = json.loads(run("read", image, "--model", weights, "--json")[1])
    assert sure["confidence"] == pytest.approx(float(confidences(plain["confidence"], found.greedy)), abs=1e-6)
    assert sure["confidence"] != pytest.approx(plain["confidence"], abs=1e-3)
    assert {**sure, "confidence": plain["confidence"]} == plain  # text, score and places stay


def test_weights_with_a_language_get_two_curves(run, weights, doubtful, tmp_path):
    held = load_weights(weights)
    charset = held.config.charset.model_copy(update={"language": "en"})
    save_weights(weights, held.tensors, held.config.model_copy(update={"charset": charset}), held.info)
    status, out, err = run("calibrate", weights, doubtful)
    assert status == 0
    first, second = out.splitlines()
    for line, way in ((first, "greedy"), (second, "with language")):
        assert re.match(rf"{re.escape(str(weights))}, {way}: slope \d\.\d{{3}}, offset .* from 36 readings, ", line)
    assert "samples left out: missing" in err
    found = load_weights(weights).calibration
    assert found.greedy.samples == found.language.samples == 36
    assert json.loads(run("calibrate", weights, doubtful, "--json")[1])["language"]["samples"] == 36
    assert load_weights(weights).config.charset.language == "en"  # and stays


def test_calibrate_into_another_file_and_in_words(run, weights, doubtful, tmp_path):
    before = weights.read_bytes()
    status, out, err = run("calibrate", weights, doubtful, "--out", tmp_path / "new.safetensors")
    assert status == 0
    assert "crnn calibrate: doubtful: 1 samples left out: missing\n" in err
    assert "crnn calibrate: doubtful: unreadable image images/gone.png: " in err
    assert f"crnn calibrate: {tmp_path / 'new.safetensors'} is written: it has " in err
    assert out.startswith(f"{tmp_path / 'new.safetensors'}, greedy: slope ")
    assert "from 36 readings, 66.67 % right; expected calibration error " in out
    assert weights.read_bytes() == before
    assert load_weights(tmp_path / "new.safetensors").calibration is not None


def test_a_run_folder_means_its_best_weights(run, trained_run, doubtful, tmp_path):
    shutil.copytree(trained_run.folder, tmp_path / "run")
    assert run("calibrate", tmp_path / "run", doubtful)[0] == 0
    assert load_weights(tmp_path / "run" / "best.safetensors").calibration is not None
    assert load_weights(tmp_path / "run" / "last.safetensors").calibration is None


def test_a_calibration_that_cannot_be_written_leaves_the_weights_whole(run, weights, doubtful):
    before = weights.read_bytes()
    weights.with_name(weights.name + ".partial").symlink_to("/dev/full")
    status, out, err = run("calibrate", weights, doubtful)
    assert (status, out) == (2, "")
    assert f"cannot write {weights}: the disk is full; what was there before is untouched" in err
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "WORDS"], "12 readings, 12 right; expected at least 20"),
        (["MODEL", "WORDS", "--out", "no/where"], "--out no/where: there is no such folder to write it in"),
        (["crnn-small", "WORDS"], "crnn-small ships with the package and stays as it is; expected another file"),
        (["MODEL", "WORDS", "--out", "x.onnx"], "--out x.onnx: expected a name that ends in .safetensors"),
    ],
)
def test_calibrate_says_what_is_wrong(arguments, message, run, weights, trained_run):
    before = weights.read_bytes()
    names = {"MODEL": weights, "WORDS": trained_run.words}
    status, out, err = run("calibrate", *(names.get(a, a) for a in arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert weights.read_bytes() == before
