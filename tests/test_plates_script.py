"""The plates that examples/plates.py makes up."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("plates_script", ROOT / "examples" / "plates.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plates_follow_their_patterns_each_once(script):
    letters = {"A": "[A-Z]", "U": "[A-ZÄÖÜ]", "9": "[0-9]", "1": "[1-9]"}
    patterns = ["".join(letters.get(c, re.escape(c)) for c in p) for many in script.PATTERNS.values() for p in many]
    made = script.plates(3000, 5)
    assert len(set(made)) == len(made) == 3000
    assert all(re.fullmatch("|".join(patterns), text) for text in made)
    assert all(any(re.fullmatch(pattern, text) for text in made) for pattern in patterns)
    assert all(sum(umlaut in text for text in made) > 60 for umlaut in "ÄÖÜ")
    assert made == script.plates(3000, 5) != script.plates(3000, 6)


def test_plates_that_shall_not_be_made_are_not(script, tmp_path, capsys):
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
