"""How fast an accelerator trains and renders, part by part, each beside its limit."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crnn.config import Config
from crnn.model import build_model
from crnn.synth.camera import apply_camera
from crnn.synth.draws import Draws
from crnn.synth.renderer import native_size, to_bytes
from crnn.synth.source import SynthBatches
from crnn.train import train
from crnn.training.batched_ctc import batched_ctc_loss
from gpu_setup import Report, Times, constant_batch, settings, training_step, wait
from roofline_counts import layers_of
from train_loop import draw_words

__all__ = ["Ceilings", "measure_ceilings", "rate_ctc", "rate_loop", "rate_lstm", "rate_rendering", "rate_steps"]

Ceilings = dict[str, float]
"""Of the device: multiply-adds per second in ``bf16``, ``tf32``, ``fp32``; bytes per second of a ``copy``."""


def measure_ceilings(report: Report, device: torch.device, size: int, megabytes: int) -> Ceilings:
    """A large matrix product in each precision, and a large copy."""
    found: Ceilings = {}
    for name, dtype, precision in (("bf16", torch.bfloat16, "highest"), ("tf32", torch.float32, "high"),
                                   ("fp32", torch.float32, "highest")):  # fmt: skip
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        found[name] = size**3 / Times.of(lambda a=a, b=b: a @ b, device, 5).whole  # type: ignore[misc]
        torch.set_float32_matmul_precision(before)
        report.row("ceilings", f"product {name}", tera_multiply_adds_per_s=found[name] / 1e12)
    memory = torch.empty(megabytes << 18, device=device)
    into = torch.empty_like(memory)
    found["copy"] = 2 * memory.nbytes / Times.of(lambda: into.copy_(memory), device, 5).whole
    report.row("ceilings", "copy, read and written", gigabytes_per_s=found["copy"] / 1e9)
    return found


def _limit(config: Config, precision: str, top: Ceilings) -> float:
    """Pictures per second if every layer went as fast as its arithmetic or its memory allows, LSTMs in TF32."""
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=1)
    seconds = []
    for count in (2, 4):  # what is there once per batch, weights, cancels
        images = torch.zeros(count, 1, 32, config.image.image_width)
        total = 0.0
        for layer in layers_of(network, images, precision == "bf16"):
            kind = precision if layer.name.startswith("conv") else "tf32"
            for cost in layer.merged:
                total += max(cost.multiply_adds / top[kind], sum(cost.tensors) / top["copy"])
        seconds.append(total)
    return 2.0 / max(seconds[1] - seconds[0], 1e-12)


def rate_steps(
    report: Report, device: torch.device, top: Ceilings, backbone: str, batches: list[int], rounds: int
) -> None:
    """The step of a run on a constant batch: forward, CTC, backward, clipping, AdamW, average."""
    variants = {"fp32": {"precision": "fp32", "compile": False}, "bf16": {"precision": "bf16", "compile": False}}
    if device.type == "cuda":
        variants["bf16 graph"] = {**variants["bf16"], "cuda_graph": True}
        variants["bf16 compiled"] = {**variants["bf16"], "compile": True}
        variants["bf16 compiled graph"] = {**variants["bf16"], "compile": True, "cuda_graph": True}
    for batch in batches:
        for name, train_settings in variants.items():
            if "compiled" in name and batch != batches[-1]:
                continue  # a compilation takes longer than all else
            if name == "fp32" and batch != batches[-1]:
                continue
            config = settings(backbone, batch, device, **train_settings)
            _reset_peak(device)
            try:
                step, one = training_step(config, device), constant_batch(config, device)
                times = Times.of(lambda step=step, one=one: step([one], 1e-4), device, rounds)  # type: ignore[misc]
            except (RuntimeError, AssertionError) as error:
                report.row("step", f"{backbone} {batch} {name}", failed=str(error)[:300])
                continue
            limit = _limit(config, "bf16" if "bf16" in name else "fp32", top)
            report.row(
                "step", f"{backbone} {batch} {name}",
                images_per_s=batch / times.whole, limit=limit, of_limit=batch / times.whole / limit,
                milliseconds=1e3 * times.whole, processor_ms=1e3 * times.planned, peak_mib=_peak(device),
            )  # fmt: skip
            torch._dynamo.reset()


def rate_lstm(report: Report, device: torch.device, batch: int, rounds: int) -> None:
    """The second half of the network, forward and backward, in several precisions; errors beside float64."""
    config = settings("vgg", batch, device)
    network = build_model(config.model, config.image, 37, seed=1).to(device)
    features = torch.randn(batch, 24, network.depth, generator=torch.Generator().manual_seed(1)).to(device)
    some = features[:4].double().cpu()
    exact = build_model(config.model, config.image, 37, seed=1).double().classify(some)

    def run(dtype: torch.dtype, tf32: bool) -> Tensor:
        own = network.to(dtype)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            given = features.to(dtype).requires_grad_()
            logits = own._classify(given)
            torch.autograd.backward(logits.float().square().sum())
        return logits

    variants = {"fp32": (torch.float32, False), "fp32, TF32 products": (torch.float32, True),
                "bf16": (torch.bfloat16, True), "fp16": (torch.float16, True)}  # fmt: skip
    for name, (dtype, tf32) in variants.items():
        if dtype == torch.float16 and device.type == "cpu":
            continue
        try:
            times = Times.of(lambda d=dtype, t=tf32: run(d, t), device, rounds)  # type: ignore[misc]
            error = (run(dtype, tf32)[:4].double().cpu() - exact).norm() / exact.norm()
        except RuntimeError as failure:
            report.row("lstm", f"vgg {batch} {name}", failed=str(failure)[:300])
            continue
        report.row("lstm", f"vgg {batch} {name}", milliseconds=1e3 * times.whole, images_per_s=batch / times.whole,
                   error=error.item())  # fmt: skip


def rate_ctc(report: Report, device: torch.device, batch: int, rounds: int) -> None:
    """CTC forward and backward: ours, torch's kernel, cuDNN's, which has the blank first."""
    data = constant_batch(settings("small", batch, device), device)
    lengths, steps = data.target_lengths.cpu(), torch.full((batch,), 24)
    logits = torch.randn(batch, 24, 37, device=device, requires_grad=True)

    def ours() -> Tensor:
        return batched_ctc_loss(logits.log_softmax(-1), data.targets, data.target_lengths).sum()

    def of_torch() -> Tensor:
        return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), data.targets, steps, lengths, 36, "sum")

    joined = torch.cat([row[:n] for row, n in zip(data.targets.cpu().tolist(), lengths.tolist(), strict=True) for row in
                        [torch.tensor(row)]]).int() + 1  # fmt: skip

    def of_cudnn() -> Tensor:
        log_probs = logits.roll(1, dims=2).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_probs, joined, steps.int(), lengths.int(), 0, "sum")

    for name, loss in (("batched", ours), ("torch's", of_torch), ("cuDNN's, blank first", of_cudnn)):
        try:
            times = Times.of(lambda f=loss: torch.autograd.backward(f()), device, rounds)  # type: ignore[misc]
            report.row("ctc rates", f"{batch} {name}", milliseconds=1e3 * times.whole, processor_ms=1e3 * times.planned,
                       loss=loss().item())  # fmt: skip
        except RuntimeError as error:
            report.row("ctc rates", f"{batch} {name}", failed=str(error)[:300])


class _Traffic(TorchDispatchMode):
    """Counts operations, and the bytes of tensors that they read and write; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in ("lift_fresh", "detach", "_unsafe_view"):
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            sizes = [t.nbytes for t in tensors]
            if name in ("index_select", "gather", "index_copy_", "index_add_"):
                # Of what is looked into, or written into, only the chosen part is touched: once there, once here.
                moved = sizes[-1] if name in ("index_select", "gather") else sizes[-2]
                sizes = [2 * moved, min(sizes)]
            self.operations += 1
            self.bytes += sum(sizes)
        return result


@torch.no_grad()
def rate_rendering(report: Report, device: torch.device, top: Ceilings, batches: list[int], rounds: int) -> None:
    """Rendered text: words of one process, then pictures by stage, with the words at hand."""
    for batch in batches:
        source = SynthBatches(settings("vgg", batch, device), device=device)
        source[0]
        if batch == batches[0]:
            writer, numbers = source._renderer.writer, np.arange(10**6, 10**6 + min(256, 8 * batch))
            words = Times.of(lambda w=writer, n=numbers: w.write(n), torch.device("cpu"), 3, 1)  # type: ignore[misc]
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            report.row("rendering rates", "words, one process", words_per_s=len(numbers) / words.whole, cores=cores)
        for name, work in _stages(source, device).items():
            times = Times.of(work, device, rounds, 2)
            with _Traffic() as traffic:
                work()
            wait(device)
            limit = batch * top["copy"] / max(traffic.bytes, 1)
            report.row(
                "rendering rates", f"{batch} {name}",
                pictures_per_s=batch / times.whole, limit=limit, of_limit=batch / times.whole / limit,
                processor_ms=1e3 * times.planned, operations=traffic.operations,
                bytes_per_picture=traffic.bytes / batch,
            )  # fmt: skip


def _stages(source: SynthBatches, device: torch.device) -> dict[str, Callable[[], object]]:
    renderer, config = source._renderer, source._config
    plan, pool = source._plans[0], source._pools[0]  # pictures of one width, as benchmarks have them
    places, draws = plan.words(0), Draws(config.train.seed, plan.samples(0))
    cells, ratios = pool.cells(places[:, 0])

    def beside(rows: npt.NDArray[np.int64], place: int) -> tuple[Tensor, npt.NDArray[np.float64]]:
        return pool.cells(places[rows, 1 + place])

    scene = renderer.scene(draws, cells, ratios, beside)
    return {
        "scenes": lambda: renderer.scene(draws, cells, ratios, beside),
        "camera": lambda: apply_camera(scene.pictures, draws, config.camera, native_size(draws, scene.geometry)),
        "bytes": lambda: to_bytes(scene.pictures),
        "whole batch": lambda: source._batch(0).to(device),
    }


def rate_loop(
    report: Report,
    device: torch.device,
    backbone: str,
    batch: int,
    steps: int,
    stored: bool = False,
    **train_settings: object,
) -> None:
    """``crnn.train`` as it is, from the lines that it writes; the first third, in which all starts, left out."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        every = max(1, steps // 12)
        config = settings(backbone, batch, device, num_steps=steps, log_steps=every, **train_settings)
        data = config.data.model_copy(update={"train": (draw_words(scratch),)}) if stored else config.data
        folder = config.checkpoint.model_copy(update={"save_checkpoint_path": str(scratch / "run")})
        _reset_peak(device)
        train(config.model_copy(update={"data": data, "checkpoint": folder}))
        text = (scratch / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        rates = [float(json.loads(line)["samples_per_s"]) for line in text.splitlines() if "samples_per_s" in line]
    settled = rates[len(rates) // 3 :]
    name = f"{backbone} {batch} {'stored' if stored else 'rendered'} " + " ".join(
        f"{k}={v}" for k, v in train_settings.items()
    )
    report.row("loop", name, images_per_s=statistics.median(settled), slowest=min(settled), peak_mib=_peak(device))
    torch._dynamo.reset()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
