"""Behaviour that refactoring must keep: rendered samples, texts and scores of each engine, printed fields."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crnn
from crnn.cli import main

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = 256


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Rendered lines of the preset, and their labels."""
    folder = tmp_path_factory.mktemp("golden") / "set"
    fonts = ["--fonts.folders", "shipped", "--data.workers", "0", "--train.seed", "5"]
    assert main(["synth", "write", str(folder), "crnn-small", "--count", str(SAMPLES), "--to", "list", *fonts]) == 0
    rows = [line.split("\t") for line in (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()]
    return [folder / path for path, _ in rows], [label for _, label in rows]


@pytest.fixture(scope="module")
def golden(request):
    """What is stored under a name; with --update-golden it is stored first."""

    def stored(name, values):
        path = GOLDEN / f"{name}.json"
        if request.config.getoption("--update-golden"):
            path.write_text(json.dumps(values, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    return stored


def test_rendered_samples(samples, golden):
    paths, labels = samples
    looks = []
    for path in paths[:64]:
        pixels = np.asarray(Image.open(path), dtype=np.float64)
        looks.append([pixels.shape[1], round(float(pixels.mean()), 2), round(float(pixels.std()), 2)])
    expected = golden("samples", {"labels": labels, "width_mean_std": looks})
    assert labels == expected["labels"]
    # Processors round differently; a pixel more or less of another grey is no other sample.
    assert np.abs(np.array(looks) - np.array(expected["width_mean_std"])).max() < 0.5


@pytest.mark.parametrize(
    ("engine", "precision"), [("torch", "fp32"), ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "int8")]
)
@pytest.mark.parametrize("model", ["crnn-small", "crnn-vgg"])
def test_texts_and_scores(
    samples,
    golden,
    model,
    engine,
    precision,
):
    """Nearly all: where two texts are as likely, another processor or engine may take the other."""
    pytest.importorskip({"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}[engine])
    paths = samples[0] if model == "crnn-small" else samples[0][:64]
    reader = crnn.load(model, engine=engine, precision=precision, threads=1)
    found = {
        decode: [[r.text, round(r.score, 2)] for r in reader.read(paths, decode=decode)]
        for decode in ("greedy", "auto")
    }
    expected = golden(model, found) if (engine, precision) == ("torch", "fp32") else golden_of(model)
    for decode, rows in found.items():
        pairs = list(zip(rows, expected[decode], strict=True))
        same = [(a, b) for (text, a), (other, b) in pairs if text == other]
        assert len(same) >= (0.97 if precision == "fp32" else 0.75) * len(pairs)
        if precision == "fp32":
            assert np.median([abs(a - b) for a, b in same]) < 0.02


def golden_of(model):
    return json.loads((GOLDEN / f"{model}.json").read_text(encoding="utf-8"))


def test_fields_of_json(samples, capsys):
    assert main(["read", str(samples[0][0]), "--json", "--n-best", "2", "--threads", "1"]) == 0
    reading = json.loads(capsys.readouterr().out)
    assert sorted(reading) == ["alternatives", "characters", "confidence", "image", "score", "text", "warning"]
    assert sorted(reading["characters"][0]) == ["end", "score", "start", "text"]
    assert sorted(reading["alternatives"][0]) == ["confidence", "score", "text"]
