"""Whether an accelerator computes what it should: against float64, and against the CPU."""

from __future__ import annotations

import contextlib
import statistics
import traceback
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from crnn.config import Config
from crnn.data.dataset import network_input
from crnn.model import build_model
from crnn.synth.source import SynthBatches
from crnn.training.accelerate import CapturedStep
from crnn.training.ahead import batches_ahead
from crnn.training.batched_ctc import batched_ctc_loss
from gpu_setup import Report, constant_batch, settings, training_step, wait

__all__ = ["check_ctc", "check_gradients", "check_rendering", "check_training", "check_waiting"]

_CPU = torch.device("cpu")


def check_gradients(report: Report, device: torch.device, backbones: list[str], batch: int) -> None:
    """Loss and gradient of the whole network beside float64; errors relative to the norm of the gradient."""
    for backbone in backbones:
        config = settings(backbone, batch, _CPU)
        exact_loss, exact = _exact(config)
        variants = {"fp32": {"precision": "fp32", "compile": False}, "bf16": {"precision": "bf16", "compile": False}}
        if device.type == "cuda" and backbone == backbones[0]:
            variants["bf16 compiled"] = {"precision": "bf16", "compile": True}
            variants["bf16 compiled graph"] = {"precision": "bf16", "compile": True, "cuda_graph": True}
        for name, train in variants.items():
            step = training_step(settings(backbone, batch, device, **train), device)
            loss = step._gradients(constant_batch(config, device), 1.0 / batch)
            found = torch.cat([p.grad.double().cpu().flatten() for p in step._parameters if p.grad is not None])
            if isinstance(step._captured, CapturedStep):
                assert step._captured._inputs, "the captured step was not used"
            report.row(
                "gradients", f"{backbone} {name}",
                loss_error=abs(loss.item() - exact_loss) / exact_loss,
                gradient_error=(found - exact).norm() / exact.norm(),
                cosine=F.cosine_similarity(found, exact, dim=0),
            )  # fmt: skip


def _exact(config: Config) -> tuple[float, Tensor]:
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=1).double().train()
    batch = constant_batch(config, _CPU)
    logits = network(network_input(batch.images).double())
    losses = batched_ctc_loss(logits.log_softmax(-1), batch.targets, batch.target_lengths)
    gradients = torch.autograd.grad(losses.sum() / len(batch), list(network.parameters()))
    return losses.sum().item(), torch.cat([gradient.flatten() for gradient in gradients])


def check_ctc(report: Report, device: torch.device, batch: int) -> None:
    """CTC on the device beside torch's own in float64, and whether it gives the same bits twice."""
    data = constant_batch(settings("small", batch, _CPU), _CPU)
    logits = torch.randn(batch, 24, 37, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3.0
    exact_in = logits.clone().requires_grad_()
    steps = torch.full((batch,), 24)
    exact = F.ctc_loss(exact_in.log_softmax(-1).transpose(0, 1), data.targets, steps, data.target_lengths, 36, "none")
    (exact_gradient,) = torch.autograd.grad(exact.sum(), exact_in)
    on_device = data.to(device)
    found = []
    for _ in range(2):
        single = logits.float().to(device).requires_grad_()
        losses = batched_ctc_loss(single.log_softmax(-1), on_device.targets, on_device.target_lengths)
        found.append((losses.detach(), torch.autograd.grad(losses.sum(), single)[0]))
    report.row(
        "ctc", "batched, fp32",
        loss_error=((found[0][0].double().cpu() - exact.detach()) / exact.detach()).abs().max(),
        gradient_error=(found[0][1].double().cpu() - exact_gradient).norm() / exact_gradient.norm(),
        same_bits_twice=all(torch.equal(a, b) for a, b in zip(*found, strict=True)),
    )  # fmt: skip


def check_rendering(report: Report, device: torch.device, count: int) -> None:
    """Pictures composed on the device beside those of the CPU, in grey levels of 255."""
    sources = [SynthBatches(settings("small", count, at, compile=False), device=at) for at in (_CPU, device)]
    here, there = (source[0].images.cpu().int() for source in sources)
    apart = (here - there).abs()
    report.row(
        "rendering", f"{count} pictures",
        equal=(apart == 0).float().mean(), within_one_level=(apart <= 1).float().mean(),
        mean_difference=apart.float().mean(), largest=int(apart.max()),
        pictures_over_8_levels=(apart.flatten(1).float().mean(dim=1) > 8).float().mean(),
    )  # fmt: skip


def check_training(report: Report, device: torch.device, steps: int, batch: int) -> None:
    """The same steps on both devices: losses run together at first, and end alike."""
    runs = {"cpu fp32": (_CPU, "fp32"), f"{device} fp32": (device, "fp32"), f"{device} auto": (device, "auto")}
    first: list[float] = []
    for name, (at, precision) in runs.items():
        config = settings("small", batch, at, precision=precision, compile=False)
        step, source = training_step(config, at), SynthBatches(config)  # pictures of the CPU for all
        losses = [step([source[number].to(at)], 1e-3).counts[0] / batch for number in range(steps)]
        wait(at)
        values = [loss.item() for loss in losses]
        first = first or values
        report.row(
            "training", name,
            first_loss=values[0], last_losses=statistics.fmean(values[-10:]),
            largest_difference=float(np.abs(np.array(values) - first).max()),
        )  # fmt: skip


def check_waiting(report: Report, device: torch.device, batch: int) -> None:
    """Whether anything in a step or in rendering makes the processor wait for the device."""
    config = settings("small", batch, device, compile=False, non_finite="skip")
    step, source = training_step(config, device), SynthBatches(config, device=device)
    one = source[0].to(device)
    step([one], 1e-3)
    wait(device)
    works: dict[str, Callable[[], object]] = {
        "a step": lambda: step([one], 1e-3),
        "a rendered batch": lambda: source._batch(0).to(device),
    }
    for name, work in works.items():
        if device.type != "cuda":
            work()
            report.row("waiting", name, waits="not said on this device")
            continue
        torch.cuda.set_sync_debug_mode("error")
        try:
            work()
            waits = "never"
        except RuntimeError as error:
            ours = [
                f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if "crnn" in f.filename
            ]
            waits = f"{ours[-1] if ours else '?'}: {str(error).splitlines()[0]}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        report.row("waiting", name, waits=waits)
    with contextlib.closing(batches_ahead(source.iterate(0, 3), device)) as batches:
        first = [batch.images.float().mean().item() for batch in batches]
    plain = [source[number].images.float().mean().item() for number in range(3)]
    report.row("waiting", "batches made ahead", same_as_without=first == plain)
