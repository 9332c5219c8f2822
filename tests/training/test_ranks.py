"""One, two and four ranks learn the same from the same samples, and none waits for ever for one that is gone."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crnn.config.run import Config, dump_config
from crnn.config.training import DataConfig
from crnn.data.loader import iterate_batches
from crnn.model.checkpoint import read_tensors
from crnn.model.crnn import build_model

Configs = Callable[..., Config]
Words = Callable[..., Path]

SCRIPT = Path(__file__).parents[1] / "training/on_ranks.py"


def run_on_ranks(folder: Path, *runs: str) -> None:
    """``on_ranks.py``."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(folder), *runs], capture_output=True, text=True, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def ended_as(folder: Path, name: str, rank: int) -> dict[str, Any]:
    """What a rank wrote."""
    found: dict[str, Any] = json.loads((folder / f"{name}.{rank}.json").read_text(encoding="utf-8"))
    return found


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The network and its average in the last checkpoint, by name."""
    tensors = read_tensors(folder / "checkpoints" / "step-00000006.safetensors")[0]
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("model.", "ema."))}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the clock, on the folder's name, and on last digits."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("samples_per_s", None)
        for key in ("model", "calibration"):  # the latter is of scores, whose last digits are the weights' ones
            line.get("validation", {}).pop(key, None)
    return lines


# ---- What they learn


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stored", "rendered"])
def test_two_and_four_ranks_learn_what_one_learns(
    tmp_path: Path, synth_config: Configs, word_list: Words, kind: str
) -> None:
    """The same global batch of eight: the same samples, none of them twice, losses, evaluations and weights.

    In float64, where weights agree to 1e-9. In float32 they agree to 5e-7 after six steps as long as no activation that
    is zero but for rounding takes the other branch of a ReLU or of a maximum; after one did, to 1e-4. Which happens
    depends on the data, and on the code that the CPU's library takes for a batch of that size.
    """
    data: dict[str, Any] = {"validation": [str(word_list(7, "held_back", seed=1))]}
    if kind == "stored":
        data["train"] = [str(word_list(40))]
    for ranks in (1, 2, 4):
        config = synth_config(
            folder=f"run{ranks}", data=data, synth={"pool_size": 64}, eval={"eval_steps": 3},
            optim={"optimizer": "sgd", "learning_rate": 1e-3, "ema_decay": 0.5},
            train={"batch_size": 8 // ranks, "num_steps": 6, "channels_last": False},
        )  # fmt: skip
        (tmp_path / f"on{ranks}.toml").write_text(dump_config(config), encoding="utf-8")
    run_on_ranks(tmp_path, "on1:1:double", "on2:2:double", "on4:4:double")

    alone = ended_as(tmp_path, "on1", 0)["keys"]
    assert [len(set(keys)) for keys in alone] == [8] * 6
    expected, lines = weights_of(tmp_path / "run1"), metrics_of(tmp_path / "run1")
    start = build_model(config.model, config.image, config.charset.charset().num_classes, seed=config.train.seed)
    moved = max(
        float((expected[f"model.{name}"] - tensor).abs().max())
        for name, tensor in start.state_dict().items()
        if "norm" not in name
    )
    assert moved > 1e-3
    for ranks in (2, 4):
        parts = [ended_as(tmp_path, f"on{ranks}", rank) for rank in range(ranks)]
        assert [part["error"] for part in parts] == [None] * ranks
        for step in range(6):
            assert [len(part["keys"][step]) for part in parts] == [8 // ranks] * ranks
            # Each sample of the step once, on one rank, in the order of the whole batch.
            assert [key for part in parts for key in part["keys"][step]] == alone[step]
        for found, wanted in zip(metrics_of(tmp_path / f"run{ranks}"), lines, strict=True):
            if "validation" in wanted:
                assert found == wanted
            else:
                assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
                assert found["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-6)
        found_weights = weights_of(tmp_path / f"run{ranks}")
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found_weights[name], tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert sum("validation" in line for line in lines) == 2


# ---- Ranks that hang, and ranks that die


@pytest.mark.slow
def test_no_rank_waits_for_ever(tmp_path: Path, small_config: Configs, word_list: Words) -> None:
    """One that hangs is waited for as long as is set; one that is killed is missed at once, though it had a worker."""
    words = word_list(16)
    for name, timeout in (("hangs", 4.0), ("dies", 200.0)):
        config = small_config(
            words, folder=f"run_{name}", train={"batch_size": 4, "rank_timeout": timeout}, data={"workers": 1}
        )
        (tmp_path / f"{name}.toml").write_text(dump_config(config), encoding="utf-8")
    run_on_ranks(tmp_path, "hangs:2:stop", "dies:2:kill")
    for name, said, least, most in (
        ("hangs", "rank 0 waited 4 s for another rank, which hangs or is that much slower; continue with", 3.9, 60.0),
        ("dies", "rank 0 ends because another rank did; look at what that one says", 0.0, 60.0),
    ):
        ended = ended_as(tmp_path, name, 0)
        assert said in ended["error"]
        assert least < ended["time"] - float((tmp_path / f"{name}.time").read_text()) < most, name
        assert not (tmp_path / f"{name}.1.json").exists()
        assert not (tmp_path / f"run_{name}" / "last.safetensors").exists()


class _DeathSignals:
    """Batch k says with which signal this process ends when the one that started it does."""

    def __getitem__(self, number: int) -> int:
        found = ctypes.c_int(-1)
        assert ctypes.CDLL(None).prctl(2, ctypes.byref(found)) == 0  # PR_GET_PDEATHSIG
        return found.value


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_worker_dies_with_its_rank_and_so_lets_go_of_its_sockets() -> None:
    config = DataConfig(workers=1, worker_start="fork")  # the one way to start that copies sockets
    assert list(iterate_batches(_DeathSignals(), 0, 2, config)) == [signal.SIGKILL] * 2
