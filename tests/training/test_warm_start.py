"""The worked cases of docs/log/measurements-finetune.md, with small numbers, and the plates that are made up."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crnn.cli import main
from crnn.config.run import load_config
from crnn.model.checkpoint import load_weights

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "log" / "measurements-finetune.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if not kind for line in text.replace("\\\n", " ").splitlines() if line.strip()]

QUICK = {
    "--train.num_steps": "2", "--train.batch_size": "4", "--eval.eval_steps": "2", "--train.device": "cpu",
    "--train.precision": "fp32", "--data.workers": "0", "--synth.pool_size": "64", "--style.texture_tiles": "2",
    "--train.seed": "1",
}  # fmt: skip
"""In the place of what the document says, or beside it, so that a run takes seconds."""

RENDERING = {"--data.workers": "0", "--synth.pool_size": "64", "--style.texture_tiles": "2"}


def lines_of(command: str) -> list[str]:
    """The document's commands that begin so."""
    return [line for line in LINES if line.startswith(command + " ")]


def run_with(line: str, changes: dict[str, str]) -> list[str]:
    """Run a ``crnn`` command of the document with other values, and its fonts replaced by those that ship."""
    words = shlex.split(line, comments=True)[1:]
    for flag in ("--fonts.folders", "--fonts.families"):
        if flag in words:
            first = words.index(flag)
            after = next((i for i in range(first + 1, len(words)) if words[i].startswith("--")), len(words))
            del words[first:after]
    for flag, value in changes.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    if words[0] == "evaluate":
        words += ["--json"]
    else:
        words += ["--fonts.folders", "shipped", "--fonts.families", "*"]
    assert main(words) == 0, words
    return words


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plates_script", ROOT / "examples" / "plates.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_real_crops_are_split_and_learned_as_the_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_of: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("iiit5k", "svt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "word.png").write_bytes(image_of("word"))
        (tmp_path / name / "labels.tsv").write_text("word.png\tword\n" * (2000 if name == "iiit5k" else 2))
    splits = [line for line in LINES if line.startswith(("head ", "tail "))]
    for line in splits:
        subprocess.run(line, shell=True, check=True, timeout=60)
    sizes = {path.stem: path.read_text().count("\n") for path in (tmp_path / "iiit5k").glob("*.tsv")}
    assert sizes == {"labels": 2000, "half": 1000, "held": 1000, "learn": 800, "stop": 200}
    for name in ("learn", "stop", "held"):  # what takes long is their size
        path = tmp_path / "iiit5k" / f"{name}.tsv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))

    warm, new = lines_of("crnn train crnn-small")
    words = run_with(warm, QUICK)
    assert "95 characters and the blank kept" in capsys.readouterr().err
    assert first_validation(value_of(words, "--checkpoint.save_checkpoint_path"))["step"] == 0
    run_with(new, QUICK)
    assert "warm start" not in capsys.readouterr().err
    (evaluation,) = lines_of("crnn evaluate runs/mine")
    capsys.readouterr()
    run_with(evaluation, {})
    found = json.loads(capsys.readouterr().out)
    assert {dataset["name"]: dataset["samples"] for dataset in found["datasets"]} == {"held": 8, "svt": 2}


def first_validation(folder: str) -> dict[str, Any]:
    lines = map(json.loads, (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if "validation" in line)


def test_a_reader_of_plates_is_made_as_the_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (settings,) = (text for kind, text in BLOCKS if kind == "toml")
    (tmp_path / "plates.toml").write_text(settings, encoding="utf-8")
    config = load_config("plates.toml")
    for line in lines_of("python examples/plates.py"):
        words = [sys.executable, str(ROOT / "examples" / "plates.py"), *shlex.split(line, comments=True)[2:]]
        words[words.index("--count") + 1] = "50"
        subprocess.run(words, check=True, timeout=60)
    assert (tmp_path / config.corpus.words[0]).exists()
    for line in lines_of("crnn synth write"):
        run_with(line, {"--count": "6", **RENDERING})

    warm, new = lines_of("crnn train plates.toml")
    capsys.readouterr()
    run_with(warm, QUICK)
    kept = "38 characters and the blank kept, begun as their other case or base letter: 'ÄÖÜ'"
    assert kept in capsys.readouterr().err
    run_with(new, QUICK)
    assert load_weights(config.checkpoint.save_checkpoint_path).config.charset.characters == config.charset.characters
    (evaluation,) = lines_of("crnn evaluate runs/plates")
    capsys.readouterr()
    run_with(evaluation, {})
    assert json.loads(capsys.readouterr().out)["datasets"][0]["samples"] == 6


def test_plates_follow_their_patterns_each_once(script: ModuleType) -> None:
    letters = {"A": "[A-Z]", "U": "[A-ZÄÖÜ]", "9": "[0-9]", "1": "[1-9]"}
    patterns = ["".join(letters.get(c, re.escape(c)) for c in p) for many in script.PATTERNS.values() for p in many]
    made = script.plates(3000, 5)
    assert len(set(made)) == len(made) == 3000
    assert all(re.fullmatch("|".join(patterns), text) for text in made)
    assert all(any(re.fullmatch(pattern, text) for text in made) for pattern in patterns)
    assert all(sum(umlaut in text for text in made) > 60 for umlaut in "ÄÖÜ")
    assert made == script.plates(3000, 5) != script.plates(3000, 6)


def test_plates_that_shall_not_be_made_are_not(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    assert script.main([str(first), "--count", "40", "--seed", "3"]) == 0
    assert script.main([str(second), "--count", "40", "--seed", "3", "--without", str(first)]) == 0
    one, other = (set(path.read_text(encoding="utf-8").splitlines()) for path in (first, second))
    assert len(one) == len(other) == 40
    assert not one & other
    with pytest.raises(SystemExit) as caught:
        script.main([str(second), "--without", str(tmp_path / "none.txt")])
    assert caught.value.code == 2
    assert "none.txt: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([str(second), "--count", "0"])
    assert "--count is 0; expected 1 to 10,000,000" in capsys.readouterr().err
