"""crnn-vgg on rendered text, on a machine with a GPU that is only there for a while, and with nothing but files.

    python scripts/train_on_gpu.py pack packed.tar --faces FOLDER ... --crops iiit5k=crops/labels.tsv ...
    python scripts/train_on_gpu.py train packed.tar RUN OUT --seconds 540 [--section.key VALUE ...]
    python scripts/train_on_gpu.py join OUT weights.safetensors

``pack`` puts faces and real crops into one file of at most 24 MB. ``train`` unpacks it, trains for so many seconds,
ends with a checkpoint, evaluates on the crops and writes into OUT: the weights in parts of less than 16 MB, a checksum,
the evaluation, and the lines of the run. Called again it goes on exactly where it stopped; it ends with status 3 while
steps are left. Settings are those of the preset crnn-vgg, then ``SETTINGS`` below, then those that are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

MEGABYTE = 1 << 20
MOST_PACKED = 24 * MEGABYTE
PART = 15 * MEGABYTE
"""Bytes of a part of the weights."""

SAVING = 60.0
"""Seconds that a run may take to end after it was asked to."""

SETTINGS = {
    "data.train": ["synth"],
    "train.batch_size": ["1024"],
    "train.num_steps": ["60000"],
    "train.log_steps": ["100"],
    "optim.learning_rate": ["4e-3"],
    "optim.ema_decay": ["0.9998"],
    "synth.pool_size": ["131072"],
    "checkpoint.save_checkpoint_steps": ["2500"],
    "checkpoint.keep_checkpoint_max": ["2"],
}
"""61 million pictures: half an hour at 35,000 a second. The rate is twice that of the preset's batches of 128;
the square root of eight would make it 2.8 times. Neither has been tried."""

LEFT = 3
"""Exit status while steps are left."""


def crnn(*arguments: str) -> list[str]:
    """A ``crnn`` command for this Python."""
    return [sys.executable, "-m", "crnn", *arguments]


def pack(out: Path, faces: list[Path], crops: list[str]) -> None:
    """Faces and crops as one file."""
    with tarfile.open(out, "w:xz") as packed:
        for number, folder in enumerate(faces):
            packed.add(folder, f"faces/{number}")
        for crop in crops:
            name, _, path = crop.rpartition("=")
            packed.add(Path(path).parent, f"crops/{name or Path(path).parent.name}")
    size = out.stat().st_size
    if size > MOST_PACKED:
        out.unlink()
        raise SystemExit(
            f"faces and crops take {size / MEGABYTE:.1f} MB packed, and {MOST_PACKED / MEGABYTE:.0f} MB may travel; "
            "give fewer faces"
        )
    print(f"{out}: {size / MEGABYTE:.1f} MB")


def unpack(packed: Path, folder: Path) -> None:
    """Once; the folder only has its name when all is in it."""
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(packed) as archive:
        archive.extractall(partial, filter="data")
    partial.rename(folder)


def given(settings: list[str]) -> dict[str, list[str]]:
    """``--a.b 1 2 --c.d 3`` by name."""
    found: dict[str, list[str]] = {}
    for word in settings:
        if word.startswith("--") and "." in word:
            found[word[2:]] = values = []
        elif found:
            values.append(word)
        else:
            raise SystemExit(f"{word} is no setting; expected --section.key VALUE ...")
    return found


def command(run: Path, data: Path, settings: list[str]) -> list[str]:
    """The training, with everything that was unpacked."""
    faces = sorted(str(path) for path in (data / "faces").glob("*"))
    crops = sorted(f"{path.name}={path / 'labels.tsv'}" for path in (data / "crops").glob("*"))
    values = SETTINGS | {"checkpoint.save_checkpoint_path": [str(run)], "data.validation": crops}
    values["faces.folders"] = ["shipped", *faces]
    arguments = [word for key, words in (values | given(settings)).items() if words for word in (f"--{key}", *words)]
    return crnn("train", "crnn-vgg", *arguments, "--resume")


def train(packed: Path, run: Path, out: Path, seconds: float, settings: list[str]) -> int:
    """A stretch of the run, then what came of it; 0 where it is at its end."""
    started = time.monotonic()
    run.parent.mkdir(parents=True, exist_ok=True)
    data = run.with_name(run.name + "-data")
    unpack(packed, data)
    with subprocess.Popen(command(run, data, settings)) as process:
        try:
            status = process.wait(timeout=max(1.0, seconds - SAVING - (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it saves, and ends
            try:
                status = process.wait(timeout=SAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                raise SystemExit("the run did not end in time; its last checkpoint is there") from None
    if status not in (0, 128 + signal.SIGTERM):
        return status
    report(run, data, out)
    return 0 if status == 0 else LEFT


def report(run: Path, data: Path, out: Path) -> None:
    """Weights in parts, evaluation and lines into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("weights.*"):
        old.unlink()
    weights = (run / "last.safetensors").read_bytes()
    for number, start in enumerate(range(0, len(weights), PART)):
        (out / f"weights.{number}").write_bytes(weights[start : start + PART])
    (out / "weights.sha256").write_text(hashlib.sha256(weights).hexdigest() + "\n", encoding="utf-8")
    for name in ("metrics.jsonl", "config.toml"):
        shutil.copy(run / name, out / name)
    crops = sorted(f"{path.name}={path / 'labels.tsv'}" for path in (data / "crops").glob("*"))
    if crops:
        evaluate = crnn("evaluate", str(run / "last.safetensors"), *crops, "--json")
        done = subprocess.run(evaluate, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        (out / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        for dataset in found["datasets"]:
            print(f"{dataset['name']}: {dataset['accuracy']:.1%} of {dataset['samples']}")
    print(f"{out}: {len(weights) / MEGABYTE:.1f} MB of weights in {-(-len(weights) // PART)} parts")


def join(folder: Path, out: Path) -> None:
    """The weights from their parts, if they are what was written."""
    parts = [path for path in folder.glob("weights.*") if path.suffix[1:].isdecimal()]
    parts.sort(key=lambda path: int(path.suffix[1:]))
    weights = b"".join(path.read_bytes() for path in parts)
    if hashlib.sha256(weights).hexdigest() != (folder / "weights.sha256").read_text(encoding="utf-8").strip():
        raise SystemExit(f"{folder}: the {len(parts)} parts are not the weights that were written; copy them again")
    out.write_bytes(weights)


def main() -> int:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("out", type=Path)
    packing.add_argument("--faces", nargs="+", type=Path, default=[])
    packing.add_argument("--crops", nargs="+", default=[])
    training = commands.add_parser("train")
    for name in ("packed", "run", "out"):
        training.add_argument(name, type=Path)
    training.add_argument("--seconds", type=float, default=540.0, help="of the whole call, but for the evaluation")
    joining = commands.add_parser("join")
    joining.add_argument("folder", type=Path)
    joining.add_argument("out", type=Path)
    options, settings = parser.parse_known_args()
    if settings and options.command != "train":
        parser.error(f"{settings[0]} is no option of {options.command}")
    if options.command == "pack":
        pack(options.out, options.faces, options.crops)
    elif options.command == "join":
        join(options.folder, options.out)
    else:
        return train(options.packed, options.run, options.out, options.seconds, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
