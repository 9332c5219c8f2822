"""Checks that need two ranks: ``test_distributed.py`` starts this file as both of them, and reads what rank 0 writes.

Usage: ``python on_two_ranks.py RESULTS FOLDER PORT...`` with torchrun's variables in the environment; each rank writes
``RESULTS.RANK``: for every check up to the first that fails, ``passed`` or its traceback.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crnn.distributed
import crnn.training.loop
import crnn.training.step
from crnn.config.run import Config, load_config
from crnn.distributed import Ranks, SyncBatchNorm2d, average_buffers, start_ranks, without_statistics
from crnn.engines.torch_engine import TorchEngine
from crnn.errors import ConfigError, TrainingError
from crnn.evaluation.evaluate import evaluate
from crnn.model.checkpoint import read_tensors
from crnn.model.crnn import build_model
from crnn.recognizer import Recognizer
from crnn.training.loop import TrainReport, train
from crnn.training.loss import ctc_loss

_ports: Iterator[str]
"""A port for each process group, in the same order on both ranks: the next one starts before the last one is gone."""


def both_ranks() -> AbstractContextManager[Ranks]:
    os.environ["MASTER_PORT"] = next(_ports)
    return start_ranks("cpu")


def train_here(config: Config, *, resume: bool = False) -> TrainReport:
    os.environ["MASTER_PORT"] = next(_ports)
    return train(config, resume=resume)


def check_batch_norm(folder: Path) -> None:
    """Three images here, five there: what comes out, the gradients and the statistics are those of all eight."""
    with both_ranks() as ranks:
        part = slice(0, 3) if ranks.is_main else slice(3, 8)
        ours, whole = SyncBatchNorm2d(5).double(), nn.BatchNorm2d(5).double()
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            images = 2.0 + 3.0 * torch.randn(8, 5, 4, 6, dtype=torch.float64, generator=generator)
            slopes = torch.randn(8, 5, 4, 6, dtype=torch.float64, generator=generator)
            mine, all_of_them = images[part].clone().requires_grad_(), images.clone().requires_grad_()
            found, expected = ours(mine), whole(all_of_them)
            (found * slopes[part]).sum().backward()
            (expected * slopes).sum().backward()
            torch.testing.assert_close(found, expected[part], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(mine.grad, all_of_them.grad[part], rtol=1e-12, atol=1e-12)
            for name in ("weight", "bias"):
                gradient = ranks.sum(getattr(ours, name).grad.clone())
                torch.testing.assert_close(gradient, getattr(whole, name).grad, rtol=1e-12, atol=1e-12)
                with torch.no_grad():
                    getattr(ours, name).add_(getattr(whole, name).grad, alpha=-0.1)
                    getattr(whole, name).add_(getattr(whole, name).grad, alpha=-0.1)
            ours.zero_grad()
            whole.zero_grad()
        assert ours.state_dict().keys() == whole.state_dict().keys()
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1e-12, atol=1e-12)
        assert ours.num_batches_tracked == 3
        ours.eval()
        whole.eval()
        assert torch.equal(ours(images[part]), nn.functional.batch_norm(
            images[part], ours.running_mean, ours.running_var, ours.weight, ours.bias, eps=ours.eps
        ))  # fmt: skip


def check_batch_norm_without_images(folder: Path) -> None:
    """A rank that has nothing of its own takes part, and no rank's results have anything of it."""
    with both_ranks() as ranks:
        ours, whole = nn.Sequential(SyncBatchNorm2d(5).double()), nn.BatchNorm2d(5).double()
        images = 2.0 + 3.0 * torch.randn(4, 5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = whole(images)
        if ranks.is_main:
            torch.testing.assert_close(ours(images), expected, rtol=1e-12, atol=1e-12)
        else:
            with without_statistics(ours):
                ours(torch.full((1, 5, 4, 6), 1e3, dtype=torch.float64))
        for name, tensor in ours[0].state_dict().items():
            torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1e-12, atol=1e-12)
        before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
        with without_statistics(ours):  # both ranks have nothing
            assert torch.isfinite(ours(images)).all()
        assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
        assert ours[0].counted


def check_batch_norm_far_from_zero(folder: Path) -> None:
    """Deviations of a thousandth of the mean, and none at all: sums of squares would have no digit left."""
    with both_ranks() as ranks:
        generator = torch.Generator().manual_seed(ranks.rank)
        images = 100.0 + 0.1 * torch.randn(4, 3, 8, 8, generator=generator)
        images[:, 2] = 7.7
        every = torch.cat(ranks.gather(images)).double()
        expected = nn.BatchNorm2d(3).double()(every).chunk(2)[ranks.rank]
        # The last digit of float32 at 100 is 7.6e-6, which is 7.6e-5 of the deviation.
        torch.testing.assert_close(SyncBatchNorm2d(3)(images).double(), expected, rtol=0.0, atol=5e-4)
        assert SyncBatchNorm2d(3)(images.bfloat16()).dtype == torch.bfloat16


def check_evaluation(folder: Path) -> None:
    """Two ranks find exactly what one does, whatever the batch size."""
    with both_ranks() as ranks:
        config = settings(folder, "unused")
        network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=3).eval()
        sets = [str(folder / "words" / "labels.tsv"), f"single={folder / 'single' / 'labels.tsv'}"]
        alone = evaluate(Recognizer(TorchEngine(network), config, batch_size=4), sets, model="m")
        shared = evaluate(Recognizer(TorchEngine(network), config, batch_size=3), sets, model="m", ranks=ranks)
        assert [dataset.sums.samples for dataset in alone.datasets] == [24, 1]
        assert alone.datasets[0].skipped == {"not_an_image": 1}
        assert shared.as_dict() == alone.as_dict()
        for one, other in zip(shared.datasets, alone.datasets, strict=True):
            assert (one.sums, one.skipped, one.unreadable) == (other.sums, other.skipped, other.unreadable)
            # Scores are sums of float32; another batch may round their last digits.
            assert [(s.index, s.key, s.label, s.prediction) for s in one.samples] == [
                (s.index, s.key, s.label, s.prediction) for s in other.samples
            ]


def check_separate_batch_norm(folder: Path) -> None:
    """Without shared statistics the ranks' own ones are averaged before they are used, and so are averages of them."""
    seen: list[list[dict[str, Tensor]]] = []

    def statistics(network: nn.Module, averaged: Any) -> dict[str, Tensor]:
        names = [n for n, b in network.named_buffers() if b.is_floating_point()]
        states = {"model": network.state_dict(), "ema": averaged}
        return {f"{kind}.{n}": state[n].clone() for kind, state in states.items() for n in names}

    def watched(network: nn.Module, ranks: Ranks, averaged: Any = None) -> None:
        before = ranks.gather(statistics(network, averaged))
        average_buffers(network, ranks, averaged)
        seen.append([*before, *ranks.gather(statistics(network, averaged))])

    crnn.training.loop.average_buffers = watched
    try:
        optim = {"ema_decay": 0.9}
        report = train_here(settings(folder, "separate", train={"sync_batch_norm": False, "num_steps": 3}, optim=optim))
    finally:
        crnn.training.loop.average_buffers = average_buffers
    assert len(seen) == 3  # before the validation, before the checkpoint, at the end
    first, second, after, other = seen[0]
    assert len(after) == 2 * 2 * 7
    for name, tensor in after.items():
        assert not torch.equal(first[name], second[name]), name
        assert torch.equal(tensor, other[name]), name
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    kept = read_tensors(report.weights)[0]
    assert all(torch.equal(kept[name.removeprefix("ema.")], t) for name, t in seen[0][2].items() if "ema" in name)


@contextlib.contextmanager
def stopped_in_step(step: int) -> Iterator[None]:
    """In here rank 1 sends itself a signal in that step."""
    rank, calls = int(os.environ["RANK"]), 0

    def stopping(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return ctc_loss(logits, targets, lengths)

    crnn.training.step.ctc_loss = stopping
    try:
        yield
    finally:
        crnn.training.step.ctc_loss = ctc_loss


def check_resume(folder: Path) -> None:
    """A signal to one rank stops both, and the run goes on bit for bit; each rank's unreadable images are counted."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"use_dropout": True, "dropout": 0.3},
        "optim": {"ema_decay": 0.9, "optimizer": "muon"},
        "data": {"workers": 0, "max_bad_share": 1.0},
        "train": {"num_steps": 12},
    }
    reports: list[TrainReport] = [train_here(settings(folder, "never", **sections))]
    with stopped_in_step(5):
        stopped = train_here(settings(folder, "stopped", **sections))
    assert (stopped.steps, stopped.stopped_by) == (5, signal.SIGTERM)
    reports.append(train_here(settings(folder, "stopped", **sections), resume=True))
    whole, resumed = reports
    assert (whole.steps, resumed.steps) == (12, 12)
    assert whole.skipped == resumed.skipped == {"not_an_image": 4}  # one of 24 and a broken one, twelve times eight
    left, right = (read_tensors(r.folder / "checkpoints/step-00000012.safetensors") for r in reports)
    assert left[1]["numbers"] == right[1]["numbers"]
    assert len(left[1]["numbers"]["skipped"]) == 2
    assert left[0].keys() == right[0].keys()
    assert [name for name in left[0] if not torch.equal(left[0][name], right[0][name])] == []


def check_refusal(folder: Path) -> None:
    """Rank 0 may not write over a run; the other one waits for it in vain, and says so."""
    kind, words = [
        (ConfigError, "already holds a run; --resume it"),
        (TrainingError, "^rank 1 ends because another rank did; look at what that one says$"),
    ][int(os.environ["RANK"])]
    with pytest.raises(kind, match=words):
        train_here(settings(folder, "never"))


def settings(folder: Path, name: str, **sections: dict[str, Any]) -> Config:
    """Those that the test wrote, with changes."""
    config = load_config(folder / "settings.toml")
    checkpoint = {"checkpoint": {"save_checkpoint_path": str(folder / name)}}
    for section, changes in (sections | checkpoint).items():
        config = config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})
    return config


CHECKS: list[Callable[[Path], None]] = [
    check_batch_norm,
    check_batch_norm_far_from_zero,
    check_batch_norm_without_images,
    check_evaluation,
    check_separate_batch_norm,
    check_resume,
    check_refusal,
]


def main() -> None:
    torch.set_num_threads(1)
    crnn.distributed.TIMEOUT = timedelta(minutes=2)
    global _ports
    folder, _ports = Path(sys.argv[2]), iter(sys.argv[3:])
    results: dict[str, str] = {}
    for check in CHECKS:
        try:
            check(folder)
        except Exception:
            results[check.__name__] = traceback.format_exc()
            break  # the other rank is somewhere else now
        results[check.__name__] = "passed"
    Path(f"{sys.argv[1]}.{os.environ['RANK']}").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
