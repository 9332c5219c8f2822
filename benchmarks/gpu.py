"""An accelerator, unattended, in under five minutes: first whether it computes what it should, then how fast.

    python benchmarks/gpu.py --out FOLDER [--device cuda] [--seconds 240]
    python benchmarks/gpu.py --out FOLDER --device cpu --tiny          does the same work at sizes for a test

Writes ``gpu.txt`` and ``gpu.json`` after every figure, so that a run which is cut off leaves what it found. Errors are
beside float64 or beside the CPU; speeds are medians, each beside the limit that the device's own measured products and
copies set. ``processor_ms`` is the time until the processor may go on: where it is near that of the whole, the device
waits for it. The target for vgg with rendering is 50,000 img/s.
"""

from __future__ import annotations

import argparse
import platform
import warnings
from pathlib import Path

import torch

from crnn.distributed import has_fast_bf16
from gpu_checks import check_ctc, check_gradients, check_rendering, check_training, check_waiting
from gpu_rates import Ceilings, measure_ceilings, rate_ctc, rate_loop, rate_lstm, rate_rendering, rate_steps
from gpu_setup import Report


def main() -> None:
    """Do all parts in the order of their worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.txt and gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=240.0, help="no part is begun after that")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*TF32.*")
    device, tiny = torch.device(options.device), options.tiny
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out, options.seconds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    report.say(f"torch {torch.__version__}, Python {platform.python_version()}, {name}, bf16 {has_fast_bf16(device)}")

    top: Ceilings = {}
    small, large = ([4], [6]) if tiny else ([256, 1024, 2048], [1024, 4096])
    both = ["small"] if tiny else ["vgg", "small"]
    rounds = 1 if tiny else 3
    report.part("ceilings", lambda: top.update(measure_ceilings(report, device, *((64, 1) if tiny else (8192, 1024)))))
    report.part("gradients beside float64", lambda: check_gradients(report, device, both, 4 if tiny else 16))
    report.part("CTC beside float64", lambda: check_ctc(report, device, 8 if tiny else 256))
    report.part("rendered pictures beside the CPU's", lambda: check_rendering(report, device, 8 if tiny else 256))
    report.part("does anything wait for the device", lambda: check_waiting(report, device, 8 if tiny else 256))
    report.part(f"step, {both[0]}", lambda: rate_steps(report, device, top, both[0], small, rounds))
    report.part("rendering", lambda: rate_rendering(report, device, top, large, rounds))
    loops = (4, 6) if tiny else (2048, 120)
    report.part(f"loop, {both[0]}, rendered", lambda: rate_loop(report, device, both[0], *loops))
    if device.type == "cuda":
        report.part("the same, captured", lambda: rate_loop(report, device, "vgg", *loops, cuda_graph=True))
    report.part("LSTM", lambda: rate_lstm(report, device, 4 if tiny else 2048, rounds))
    report.part("CTC", lambda: rate_ctc(report, device, 4 if tiny else 2048, rounds))
    report.part("50 steps beside the CPU's", lambda: check_training(report, device, *((2, 4) if tiny else (50, 64))))
    if not tiny:
        report.part("step, small", lambda: rate_steps(report, device, top, "small", large[-1:], rounds))
        report.part("loop, small, rendered", lambda: rate_loop(report, device, "small", loops[0] * 2, loops[1]))
    report.part("loop, stored pictures", lambda: rate_loop(report, device, "small", *loops, stored=True))
    report.say(f"\ndone; {options.out}/gpu.json has the same")


if __name__ == "__main__":
    main()
