"""What helps the network to learn: the same small training with other settings, judged on real crops and by its time.

    python benchmarks/learning.py --data iiit5k=iiit5k/labels.tsv svt=svt/labels.tsv [--faces FOLDER ...]
        [--samples 256000] [--arms ARM ...] [--runs FOLDER]

Every arm trains crnn-small on rendered text from the same seed, on the same number of pictures that nobody drew before
on one thread and in one process, and is evaluated at its end
on pictures that no arm ever trained on. Arms that are done are not done again, so that the table can be made in several
stretches; an arm that was stopped goes on where it was.

Columns: word accuracies; their difference to "base", with the standard error of a difference of two accuracies on this
many crops (runs of the same settings with other seeds differ more, by about a point); processor time, all of it: the
pictures are drawn in it, too; how many pictures it took until the loss was below 0.8
of its mean between 5 and 10 % of the run, which is CTC's opening plateau of blanks; and until a tenth of the crops of
the last set was read, looked at every fortieth of a run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from crnn.config import Config
from crnn.config_file import load_config, parse_config
from crnn.evaluate import evaluate
from crnn.recognizer import load
from crnn.train import train

RATE = 2e-3
BATCH = 128
BASE: dict[str, dict[str, Any]] = {
    "look": {
        "tracking_share": 0.25,
        "tracking": 0.5,
        "letter_jitter_share": 0.06,
        "letter_jitter": 0.04,
        "small_caps_share": 0.03,
        "perspective_share": 0.3,
        "perspective": 0.15,
        "cut": 0.03,
        "low_contrast_share": 0.25,
        "outline_share": 0.12,
        "hollow_share": 0.02,
        "shadow_share": 0.12,
        "tone_share": 0.0,
        "relief_share": 0.1,
        "extrusion_share": 0.08,
        "neighbour_share": 0.25,
        "occlusion_share": 0.0,
    },
    "camera": {"contrast_least": 12.0, "low_resolution": 0.7, "shrink_share": 0.06},
    "objective": {"blank_bias": 0.0},
    "optim": {
        "optimizer": "muon",
        "momentum": 0.95,
        "learning_rate": RATE,
        "schedule": "one_cycle",
        "warmup": 0.075,
        "ema_decay": 0.995,
    },
    "train": {"batch_size": BATCH},
}
"""What the arms have in common, over the preset's settings; what it took over from them since is undone."""

ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "base": {},
    "base, seed 2": {"train": {"seed": 2}},
    "learning rate x 2": {"optim": {"learning_rate": 2 * RATE}},
    "learning rate x 0.5": {"optim": {"learning_rate": 0.5 * RATE}},
    "learning rate x 4": {"optim": {"learning_rate": 4 * RATE}},
    "learning rate x 2, batch 64, blank bias 4": {
        "train": {"batch_size": 64},
        "optim": {"learning_rate": 2 * RATE / math.sqrt(2), "ema_decay": 0.9975},
        "objective": {"blank_bias": 4.0},
    },
    "batch 64": {"train": {"batch_size": 64}, "optim": {"learning_rate": RATE / math.sqrt(2), "ema_decay": 0.9975}},
    "batch 256": {"train": {"batch_size": 256}, "optim": {"learning_rate": RATE * math.sqrt(2), "ema_decay": 0.99}},
    "adamw": {"optim": {"optimizer": "adamw", "momentum": 0.9}},
    "sgd": {"optim": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05}},
    "climb 0.3": {"optim": {"warmup": 0.3}},
    "adamw, climb 0.3": {"optim": {"optimizer": "adamw", "momentum": 0.9, "warmup": 0.3}},
    "cosine": {"optim": {"schedule": "cosine"}},
    "linear": {"optim": {"schedule": "linear"}},
    "constant": {"optim": {"schedule": "constant"}},
    "no average": {"optim": {"ema_decay": 0.0}},
    "blank bias 4": {"objective": {"blank_bias": 4.0}},
    "short first": {"corpus": {"short_first": 20_000}},
}
"""By name, what differs from the base."""

LOOKS = 40
"""Validations of a run on the last set."""


def settings(arm: str, options: argparse.Namespace, folder: Path) -> Config:
    """The preset with rendered text alone, and what the arm changes."""
    values = load_config("crnn-small").model_dump(mode="json", exclude_none=True)
    changes: tuple[dict[str, dict[str, Any]], ...] = (
        BASE,
        {
            "data": {"train": ["synth"], "validation": options.data[-1:], "workers": 0},
            "faces": {"folders": options.faces, "exclude": options.exclude},
            "train": {"threads": 1, "tensorboard": False, "log_steps": 10},
            "checkpoint": {"save_checkpoint_path": str(folder)},
        },
        ARMS[arm],
    )
    for section, change in ((s, c) for part in changes for s, c in part.items()):
        values[section] |= change
    steps = max(1, options.samples // values["train"]["batch_size"])
    values["train"]["num_steps"] = steps
    values["checkpoint"]["save_checkpoint_steps"] = max(1, steps // 4)
    values["eval"]["eval_steps"] = max(1, steps // LOOKS)
    return parse_config(values)


def result_of(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate an arm, or find what was found before."""
    folder = Path(options.runs) / "".join(c if c.isalnum() else "-" for c in arm)
    done, spent = folder / "result.json", folder / "seconds.json"
    if not done.exists():
        config = settings(arm, options, folder)
        before = json.loads(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
        start = time.process_time()
        report = train(config, resume=True)
        seconds = before + time.process_time() - start
        spent.write_text(json.dumps(seconds), encoding="utf-8")
        if report.stopped_by is not None:
            raise SystemExit(128 + report.stopped_by)
        found = evaluate(load(str(folder / "last.safetensors")), options.data, model=arm).as_dict()
        found |= {"seconds": seconds, **beginning(folder / "metrics.jsonl", config)}
        done.write_text(json.dumps(found), encoding="utf-8")
    values: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return values


def beginning(metrics: Path, config: Config) -> dict[str, int | None]:
    """When a run got going: pictures it had drawn when it left the plateau, and when it read a tenth of the last set.

    Args:
        metrics: Its ``metrics.jsonl``.
        config: Its settings.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps, size = config.train.num_steps or 1, config.train.batch_size
    losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    plateau = [loss for step, loss in losses if 0.05 * steps <= step <= 0.1 * steps]
    limit = 0.8 * sum(plateau) / len(plateau) if plateau else -math.inf
    left = next((step for step, loss in losses if step > 0.05 * steps and loss < limit), None)
    looks = [(line["step"], line["validation"]["combined_accuracy"]) for line in lines if "validation" in line]
    read = next((step for step, accuracy in looks if accuracy >= 0.1), None)
    return {"left_plateau": left and left * size, "first_tenth": read and read * size}


def print_head(first: dict[str, Any]) -> None:
    """The head of the table: the sets of the first arm, all crops together, times."""
    names = [dataset["name"] for dataset in first["datasets"]]
    columns = [*names, "together", "difference", "one standard error", "processor minutes", "plateau left", "10 % read"]
    print(f"| arm | {' | '.join(columns)} |")
    print("|---|" + "---:|" * len(columns))


def print_row(arm: str, found: dict[str, Any], first: dict[str, Any]) -> None:
    """An arm beside the first."""
    count = sum(dataset["samples"] for dataset in found["datasets"])
    accuracy, other = found["combined_accuracy"], first["combined_accuracy"]
    error = math.sqrt((accuracy * (1 - accuracy) + other * (1 - other)) / count)
    cells = [f"{100 * dataset['accuracy']:.1f}" for dataset in found["datasets"]]
    cells += [f"{100 * accuracy:.1f}", f"{100 * (accuracy - other):+.1f}", f"{100 * error:.1f}"]
    cells += [f"{found['seconds'] / 60:.2f} (x {found['seconds'] / first['seconds']:.2f})"]
    cells += [f"{found[key]:,}" if found[key] else "-" for key in ("left_plateau", "first_tenth")]
    print(f"| {arm} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="[NAME=]DATA: real crops, never trained on")
    parser.add_argument("--faces", nargs="+", default=["shipped"], help="as faces.folders")
    parser.add_argument("--exclude", nargs="*", default=["* BRK"], help="as faces.exclude")
    parser.add_argument("--samples", type=int, default=256_000)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--runs", default="runs/learning")
    options = parser.parse_args()
    first: dict[str, Any] | None = None
    for arm in options.arms:
        found = result_of(arm, options)
        if first is None:
            first = found
            print_head(first)
        print_row(arm, found, first)


if __name__ == "__main__":
    main()
