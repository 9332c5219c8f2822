"""Several ranks: what they compute together is what one computes alone, and they end together.

Most checks run in ``on_two_ranks.py``, which is started once, as two processes that talk over the loopback device.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from crnn.config.run import dump_config
from crnn.distributed import (
    Ranks,
    has_fast_bf16,
    lost_peers_explained,
    resolve_device,
    start_ranks,
    sync_batch_norm,
)
from crnn.errors import ConfigError, TrainingError
from crnn.model.checkpoint import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


SCRIPT = Path(__file__).parents[0] / "training/on_two_ranks.py"
ALONE = Ranks(0, 1, torch.device("cpu"))


def free_ports(count):
    """Free ports that the system does not give to outgoing connections, which would take one before it is used."""
    found = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            found.append(str(port))
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def two_ranks(*command):
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
def test_the_checks_that_need_two_ranks(tmp_path, word_list, small_config):
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
    assert len(results[0]) == len(results[1]) == 7


@pytest.mark.slow
def test_torchrun_trains_on_two_ranks(tmp_path, word_list, small_config):
    """From the command line; ``test_ranks`` compares what is learned with that of one rank."""
    config = small_config(word_list(40), folder="two", train={"batch_size": 4, "num_steps": 3})
    (tmp_path / "two.toml").write_text(dump_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, "-m", "crnn", "train", str(tmp_path / "two.toml")], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "2 rank(s); 40 samples, 3 steps" in ended.stderr
    assert ended.stderr.count("step 3/3") == 1  # only rank 0 speaks
    assert load_weights(tmp_path / "two").info["samples"] == 24


# ---------------------------------------------------------------------------------------------------------------------
# On one


def test_one_process_is_one_rank(monkeypatch):
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


GONE = r"^rank 1 ends because another rank did; look at what that one says$"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:36760."), GONE),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Read error [127.0.0.1]: Connection reset by peer"), GONE),
        (RuntimeError("writev [127.0.0.1]:2: Broken pipe"), GONE),
        (dist.DistBackendError("NCCL error: remote process exited or there was a network error"), GONE),
        (
            RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 4000ms for recv operation"),
            r"^rank 1 waited 5 s for another rank, .* slower; wait longer$",
        ),
    ],
)
def test_the_end_of_another_rank_is_told_in_our_words(error, said):
    two = Ranks(1, 2, torch.device("cpu"))
    with pytest.raises(TrainingError, match=said), lost_peers_explained(two, 5.0, "wait longer"):
        raise error


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        (Ranks(0, 1, torch.device("cpu")), "Connection closed by peer"),
        (Ranks(1, 2, torch.device("cpu")), "shapes cannot be multiplied"),
    ],
)
def test_other_errors_stay_what_they_are(ranks, text):
    with pytest.raises(RuntimeError, match=text) as caught, lost_peers_explained(ranks, 5.0, ""):
        raise RuntimeError(text)
    assert not isinstance(caught.value, TrainingError)


def test_a_network_keeps_its_parameters_and_names_when_its_normalisation_is_shared():
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


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta:x", ""])
def test_a_device_that_cannot_be_used_is_said_in_one_line(name):
    with pytest.raises(ConfigError, match=r"device is '.*', which cannot be used here") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def test_auto_is_the_accelerator_where_there_is_one(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    assert resolve_device("auto") == torch.device("xpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)],
)
def test_bf16_is_used_where_the_cpu_multiplies_it(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bf16(torch.device("cpu")) is fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_fast_bf16(torch.device("cpu")) is False
