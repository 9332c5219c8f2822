"""From nothing to a reader in a few minutes: train on rendered words, evaluate on unseen ones, read images.

Everything happens in ``demo/``; no dataset is needed, nothing is downloaded. The preset ``tiny`` renders easy words and
trains for a minute or two: this shows that the parts work together, not what the network can do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path("demo")
UNSEEN_WORDS = 300


def crnn(*arguments: str) -> None:
    """Run a ``crnn`` command and show it as one would type it."""
    print(f"\n$ crnn {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "crnn", *arguments], check=True)


def main() -> None:
    """The whole demo."""
    start = time.perf_counter()
    DEMO.mkdir(exist_ok=True)
    run, unseen = str(DEMO / "run"), DEMO / "unseen"
    for earlier in (DEMO / "run", unseen, DEMO / "unseen.partial"):
        shutil.rmtree(earlier, ignore_errors=True)

    # What training renders, to look at; then a set of images from another seed, which training never sees.
    crnn("synth", "preview", str(DEMO / "training.png"), "tiny")
    crnn("synth", "write", str(unseen), "tiny", "--count", str(UNSEEN_WORDS), "--to", "list", "--train.seed", "7")
    crnn(
        *("train", "tiny", "--data.train", "synth", "--data.validation", str(unseen)),
        *("--checkpoint.save_checkpoint_path", run),
    )
    crnn("evaluate", run, str(unseen), "--report", str(DEMO / "report.html"))
    lines = (unseen / "labels.tsv").read_text(encoding="utf-8").splitlines()[:6]
    crnn("read", *(str(unseen / line.split("\t")[0]) for line in lines), "--model", run)
    print("\nWhat the images say:", ", ".join(line.split("\t")[1] for line in lines))
    print(f"{time.perf_counter() - start:.0f} s. training.png, the images, the run and report.html are in {DEMO}/")


if __name__ == "__main__":
    main()
