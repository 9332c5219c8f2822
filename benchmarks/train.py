"""Training: the loop beside a bare step of the same network, and the most memory that it ever has.

    python benchmarks/train.py [--backbones small vgg] [--data FOLDER] [--batch-size 16] [--steps 6]

The bare step has one constant batch and does forward, CTC, backward, clipping and optimizer. The loop is
``crnn.training.loop`` as it is: images decoded, augmented and resized by one worker process, loss, clipping, optimizer,
running average, metrics. Images are 32 x 100. Memory is that of a training process, without its worker (Linux).
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from common import Row, arguments, find_crops, measure, report, seconds
from crnn.config.run import Config, dump_config, load_config, parse_config
from crnn.data.dataset import StoredBatches, network_input
from crnn.distributed import has_fast_bf16
from crnn.model.crnn import build_model
from crnn.training.loop import train
from crnn.training.loss import ctc_loss
from crnn.training.optim import build_optimizer, clip_gradients

_CHILD = """
import sys
from crnn.cli import main
status = main(sys.argv[1:])
print(open("/proc/self/status").read())
sys.exit(status)
"""


def settings(backbone: str, data: Path, scratch: Path, options: argparse.Namespace) -> Config:
    """Return the preset of a backbone at 32 x 100, for a few steps in a folder of its own."""
    values = load_config(f"crnn-{backbone}").model_dump(mode="json", exclude_none=True)
    del values["image"]
    values["data"] |= {"train": [str(data)], "workers": 1}
    values["train"] |= {"batch_size": options.batch_size, "num_steps": options.steps, "threads": options.threads}
    values["train"] |= {"log_steps": max(1, options.steps // 3), "tensorboard": False, "device": "cpu"}
    folder = Path(tempfile.mkdtemp(dir=scratch), "run")
    values["checkpoint"] |= {"save_checkpoint": False, "save_checkpoint_path": str(folder)}
    return parse_config(values)


class BareStep:
    """Forward, loss, backward, clipping and optimizer on one constant batch."""

    def __init__(self, config: Config) -> None:
        self._config, self._batch = config, StoredBatches(config)[0]
        network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=1).train()
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = build_optimizer(self._network, config.optim)
        self._images = network_input(self._batch.images, config.image).contiguous(memory_format=torch.channels_last)
        self._bf16 = has_fast_bf16(torch.device("cpu"))

    def __call__(self) -> None:
        """Do one step."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._network(self._images)
        loss = ctc_loss(logits, self._batch.targets, self._batch.target_lengths) / len(self._batch)
        torch.autograd.backward(loss)
        clip_gradients(self._network.parameters(), self._config.optim.clip_norm)
        self._optimizer.step()
        loss.item()

    def rate(self, steps: int) -> float:
        """Return images per second; the first two steps do not count."""
        times = [seconds(self) for _ in range(steps + 2)]
        return len(self._batch) / statistics.median(times[2:])


def loop_rate(config: Callable[[], Config]) -> float:
    """Return images per second of a run over its logged windows, without the first, in which the worker starts."""
    metrics = train(config()).folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    rates = [float(line["samples_per_s"]) for line in lines if "samples_per_s" in line]
    return statistics.median(rates[1:])


def peak_memory(config: Config) -> str:
    """Return the most memory that a training has, in MB; nothing where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return ""
    folder = Path(config.checkpoint.save_checkpoint_path)
    path = folder.with_suffix(".toml")
    path.write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-c", _CHILD, "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"crnn train failed:\n{done.stderr}")
    return f"{int(found[1]) * 1024 / 1e6:,.0f} MB"


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__, count=128, rounds=2)
    parser.add_argument("--backbones", nargs="+", choices=["small", "vgg"], default=["small", "vgg"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="of one measurement; 6 or more")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        crops = find_crops(options, "tiny", Path(scratch))
        words = Path(scratch, "words.tsv")
        words.write_text("".join(f"{crop.path}\t{crop.label}\n" for crop in crops), encoding="utf-8")
        for backbone in options.backbones:
            config = functools.partial(settings, backbone, words, Path(scratch), options)
            bare = BareStep(config())
            rows.append(Row(f"{backbone}, bare step", functools.partial(bare.rate, options.steps)))
            loop = functools.partial(loop_rate, config)
            rows.append(Row(f"{backbone}, loop", loop, rows[-1].name, {"peak": peak_memory(config())}))
        measure(rows, options.rounds)
    precision = "bf16" if has_fast_bf16(torch.device("cpu")) else "fp32"
    title = f"training at batches of {options.batch_size}, {precision}, {options.threads} threads"
    report(title, "images/s", rows, options.json)


if __name__ == "__main__":
    main()
