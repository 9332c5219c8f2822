"""Several ranks: what they compute together is what one computes alone, and they end together.

Most checks run in ``on_two_ranks.py``, which is started once, as two processes that talk over the loopback device.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from crnn.config.run import Config, dump_config
from crnn.distributed import (
    Ranks,
    SyncBatchNorm2d,
    average_buffers,
    has_fast_bf16,
    is_lost_peer,
    lost_peers_explained,
    resolve_device,
    start_ranks,
    sync_batch_norm,
)
from crnn.errors import ConfigError, TrainingError
from crnn.model.checkpoint import load_weights
from crnn.model.crnn import build_model
from crnn.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]
Words = Callable[..., Path]

SCRIPT = Path(__file__).parents[0] / "training/on_two_ranks.py"
ALONE = Ranks(0, 1, torch.device("cpu"))


def free_ports(count: int) -> list[str]:
    """Free ports that the system does not give to outgoing connections, which would take one before it is used."""
    found: list[str] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            found.append(str(port))
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def two_ranks(*command: str) -> list[tuple[int, str, str]]:
    """Run Python with these arguments as rank 0 and rank 1 of two: exit status, stdout and stderr of each."""
    (port,) = free_ports(1)
    processes = []
    for rank in (0, 1):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{k: str(v) for k, v in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, *command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, outputs, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# On two ranks


@pytest.mark.slow
def test_the_checks_that_need_two_ranks(tmp_path: Path, word_list: Words, small_config: Configs) -> None:
    words = word_list(25)
    (words.parent / "images" / "7.png").write_bytes(b"no image")
    single = word_list(1, "single")
    assert single.exists()
    config = small_config(words, train={"batch_size": 4}, data={"validation": [str(words)]})
    (tmp_path / "settings.toml").write_text(dump_config(config))
    # Warnings are errors there, too.
    ended = two_ranks("-W", "error", str(SCRIPT), str(tmp_path / "results"), str(tmp_path), *free_ports(16))
    assert [status for status, _, _ in ended] == [0, 0], ended
    results = [json.loads((tmp_path / f"results.{rank}").read_text()) for rank in (0, 1)]
    bad = [
        f"rank {rank}, {name}:\n{text}" for rank in (0, 1) for name, text in results[rank].items() if text != "passed"
    ]
    assert not bad, "\n".join(bad)
    assert len(results[0]) == len(results[1]) == 9


@pytest.mark.slow
def test_two_ranks_train_what_one_rank_with_the_whole_batch_trains(
    tmp_path: Path, word_list: Words, small_config: Configs
) -> None:
    """2 x 4 samples are 1 x 8, from the command line, with shared batch statistics.

    Tolerances: losses 1e-5, weights 1e-5 where the steps move them by 5e-3 and more: float32 sums in another order,
    times twelve steps. (In float64 the gradients agree to 1e-8: ``check_network``.) Contiguous, because torch's batch
    normalisation on the CPU rounds a hundred times more coarsely in channels_last; SGD, because AdamW divides rounding
    by rounding where a gradient is next to nothing.
    """
    sections: dict[str, dict[str, Any]] = {
        "data": {"train": [str(word_list(40))], "validation": [str(word_list(7, "held_back", seed=1))]},
        "optim": {"optimizer": "sgd", "learning_rate": 1e-3, "ema_decay": 0.5},
    }
    one = small_config(folder="one", **sections, train={"batch_size": 8, "channels_last": False})
    two = small_config(folder="two", **sections, train={"batch_size": 4, "channels_last": False})
    report = train(one)
    settings = tmp_path / "two.toml"
    settings.write_text(dump_config(two))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, "-m", "crnn", "train", str(settings)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "2 rank(s); 40 samples, 12 steps" in ended.stderr
    assert ended.stderr.count("step 12/12") == 1  # only rank 0 speaks

    folder = tmp_path / "two"
    lines = [
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (report.folder, folder)
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for left, right in zip(*lines, strict=True):
        if "validation" in left:
            for key in ("model", "calibration"):  # the latter is of scores, whose last digits are the weights' ones
                left["validation"].pop(key)
                right["validation"].pop(key)
            assert left == right
        else:
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
            assert left["gradient_norm"] == pytest.approx(right["gradient_norm"], rel=1e-4)
    expected, found = load_weights(report.weights), load_weights(folder)
    assert expected.info["samples"] == found.info["samples"] == 96
    start = build_model(one.model, one.image, 11, seed=one.train.seed).state_dict()
    assert (
        max(
            float((start[name] - tensor).abs().max()) for name, tensor in expected.tensors.items() if "norm" not in name
        )
        > 5e-3
    )
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_run(tmp_path: Path, word_list: Words, small_config: Configs) -> None:
    (tmp_path / "settings.toml").write_text(dump_config(small_config(word_list(16), train={"batch_size": 4})))
    first, second = two_ranks(str(SCRIPT), "fail", str(tmp_path), *free_ports(1))
    assert time.time() - float((tmp_path / "failed_at").read_text()) < 30.0
    assert first[0] != 0
    assert second[0] != 0
    assert "MemoryError: rank 1 has no memory left" in second[2]
    assert "TrainingError: rank 0 ends because another rank did; look at what that one says" in first[2]


# ---------------------------------------------------------------------------------------------------------------------
# On one


def test_one_process_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for world_size in (None, "1"):
        if world_size is not None:
            monkeypatch.setenv("WORLD_SIZE", world_size)
        with start_ranks("cpu") as ranks:
            assert ranks == ALONE
            assert not dist.is_initialized()
    tensor = torch.tensor([1.0, 2.0])
    assert ranks.sum(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    assert (ranks.gather("x"), ranks.broadcast("x"), ranks.is_main) == (["x"], "x", True)
    ranks.barrier()


def test_a_lost_rank_is_said_in_words() -> None:
    two = Ranks(1, 2, torch.device("cpu"))
    with (
        pytest.raises(TrainingError, match=r"^rank 1 ends because another rank did; look at what that one says$"),
        lost_peers_explained(two, 5.0, "wait longer"),
    ):
        raise RuntimeError("[../gloo/pair.cc:525] Connection closed by peer [127.0.0.1]:1")
    with (
        pytest.raises(TrainingError, match=r"^rank 1 waited 5 s for another rank, .* slower; wait longer$"),
        lost_peers_explained(two, 5.0, "wait longer"),
    ):
        raise RuntimeError("Timed out waiting 5000ms for recv operation to complete")
    for ranks, text in ((ALONE, "Connection closed by peer"), (two, "shapes cannot be multiplied")):
        with pytest.raises(RuntimeError, match=text) as caught, lost_peers_explained(ranks, 5.0, ""):
            raise RuntimeError(text)
        assert not isinstance(caught.value, TrainingError)


def test_alone_shared_batch_normalisation_is_the_usual_one() -> None:
    images = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    ours, usual = SyncBatchNorm2d(3), nn.BatchNorm2d(3)
    assert torch.equal(ours(images), usual(images))
    assert torch.equal(ours.running_var, usual.running_var)


def test_a_network_keeps_its_parameters_and_names_when_its_normalisation_is_shared() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)), nn.BatchNorm1d(2))
    before = dict(network.named_parameters()), dict(network.named_buffers())
    assert sync_batch_norm(network) is network
    assert [type(m).__name__ for m in network.modules() if "Norm" in type(m).__name__] == [
        "SyncBatchNorm2d", "SyncBatchNorm2d", "BatchNorm1d",
    ]  # fmt: skip
    after = dict(network.named_parameters()), dict(network.named_buffers())
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(old[name] is new[name] for name in old)


def test_buffers_of_one_rank_stay_what_they_are() -> None:
    network = nn.BatchNorm2d(2)
    network(torch.arange(16.0).reshape(1, 2, 2, 4))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    average_buffers(network, ALONE, network.state_dict())
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta:x", ""])
def test_a_device_that_cannot_be_used_is_said_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"device is '.*', which cannot be used here") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def test_auto_is_the_accelerator_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    assert resolve_device("auto") == torch.device("xpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert resolve_device("auto") == torch.device("cpu")


def test_ascend_is_registered_where_its_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "torch_npu" else None)
    monkeypatch.setattr("crnn.distributed.importlib.import_module", imported.append)
    resolve_device("cpu")
    assert imported == ["torch_npu"]


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)],
)
def test_bf16_is_used_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bf16(torch.device("cpu")) is fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_fast_bf16(torch.device("cpu")) is False


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:36760."), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Read error [127.0.0.1]: Connection reset by peer"), True),
        (RuntimeError("writev [127.0.0.1]:2: Broken pipe"), True),
        (dist.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_the_end_of_another_rank_is_recognised(error: RuntimeError, lost: bool) -> None:
    assert is_lost_peer(error) is lost
