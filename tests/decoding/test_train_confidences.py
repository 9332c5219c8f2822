"""What training leaves in the best weights: confidences fitted on its validation sets, or a line that says why not."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crnn.config.run import Config
from crnn.evaluation.evaluate import calibrate
from crnn.model.checkpoint import load_weights
from crnn.recognizer import load
from crnn.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]


@pytest.fixture
def doubtful(trained_run: Any, tmp_path: Path) -> Path:
    """A list of 36 crops; a third of them, other ones each time, have a label that they do not show."""
    shutil.copytree(trained_run.words.parent / "images", tmp_path / "images")
    lines = []
    for n in range(36):
        is_right = (n + n // 12) % 3
        lines.append(f"images/{1 + n % 12}.png\t{trained_run.labels[n % 12] if is_right else 'zzz'}\n")
    (tmp_path / "doubtful.tsv").write_text("".join(lines))
    return tmp_path / "doubtful.tsv"


@pytest.fixture
def short_run(trained_run: Any, small_config: Configs) -> Callable[..., Config]:
    """A function that makes a run of one small step from trained weights."""

    def make(*validation: Path, **charset: Any) -> Config:
        return small_config(
            trained_run.words,
            model={"backbone": "small", "hidden_size": 32},
            image={"image_width": 48},
            charset={"characters": "36", **charset},
            data={"validation": [str(path) for path in validation], "workers": 0},
            optim={"learning_rate": 1e-9},
            train={"num_steps": 1, "batch_size": 12, "warm_start": str(trained_run.folder), "threads": 1},
            eval={"eval_steps": 1},
        )

    return make


@pytest.mark.parametrize("language", ["none", "en"])
def test_the_best_weights_have_confidences_that_were_fitted(
    language: str, short_run: Callable[..., Config], doubtful: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = train(short_run(doubtful, language=language))
    best = load_weights(report.folder / "best.safetensors")
    found = best.calibration
    assert found is not None
    assert found.data == ("doubtful",)
    assert found.greedy.samples == 36
    assert found.greedy.accuracy == pytest.approx(2 / 3)
    assert (found.language is None) == (language == "none")
    assert load_weights(report.folder / "last.safetensors").calibration is None
    # One line says so, with the error of the way in which readers read.
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "confidences" in line]
    curve = found.language or found.greedy
    assert line == (
        f"{best.path}: confidences fitted on the validation sets, calibration error {100 * curve.error_before:.1f} % "
        f"before, {100 * curve.error_after:.1f} % after"
    )
    assert curve.error_after < curve.error_before
    # They are those that crnn calibrate would fit, and readers use them.
    reader = load(report.folder, engine="torch", device="cpu")
    assert reader.decoder.curve == curve
    assert (reader.decoder.prior is None) == (language == "none")
    again = calibrate(reader, [str(doubtful)])
    assert again.greedy.slope == pytest.approx(found.greedy.slope, abs=0.01)
    assert again.greedy.offset == pytest.approx(found.greedy.offset, abs=0.01)
    assert reader.decoder.calibrated


def test_a_validation_set_that_says_too_little_is_said(
    short_run: Callable[..., Config], doubtful: Path, trained_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    doubtful.write_text("".join(doubtful.read_text().splitlines(keepends=True)[:12]))
    report = train(short_run(doubtful))
    best = report.folder / "best.safetensors"
    assert load_weights(best).calibration is None
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "confidences" in line]
    assert line.startswith(f"{best}: confidences stay as the network gives them: 12 readings, 8 right")
    reading = load(report.folder, engine="torch", device="cpu").read(trained_run.words.parent / "images" / "1.png")
    assert reading.confidence == pytest.approx(math.exp(reading.score), abs=1e-6)
