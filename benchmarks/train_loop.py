"""The training loop's pictures per second beside a bare forward-backward-step of the same network, in the same run.

    python benchmarks/train_loop.py [--data crops/labels.tsv] [--backbone vgg] [--rounds 5] [--steps 20]

The bare step has a constant batch and does forward, CTC, backward, clipping and AdamW. The loop is ``crnn.train`` as it
is: pictures decoded, augmented and resized by one worker process, loss, clipping, optimiser, running average, metrics.
Both take turns, so that a drift of the machine meets both; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from crnn.config import Config
from crnn.config_file import load_config, parse_config
from crnn.data.dataset import StoredBatches, network_input
from crnn.distributed import has_fast_bf16
from crnn.loss import ctc_loss
from crnn.model import build_model
from crnn.train import train
from crnn.training.optim import build_optimizer, clip_gradients


def settings(backbone: str, data: str, folder: str, steps: int) -> Config:
    """The preset of a backbone on this data, for a few steps."""
    values = load_config(f"crnn-{backbone}").model_dump(mode="json", exclude_none=True)
    values["data"]["train"] = [data]
    values["train"] |= {"num_steps": steps, "log_steps": 5, "tensorboard": False}
    values["checkpoint"] |= {"save_checkpoint": False, "save_checkpoint_path": folder}
    return parse_config(values)


class BareStep:
    """Forward, loss, backward, clipping and optimiser on one constant batch."""

    def __init__(self, config: Config) -> None:
        batch = StoredBatches(config)[0]
        self._config, self._batch = config, batch
        self._network = build_model(config.model, config.image, 37, seed=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = build_optimizer(self._network, config.optim)
        self._images = network_input(batch.images).contiguous(memory_format=torch.channels_last)
        self._bf16 = has_fast_bf16(torch.device("cpu"))

    def rate(self, steps: int) -> float:
        """Pictures per second over some steps, after two that are not counted."""
        times = []
        for _ in range(steps + 2):
            start = time.perf_counter()
            self._optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                logits = self._network(self._images)
            loss = ctc_loss(logits, self._batch.targets, self._batch.target_lengths) / len(self._batch)
            torch.autograd.backward(loss)
            clip_gradients(self._network.parameters(), self._config.optim.clip_norm)
            self._optimizer.step()
            loss.item()
            times.append(time.perf_counter() - start)
        return len(self._batch) / statistics.median(times[2:])


def loop_rate(config: Config) -> float:
    """Pictures per second of the loop over its logged windows, the first one (start of the worker) left out."""
    report = train(config)
    lines = [json.loads(line) for line in (report.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(float(line["samples_per_s"]) for line in lines[1:])


def draw_words(folder: Path, count: int = 256) -> str:
    """A list of drawn words the size of ordinary crops, for machines without real ones."""
    for number in range(count):
        picture = Image.new("RGB", (140, 48), "white")
        ImageDraw.Draw(picture).text((6, 6), f"word{number}", fill="black", font=ImageFont.load_default(30))
        picture.save(folder / f"{number}.jpg")
    path = folder / "labels.tsv"
    path.write_text("".join(f"{n}.jpg\tword{n}\n" for n in range(count)), encoding="utf-8")
    return str(path)


def main() -> None:
    """Print one line per backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="list file or LMDB folder; default: drawn words")
    parser.add_argument("--backbone", choices=["vgg", "small"], action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, bf16 {has_fast_bf16(torch.device('cpu'))}")
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or draw_words(Path(scratch))
        for backbone in options.backbone or ["vgg", "small"]:
            bare = BareStep(settings(backbone, data, scratch, options.steps))
            bares, loops, ratios = [], [], []
            for number in range(options.rounds):
                bares.append(bare.rate(options.steps))
                loops.append(loop_rate(settings(backbone, data, f"{scratch}/{backbone}{number}", options.steps)))
                ratios.append(loops[-1] / bares[-1])
            print(
                f"{backbone:<6} bare step {statistics.median(bares):7.1f} img/s   loop {statistics.median(loops):7.1f} "
                f"img/s   loop / bare {statistics.median(ratios):.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
            )


if __name__ == "__main__":
    main()
