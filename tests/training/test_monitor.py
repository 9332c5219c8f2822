"""What a run says: metrics.jsonl, the ModelZoo's lines, plain progress lines, TensorBoard."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crnn.config.run import Config
from crnn.errors import TrainingError
from crnn.training.monitor import Monitor, StepStats

Configs = Callable[..., Config]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("crnn.training.monitor.time", clock)
    return clock


@pytest.fixture
def monitor_of(tmp_path: Path, small_config: Configs) -> Callable[..., Monitor]:
    """A function that makes the monitor of a run of 12 steps, 8 of them an epoch; keywords are settings of train."""

    def make(first_step: int = 0, num_steps: int = 12, **train: Any) -> Monitor:
        return Monitor(tmp_path, small_config(train=train), num_steps, 8, first_step)

    return make


def stats(step: int, loss: float = 2.0, samples: int = 8) -> StepStats:
    return StepStats(step, loss, 1.5, 0.001, samples)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


RESULT = {
    "datasets": [
        {"name": "words", "samples": 8, "skipped": {}, "accuracy": 0.5, "one_minus_ned": 0.75, "cer": 0.2},
        {
            "name": "none",
            "samples": 0,
            "skipped": {"missing": 3},
            "accuracy": None,
            "one_minus_ned": None,
            "cer": None,
        },
    ],
    "combined_accuracy": 0.5,
}


# ---- metrics.jsonl


def test_a_line_is_the_mean_over_the_samples_of_its_steps(tmp_path: Path, monitor_of: Any, clock: Clock) -> None:
    with monitor_of(num_steps=5, log_steps=3) as monitor:
        for step, (loss, samples) in enumerate([(4.0, 8), (2.0, 6), (1.0, 2), (8.0, 8), (0.0, 0)], start=1):
            clock.now += 1.0
            monitor.step(stats(step, loss, samples))
    first, last = lines_of(tmp_path)
    assert (first["step"], first["loss"]) == (3, (4.0 * 8 + 2.0 * 6 + 1.0 * 2) / 16)
    assert first["samples_per_s"] == pytest.approx(16 / 3, abs=0.05)
    # The last step is reported although it is not a third one; a step without samples weighs nothing.
    assert (last["step"], last["loss"]) == (5, 8.0)


def test_the_time_of_a_validation_does_not_slow_the_rate(tmp_path: Path, monitor_of: Any, clock: Clock) -> None:
    with monitor_of(num_steps=4, log_steps=2) as monitor:
        for step in (1, 2, 3, 4):
            clock.now += 1.0
            monitor.step(stats(step))
            if step in (2, 3):  # at the end of a window, and within one
                clock.now += 100.0
                monitor.restart_clock()
    assert [line["samples_per_s"] for line in lines_of(tmp_path)] == [8.0, 8.0]


def test_a_run_that_goes_on_drops_what_it_does_again(tmp_path: Path, monitor_of: Any) -> None:
    name = "a\u2028b\x85c"  # with what Unicode calls line breaks
    kept = [{"step": 1, "set": name}, {"step": 2, "loss": 2.0}, {"step": 2, "validation": {"é": 1}, "best": True}]
    dropped = [json.dumps({"step": 3, "loss": 3.0}), '{"loss": 1}', "[]", "", "\0\0\0", '{"step": 2, "lo']
    text = "\n".join([*(json.dumps(line, ensure_ascii=False) for line in kept), *dropped])
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\n\xff\xfe{")  # what a power cut leaves need not be text
    with monitor_of(first_step=2) as monitor:
        monitor.step(stats(3))
    assert lines_of(tmp_path)[:-1] == kept
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 2, 3]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 100 bytes; only meanwhile, for the report of the tests may be a file, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_metrics_that_cannot_be_written_end_the_run_in_our_words(monitor_of: Any) -> None:
    monitor = monitor_of()
    # The error has to come through the end of the "with", which closes the file with what it still holds.
    with (
        pytest.raises(TrainingError, match=r"cannot write .*metrics\.jsonl: File too large; correct that"),
        full_disk(),
        monitor,
    ):
        monitor.step(stats(1))


def test_a_full_disk_ends_what_is_drawn_for_tensorboard_and_not_the_run(
    tmp_path: Path, monitor_of: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    class Board:
        def add_scalar(self, *_: Any) -> None:
            nonlocal calls
            calls += 1
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("crnn.training.monitor._tensorboard", lambda *_: Board())
    with monitor_of(tensorboard=True) as monitor:
        monitor.step(stats(1))
        monitor.step(stats(2))
        monitor.validation(2, RESULT, None, True)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 2]
    assert calls == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("TensorBoard's file cannot be written (No space left on device)")


# ---- Lines for people


def test_plain_lines_come_every_ten_seconds_and_at_the_end(
    monitor_of: Any, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with monitor_of(num_steps=12) as monitor:
        for step in range(1, 13):
            clock.now += 4.0
            monitor.step(stats(step))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 1/12  loss 2.000  2 img/s  0:44 left",
        "step 4/12  loss 2.000  2 img/s  0:32 left",
        "step 7/12  loss 2.000  2 img/s  0:20 left",
        "step 10/12  loss 2.000  2 img/s  0:08 left",
        "step 12/12  loss 2.000  2 img/s  0:00 left",
    ]


def test_what_is_said_is_said_as_it_is(monitor_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = "runs/[bold]/x: labels lose '[/]' " + "long " * 60 + "end"
    with monitor_of() as monitor:
        monitor.say(text)
    assert capsys.readouterr().err == text + "\n"


def test_a_validation_is_recorded_and_said(
    tmp_path: Path, monitor_of: Any, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {**RESULT["datasets"][0], "warnings": ["words: 2 of 8 labels lose 'ß'", "words: a second line"]}
    result = {**RESULT, "datasets": [words, *RESULT["datasets"][1:]]}
    with monitor_of() as monitor:
        monitor.validation(4, result, None, best=True)
        monitor.validation(8, {**result, "combined_accuracy": 0.25}, None, best=False)
        clock.now += 60.0
        monitor.step(stats(9))
    assert lines_of(tmp_path)[:2] == [
        {"step": 4, "validation": result, "best": True},
        {"step": 8, "validation": {**result, "combined_accuracy": 0.25}, "best": False},
    ]
    first, *warnings, left_out, second, third = capsys.readouterr().err.splitlines()
    assert warnings == words["warnings"]  # once, too
    assert first == "step 4: words 50.00 %, none nothing compared (best so far)"
    assert left_out == "none: 0 samples compared, left out missing: 3"  # once: it is the same in the next one
    assert second == "step 8: words 50.00 %, none nothing compared"
    assert "best 50.0 %" in third


# ---- The ModelZoo's lines


def test_the_modelzoo_lines_of_a_run_that_went_on_within_an_epoch(
    monitor_of: Any, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with monitor_of(first_step=5, log_format="modelzoo", log_steps=4) as monitor:
        for step in range(6, 13):
            clock.now += 0.5
            monitor.step(stats(step, loss=step / 3))
    assert capsys.readouterr().out.splitlines() == [
        "epoch: 1 step: 8, loss is 2.666666667",
        "Epoch time: 1.500s, per step time: 0.500s",
        "epoch: 2 step: 4, loss is 4",
        "Epoch time: 2.000s, per step time: 0.500s",
    ]


# ---- TensorBoard


def test_scalars_and_readings_are_written_for_tensorboard(tmp_path: Path, monitor_of: Any, clock: Clock) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monitor_of(tensorboard=True) as monitor:
        monitor.step(stats(1, loss=3.0))
        monitor.validation(1, RESULT, np.zeros((60, 180, 3), np.uint8), best=True)
        monitor.step(stats(2, loss=1.0))
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 3.0), (2, 1.0)]
    assert [(e.step, e.value) for e in found.Scalars("accuracy/words")] == [(1, 0.5)]
    assert {
        "train/learning_rate",
        "train/gradient_norm",
        "train/samples_per_s",
        "one_minus_ned/words",
        "cer/words",
    } <= {*found.Tags()["scalars"]}
    assert not any("none" in tag for tag in found.Tags()["scalars"])
    (image,) = found.Images("readings")
    assert (image.step, image.width, image.height) == (1, 180, 60)


def test_a_run_without_tensorboard_installed_goes_on(
    tmp_path: Path, monitor_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with monitor_of(tensorboard=True) as monitor:
        monitor.step(stats(1))
    assert not (tmp_path / "tensorboard").exists()
