"""What each ingredient of rendered text is worth: the same small training without it, judged on real crops.

    python benchmarks/synth_ingredients.py --data iiit5k=iiit5k/labels.tsv svt=svt/labels.tsv [--faces FOLDER ...]
        [--samples 256000] [--arms ARM ...] [--runs FOLDER] [--threads 1]

Every arm trains crnn-small from the same seed on the same number of samples that nobody drew before, and is evaluated
once, at the end, on pictures that no arm ever trained on. Arms that are done are not done again, so that the table can
be made in several stretches. Prints a table of word accuracies and what the difference to "all" is worth: one standard
error of a difference of two accuracies on this many crops.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from crnn.config import Config
from crnn.config_file import load_config, parse_config
from crnn.evaluate import evaluate
from crnn.recognizer import load
from crnn.train import train

OFF = 0.0
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "all": {},
    "shipped faces only": {"faces": {"folders": ["shipped"]}},
    "no curves": {"look": {"arc_share": OFF, "wave_share": OFF}},
    "no perspective": {"look": {"perspective_share": OFF}},
    "no slant, rotation": {"look": {"slant_share": OFF, "rotate_degrees": OFF, "tilt_share": OFF}},
    "no elastic": {"look": {"elastic_share": OFF}},
    "no textures": {
        "look": {"texture_share": OFF, "fill_texture_share": OFF, "blend_share": OFF, "ghost_share": OFF}
    },
    "no gradients, areas": {"look": {"gradient_share": OFF, "split_share": OFF, "tone_share": OFF}},
    "no neighbours": {"look": {"neighbour_share": OFF, "frame_share": OFF, "occlusion_share": OFF}},
    "no outlines, shadows": {
        "look": {
            "outline_share": OFF, "shadow_share": OFF, "extrusion_share": OFF, "relief_share": OFF, "hollow_share": OFF,
        }
    },
    "no low resolution": {"camera": {"low_resolution": OFF, "shrink_share": OFF}},
    "no blur": {"camera": {"blur_share": OFF, "defocus_share": OFF, "motion_share": OFF}},
    "no noise, JPEG": {"camera": {"noise_share": OFF, "jpeg_share": OFF, "salt_share": OFF}},
    "no punctuation": {"corpus": {"punctuation": OFF}},
    "no length weights": {"corpus": {"length_weights": []}},
    "tight crops only": {"look": {"margin": 0.04, "loose_share": OFF}},
    "half as many uses": {"synth": {"reuse": 2.0}},
}  # fmt: skip
"""By name, what differs from the preset's settings."""


def settings(arm: str, options: argparse.Namespace, folder: Path) -> Config:
    """The preset with rendered text alone, without one ingredient."""
    values = load_config("crnn-small").model_dump(mode="json", exclude_none=True)
    values["data"] |= {"train": ["synth"], "validation": []}
    values["faces"] |= {"folders": options.faces}
    values["optim"] |= {"learning_rate": options.learning_rate, "ema_decay": 0.995}
    steps = options.samples // options.batch_size
    values["train"] |= {"batch_size": options.batch_size, "num_steps": steps, "tensorboard": False}
    if options.threads:
        values["train"]["threads"] = options.threads
        values["data"]["workers"] = 0
    values["checkpoint"] |= {"save_checkpoint_path": str(folder), "save_checkpoint_steps": max(1, steps // 4)}
    for section, changes in ARMS[arm].items():
        values[section] |= changes
    return parse_config(values)


def result_of(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate an arm, or find what was found before."""
    folder = Path(options.runs) / "".join(c if c.isalnum() else "-" for c in arm)
    done = folder / "result.json"
    if not done.exists():
        report = train(settings(arm, options, folder), resume=True)
        if report.stopped_by is not None:
            raise SystemExit(128 + report.stopped_by)
        found = evaluate(load(str(folder / "last.safetensors")), options.data, model=arm).as_dict()
        done.write_text(json.dumps(found), encoding="utf-8")
    values: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return values


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """One line per arm, the sets and all crops together."""
    first = next(iter(results.values()))
    names = [dataset["name"] for dataset in first["datasets"]]
    print(f"| arm | {' | '.join(names)} | together | difference | one standard error |")
    print("|---|" + "---:|" * (len(names) + 3))
    for arm, found in results.items():
        count = sum(dataset["samples"] for dataset in found["datasets"])
        accuracy, other = found["combined_accuracy"], first["combined_accuracy"]
        error = math.sqrt((accuracy * (1 - accuracy) + other * (1 - other)) / count)
        cells = " | ".join(f"{100 * dataset['accuracy']:.1f}" for dataset in found["datasets"])
        print(f"| {arm} | {cells} | {100 * accuracy:.1f} | {100 * (accuracy - other):+.1f} | {100 * error:.1f} |")


def main() -> None:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="[NAME=]DATA: real crops, never trained on")
    parser.add_argument("--faces", nargs="+", default=["shipped"], help="as faces.folders")
    parser.add_argument("--samples", type=int, default=256_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--runs", default="runs/ingredients")
    parser.add_argument("--threads", type=int, help="for several arms side by side: 1, and one process")
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for arm in options.arms:
        results[arm] = result_of(arm, options)
        print_table(results)


if __name__ == "__main__":
    main()
