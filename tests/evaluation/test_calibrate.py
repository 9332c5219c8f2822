"""Fitting confidences: a curve that does not lower the calibration error is dropped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.evaluation import evaluate as module
from crnn.recognizer import load


@pytest.mark.parametrize("current", [None, Calibration(ConfidenceCurve(0.5, 0.25))])
@pytest.mark.parametrize("is_better", [True, False])
def test_a_curve_gives_way_only_to_a_better_one(
    current: Calibration | None, is_better: bool, trained_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = ConfidenceCurve(2.0, 1.0, 36, 0.6, 0.2, -1.0 if is_better else 2.0)
    monkeypatch.setattr(module, "fit_curve", lambda *_: fitted)
    lines: list[str] = []
    found = module.calibrate(
        load(trained_run.folder, engine="torch", device="cpu"), trained_run.words, current=current, say=lines.append
    )
    kept = fitted if is_better else (current.greedy if current else ConfidenceCurve())
    assert (found.greedy.slope, found.greedy.offset) == (kept.slope, kept.offset)
    assert (found.greedy == fitted) is is_better
    assert found.data == ("words",)
    assert lines == [] if is_better else ["the curve stays as it was" in line for line in lines] == [True]
    assert dataclasses.replace(found.greedy, slope=2.0, offset=1.0, error_after=0.0) == dataclasses.replace(
        fitted, error_after=0.0
    )
