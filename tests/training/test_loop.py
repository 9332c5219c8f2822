"""The training loop: what it learns and keeps, what stops it and what is said then."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows

import crnn.training.loop
import crnn.training.step
from crnn.config.run import Config
from crnn.data.dataset import collate
from crnn.distributed import Ranks
from crnn.errors import CheckpointError, ConfigError, DataError, TrainingError
from crnn.evaluation.evaluate import evaluate
from crnn.evaluation.metrics import score_texts
from crnn.evaluation.results import DatasetResult, Evaluation
from crnn.model.checkpoint import load_weights
from crnn.model.crnn import CRNN, build_model
from crnn.recognizer import load
from crnn.training.loop import Validator, train
from crnn.training.loss import ctc_loss
from crnn.training.monitor import Monitor, StepStats
from crnn.training.optim import build_optimizer
from crnn.training.run_folder import RunFolder, TrainState
from crnn.training.step import TrainStep

pytestmark = pytest.mark.usefixtures("one_thread")

Configs = Callable[..., Config]
Words = Callable[..., Path]

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_losses.json"

SGD = {"optimizer": "sgd", "learning_rate": 0.01, "schedule": "constant", "clip_norm": 0.0}
"""An optimiser whose steps are in proportion to the gradient, so that rounding stays rounding."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[StepStats]:
    """What the monitor is told of each step."""
    seen: list[StepStats] = []
    report = Monitor.step

    def note(self: Monitor, stats: StepStats) -> None:
        seen.append(stats)
        report(self, stats)

    monkeypatch.setattr(Monitor, "step", note)
    return seen


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- Learning


def draw_blocks(folder: Path, count: int) -> Path:
    """Words in an alphabet of block patterns, drawn without any font, so that no library's version changes a pixel."""
    rng = np.random.default_rng(5)
    glyphs = rng.integers(0, 2, (10, 4, 3)).astype(np.uint8).repeat(8, axis=1).repeat(4, axis=2) * 255
    folder.mkdir()
    lines = []
    for number in range(count):
        label = "".join(rng.choice(list("abcdefghij"), rng.integers(1, 5)))
        pixels = np.full((32, 64), 255, np.uint8)
        for place, character in enumerate(label):
            pixels[:, 2 + 15 * place : 14 + 15 * place] = glyphs["abcdefghij".index(character)]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{label}\n")
    (folder / "labels.tsv").write_text("".join(lines))
    return folder / "labels.tsv"


def test_the_losses_of_a_tiny_run_are_what_they_were(
    tmp_path: Path, small_config: Configs, request: pytest.FixtureRequest
) -> None:
    """Initial weights, order of samples, loss, gradient, optimiser, schedule: nothing may change unnoticed.

    Tolerance: 1 %. Kernels of other machines round otherwise, and twelve steps multiply that: another memory format or
    number of threads comes to 0.2 %. A learning rate that is 5 % higher comes to 4 %.
    """
    config = small_config(draw_blocks(tmp_path / "blocks", 48), optim={"learning_rate": 4e-3})
    report = train(config)
    losses = [line["loss"] for line in lines_of(report.folder)]
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"losses": [round(loss, 4) for loss in losses]}, indent=1) + "\n")
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())["losses"], rel=0.01)


class _FrozenBatchNorm(nn.BatchNorm2d):
    """Normalises with its running statistics while training, too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def test_accumulated_batches_are_one_large_batch(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch, steps: list[StepStats]
) -> None:
    """Two batches of 4 to a step are one batch of 8.

    All but batch normalisation: that sees 4 images at a time, by design, so here it uses its running statistics.
    """

    def frozen(*arguments: Any, **named: Any) -> CRNN:
        network = build_model(*arguments, **named)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = _FrozenBatchNorm
        return network

    monkeypatch.setattr(crnn.training.loop, "build_model", frozen)
    words = word_list(24)
    optim = SGD | {"clip_norm": 5.0}
    whole = train(small_config(words, folder="whole", optim=optim, train={"batch_size": 8, "num_steps": 4}))
    optim = optim | {"accumulate_steps": 2}
    parts = train(small_config(words, folder="parts", optim=optim, train={"batch_size": 4, "num_steps": 4}))
    assert [s.samples for s in steps] == [8] * 8
    assert [s.gradient_norm for s in steps[:4]] == pytest.approx([s.gradient_norm for s in steps[4:]], rel=1e-4)
    assert [s.loss for s in steps[:4]] == pytest.approx([s.loss for s in steps[4:]], rel=1e-5)
    one, other = load_weights(whole.weights).tensors, load_weights(parts.weights).tensors
    start = build_model(*_parts_of(small_config()), seed=1).state_dict()
    for name in one:
        # Steps move weights by about 1e-2; float32 sums in another order differ in the seventh digit.
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.allclose(one["head.weight"], start["head.weight"], atol=1e-3)


def _parts_of(config: Config) -> tuple[Any, Any, int]:
    return config.model, config.image, config.charset.charset().num_classes


def test_the_average_of_the_weights_is_what_is_validated_and_kept(word_list: Words, small_config: Configs) -> None:
    words = word_list(16)
    config = small_config(
        words,
        optim={"ema_decay": 0.5, "learning_rate": 5e-3},
        train={"num_steps": 3},
        data={"validation": [str(words)]},
    )
    report = train(config)
    checkpoint = RunFolder(report.folder).load_latest()
    assert checkpoint is not None
    for name in ("best", "last"):
        kept = load_weights(report.folder / f"{name}.safetensors").tensors
        assert all(torch.equal(kept[n], tensor) for n, tensor in checkpoint.group("ema").items())
        assert not torch.equal(kept["head.weight"], checkpoint.group("model")["head.weight"])
    (line,) = (line for line in lines_of(report.folder) if "validation" in line)
    again = evaluate(load(report.weights, engine="torch", device="cpu"), [str(words)], model=str(report.folder))
    assert again.as_dict() == line["validation"]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_any_seed_will_do(word_list: Words, small_config: Configs, seed: int) -> None:
    assert train(small_config(word_list(8), train={"num_steps": 1, "seed": seed})).steps == 1


def test_epochs_count_steps(word_list: Words, small_config: Configs) -> None:
    sizes = {"batch_size": 4, "num_steps": None, "epoch_size": 3}
    config = small_config(word_list(20), optim={"accumulate_steps": 2}, train=sizes)
    assert train(config).steps == 3 * 2  # 20 samples are two steps of 8; what is left comes in the next epoch


# ---- Validation


def scripted(accuracy: float, ned_edits: int = 0) -> Evaluation:
    """An evaluation of ten samples; ``ned_edits`` of the wrong ones are more wrong."""
    right = round(10 * accuracy)
    wrong = [("word", "x" * 4 if n < ned_edits else "worx") for n in range(10 - right)]
    sums = score_texts([("word", "word")] * right + wrong)
    return Evaluation("run", "parseq", (DatasetResult("words", "", "", sums, {}, None, (), ()),))


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([scripted(0.2), scripted(0.6), scripted(0.4), scripted(0.5)], 2),
        ([scripted(0.0, 9), scripted(0.0, 5), scripted(0.0, 7), scripted(0.0, 6)], 2),  # nothing is right yet: 1-NED
        ([scripted(0.3), scripted(0.3), scripted(0.3), scripted(0.3)], 1),  # no better is not better
        ([scripted(0.1), scripted(0.2), scripted(0.2, 1), scripted(0.9)], 4),
    ],
)
def test_the_best_weights_are_those_of_the_best_validation(
    word_list: Words,
    small_config: Configs,
    monkeypatch: pytest.MonkeyPatch,
    results: list[Evaluation],
    best: int,
) -> None:
    waiting = list(results)
    monkeypatch.setattr(crnn.training.loop, "evaluate", lambda *_, **__: waiting.pop(0))
    words = word_list(8)
    sections: dict[str, dict[str, Any]] = {
        "train": {"num_steps": 4},
        "eval": {"eval_steps": 1},
        "checkpoint": {"save_checkpoint_steps": 1, "keep_checkpoint_max": 9},
    }
    report = train(small_config(words, data={"validation": [str(words)]}, **sections))
    assert waiting == []
    assert report.best_accuracy == results[best - 1].combined_accuracy
    kept = load_weights(report.weights)
    assert kept.path.name == "best.safetensors"
    assert kept.info["step"] == best
    assert kept.info["validation"]["combined_accuracy"] == report.best_accuracy
    (of_step,) = (path for path in RunFolder(report.folder).checkpoints() if path.stem.endswith(f"{best:08d}"))
    state = {n.removeprefix("model."): t for n, t in crnn.training.run_folder.read_tensors(of_step)[0].items()}
    assert torch.equal(kept.tensors["head.weight"], state["head.weight"])
    assert [line["best"] for line in lines_of(report.folder) if "best" in line].count(True) >= 1


def test_a_validation_that_compares_nothing_is_no_best_one(word_list: Words, small_config: Configs) -> None:
    # Images that cannot be read: all are skipped, the accuracy is no number.
    nothing = word_list(2, "nothing")
    for image in (nothing.parent / "images").iterdir():
        image.write_bytes(b"broken")
    report = train(small_config(word_list(8), data={"validation": [str(nothing)]}, train={"num_steps": 1}))
    assert report.best_accuracy is None
    assert report.weights.name == "last.safetensors"
    assert [line["best"] for line in lines_of(report.folder) if "best" in line] == [False]


def test_readings_are_photographed_for_tensorboard(word_list: Words, small_config: Configs) -> None:
    words = word_list(10)
    (words.parent / "images" / "2.png").write_bytes(b"broken")
    config = small_config(
        word_list(8, "train"), data={"validation": [str(words)]}, train={"num_steps": 1, "tensorboard": True}
    )
    report = train(config)
    (events,) = (report.folder / "tensorboard").iterdir()
    assert b"readings" in events.read_bytes()


# ---- What cannot be read


def test_an_unreadable_image_makes_the_batch_smaller_and_is_counted(
    word_list: Words, small_config: Configs, steps: list[StepStats], caplog: pytest.LogCaptureFixture
) -> None:
    """Three of four images train as three images alone do: the mean is over those that were read."""
    labels = ["ab", "cd", "ef", "gh"]
    broken, three = word_list(labels=labels, name="broken"), word_list(labels=labels[:3], name="three")
    (broken.parent / "images" / "4.png").write_bytes(b"no image")
    # torch's batch normalisation rounds more coarsely in channels_last on the CPU.
    sizes = {"num_steps": 1, "channels_last": False}
    one = train(small_config(broken, folder="a", optim=SGD, train={"batch_size": 4, **sizes}))
    assert one.skipped == {"not_an_image": 1}
    assert re.search(r"left out: .*broken/labels\.tsv: .*4\.png.*: not_an_image", caplog.text)
    other = train(small_config(three, folder="b", optim=SGD, train={"batch_size": 3, **sizes}))
    assert other.skipped == {}
    assert [s.samples for s in steps] == [3, 3]
    assert steps[0].loss == pytest.approx(steps[1].loss, rel=1e-5)
    assert steps[0].gradient_norm == pytest.approx(steps[1].gradient_norm, rel=1e-4)
    assert load_weights(one.weights).info["samples"] == 3
    left, right = load_weights(one.weights).tensors, load_weights(other.weights).tensors
    torch.testing.assert_close(left["head.weight"], right["head.weight"], rtol=1e-4, atol=1e-5)


def step_of(config: Config, rank: int = 0) -> tuple[TrainState, TrainStep]:
    network = build_model(*_parts_of(config), seed=1)
    state = TrainState(network, build_optimizer(network, config.optim), None)
    return state, TrainStep(config, Ranks(rank, 1, torch.device("cpu")), state)


def test_a_batch_without_a_readable_image_teaches_nothing(small_config: Configs, word_list: Words) -> None:
    """Not even to the statistics of batch normalisation, though something passes through the network."""
    config = small_config(word_list(4), optim=SGD)
    state, step = step_of(config)
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    step([collate([], [], [], [("a", "missing")])], 0.1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items())
    assert all(module.training for module in state.network.modules())


def test_too_many_unreadable_images_stop_a_run(word_list: Words, small_config: Configs) -> None:
    words = word_list(40)
    for number in range(1, 13):
        (words.parent / "images" / f"{number}.png").write_bytes(b"no image")
    config = small_config(words, data={"max_bad_share": 0.2}, train={"num_steps": 100})
    said = r"1\d of \d+ images could not be read \(not_an_image: 1\d\), the last .*allows 0\.2\. "
    with pytest.raises(DataError, match=said):
        train(config)
    config = small_config(words, folder="more", data={"max_bad_share": 0.4}, train={"num_steps": 10})
    assert train(config).skipped["not_an_image"] >= 20


# ---- What stops a run


@pytest.mark.parametrize(("value", "workers"), [(math.nan, 0), (math.inf, 1)])
def test_a_loss_that_is_not_finite_stops_a_run_and_names_its_samples(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch, value: float, workers: int
) -> None:
    words = word_list(12)
    config = small_config(
        words, data={"workers": workers}, train={"batch_size": 2}, checkpoint={"save_checkpoint_steps": 1}
    )
    calls = 0

    def broken(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = ctc_loss(logits, targets, lengths)
        return loss * value if calls == 3 else loss

    with monkeypatch.context() as patch:
        patch.setattr(crnn.training.step, "ctc_loss", broken)
        with pytest.raises(TrainingError, match=r"step 3: loss (nan|inf), gradient norm .*: not finite\.") as caught:
            train(config)
    message = str(caught.value)
    assert "\n" not in message
    assert len(re.findall(r"labels\.tsv: images/\d+\.png|labels\.tsv: line \d+", message)) == 2, message
    folder = RunFolder(config.checkpoint.save_checkpoint_path)
    found = folder.load_latest()
    assert found is not None
    assert found.step == 2
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert [line["step"] for line in lines_of(folder.path)] == [1, 2]
    assert train(config, resume=True).steps == 12


def test_a_gradient_that_is_not_finite_stops_a_run(
    word_list: Words, small_config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        return ctc_loss(logits, targets, lengths) + (logits.sum() * 0.0).sqrt()  # finite, with an infinite slope

    monkeypatch.setattr(crnn.training.step, "ctc_loss", broken)
    with pytest.raises(TrainingError, match=r"step 1: loss \d+\.\d+, gradient norm (nan|inf): not finite\."):
        train(small_config(word_list(8)))


@pytest.mark.parametrize("kind", ["train", "validation"])
@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_a_set_that_is_missing_or_empty_is_found_before_training(
    tmp_path: Path, word_list: Words, small_config: Configs, kind: str, fault: str
) -> None:
    words, wrong = word_list(8), tmp_path / "wrong.tsv"
    if fault == "empty":
        wrong.write_text("")
    sets = {"train": [str(words)]}
    sets[kind] = [*sets.get(kind, []), str(wrong)]
    with pytest.raises(DataError, match=r"wrong\.tsv"):
        train(small_config(data=sets))
    assert not (tmp_path / "run").exists()


def test_a_run_without_data_is_refused(small_config: Configs) -> None:
    with pytest.raises(ConfigError, match=r"data\.train is empty; expected .* \(--data\.train synth\)"):
        train(small_config())


def test_a_full_disk_ends_a_run_and_leaves_its_checkpoints(
    word_list: Words, small_config: Configs, tmp_path: Path
) -> None:
    config = small_config(word_list(8), train={"num_steps": 4}, checkpoint={"save_checkpoint_steps": 1})
    folder = RunFolder(config.checkpoint.save_checkpoint_path)
    write = crnn.model.checkpoint.atomic_write
    with pytest.MonkeyPatch.context() as patch:

        def full(path: Path, data: bytes, error: type[CheckpointError]) -> None:
            if path.stem == "step-00000003":
                path.with_name(path.name + ".partial").symlink_to("/dev/full")
            write(path, data, error)

        patch.setattr(crnn.model.checkpoint, "atomic_write", full)
        with pytest.raises(CheckpointError, match=r"step-00000003\.safetensors: the disk is full"):
            train(config)
    assert [path.stem for path in folder.checkpoints()] == ["step-00000002", "step-00000001"]
    assert train(config, resume=True).steps == 4


# ---- Settings


def test_a_warm_start_begins_with_the_weights_of_another_run(
    word_list: Words, small_config: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    words = word_list(16)
    source = train(small_config(words, folder="source", train={"num_steps": 3}))
    config = small_config(
        words,
        charset={"characters": "jihgfedcba+"},
        optim=SGD | {"learning_rate": 1e-12},
        train={"num_steps": 1, "warm_start": str(source.folder)},
    )
    report = train(config)
    line = f"warm start from {source.weights}: 10 characters and the blank kept, new: '+'"
    assert line in capsys.readouterr().err.splitlines()
    old, new = load_weights(source.weights).tensors, load_weights(report.weights).tensors
    assert torch.allclose(new["rnn1.weight_ih_l0"], old["rnn1.weight_ih_l0"], atol=1e-7)
    assert torch.allclose(new["head.weight"][11], old["head.weight"][10], atol=1e-7)
    assert load_weights(report.weights).info["run"]["train"]["warm_start"] == str(source.folder)


def test_a_warm_start_keeps_what_it_began_with_where_training_makes_it_worse(
    trained_run: Any, small_config: Configs, tmp_path: Path
) -> None:
    config = small_config(
        trained_run.words,
        model={"hidden_size": 32},
        image={"image_width": 48},
        charset={"characters": "36"},
        data={"validation": [str(trained_run.words)]},
        optim={"learning_rate": 0.3, "schedule": "constant"},
        eval={"eval_steps": 3},
        train={"num_steps": 3, "warm_start": str(trained_run.folder)},
    )
    report = train(config)
    lines = [json.loads(line) for line in (report.folder / "metrics.jsonl").read_text().splitlines()]
    looks = {line["step"]: line["validation"]["combined_accuracy"] for line in lines if "validation" in line}
    assert looks[0] == report.best_accuracy == 1.0
    assert looks[3] < 1.0
    best = load_weights(report.folder)
    assert all(
        torch.equal(tensor, load_weights(trained_run.folder).tensors[name]) for name, tensor in best.tensors.items()
    )
    assert best.info["step"] == 0


def test_what_is_left_out_of_a_set_is_said(
    word_list: Words, small_config: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    words = word_list(labels=["ab", "a-b", "--", "abcdefghij" * 3])
    train(small_config(words, data={"max_lost_share": 0.8}, train={"num_steps": 1}))
    said = capsys.readouterr().err
    assert re.search(r"left out .*too_long: 1 \(.*\)", said)
    assert re.search(r"empty_label: 1 \(", said)
    assert re.search(r"1 labels lose characters outside the charset: '-'", said)


@pytest.mark.parametrize(
    ("characters", "labels", "title"),
    [
        ("абв", ["аб", "в", "бав"], "parseq over the model's own 3 characters"),
        ("94", ["A-b", "C", "d"], "parseq, 94 characters"),
        ("36", ["ab"], "parseq, 36 characters"),
    ],
)
def test_a_network_is_validated_in_its_own_characters(
    small_config: Configs, word_list: Words, characters: str, labels: list[str], title: str
) -> None:
    words = word_list(labels=labels)
    config = small_config(words, data={"validation": [str(words)]}, charset={"characters": characters})
    classes = config.charset.charset().num_classes
    network = build_model(config.model, config.image, classes, seed=1)
    validator = Validator(config, classes, Ranks(0, 1, torch.device("cpu")))
    (found,) = validator.validate(network.state_dict(), "model").datasets
    assert (found.title, [s.label for s in found.samples]) == (title, labels)


def test_every_part_of_a_step_has_a_seed_of_its_own_on_every_rank(
    small_config: Configs, word_list: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(word_list(4))
    part = collate([np.zeros((1, 32, config.image.image_width), np.uint8)], [[0]], ["a"])
    seeds: list[int] = []
    for rank in range(2):
        state, step = step_of(config, rank)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "manual_seed", seeds.append)
            for state.step in range(3):
                step([part, part], 0.1)
    assert len(set(seeds)) == len(seeds) == 12


@pytest.mark.parametrize(
    ("count", "protocol", "said"),
    [(2, "parseq", "2 sets are called 'words'"), (1, "clovaai", "protocol clovaai compares")],
)
def test_a_validation_that_cannot_be_is_refused_before_the_first_step(
    small_config: Configs, word_list: Words, count: int, protocol: str, said: str
) -> None:
    words = word_list(8)
    sections = {"data": {"validation": [str(words)] * count}, "eval": {"protocol": protocol}}
    config = small_config(words, charset={"characters": "62"}, **sections)
    with pytest.raises((ConfigError, DataError), match=said):
        train(config)
    assert not Path(config.checkpoint.save_checkpoint_path).exists()


@pytest.mark.parametrize(
    ("labels", "protocol", "said"),
    [
        (["漢字", "--"], "parseq", "none of 2 labels is left to compare (empty_label: 2; parseq over the model's own"),
        (["漢字"], "modelzoo", "none of 1 labels is left to compare (empty_label: 1; "),
        ([" "], "lines", "none of 1 labels is left to compare (empty_label: 1; lines, case folded)"),
    ],
)
def test_a_validation_set_without_labels_that_count_is_refused_at_once(
    small_config: Configs, word_list: Words, labels: list[str], protocol: str, said: str
) -> None:
    words, nothing = word_list(8), word_list(labels=labels, name="nothing")
    config = small_config(words, data={"validation": [str(words), str(nothing)]}, eval={"protocol": protocol})
    with pytest.raises(DataError, match=re.escape(f"data.validation: {nothing}: {said}")):
        train(config)
    assert not Path(config.checkpoint.save_checkpoint_path).exists()


@pytest.mark.parametrize(
    "sections",
    [
        {"charset": {"characters": "xyz"}},  # no label is left
        {"train": {"warm_start": "nowhere"}},
        {"train": {"device": "nonsense"}},
    ],
)
def test_a_run_that_fails_before_its_first_step_leaves_no_trace(
    small_config: Configs, word_list: Words, tmp_path: Path, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = word_list(8)
    monkeypatch.setattr(TrainStep, "__call__", lambda *_: pytest.fail("a step was done"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((CheckpointError, ConfigError, DataError)):
        train(small_config(words, folder="a/b/run", **sections))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_of_which_no_image_can_be_read_leaves_no_trace(
    small_config: Configs, word_list: Words, tmp_path: Path
) -> None:
    words = word_list(40)
    for image in words.parent.glob("images/*"):
        image.unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="could not be read"):
        train(small_config(words, folder="run", train={"num_steps": 9}))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_biased_blank_is_where_a_run_starts_and_not_where_a_warm_start_does(
    word_list: Words, small_config: Configs
) -> None:
    words = word_list(16)

    def bias(folder: str, blank_bias: float, **train_section: Any) -> float:
        values = {"train": {"num_steps": 1, **train_section}, "objective": {"blank_bias": blank_bias}}
        found = train(small_config(words, folder=folder, optim={"learning_rate": 1e-9}, **values))
        return float(load_weights(found.weights).tensors["head.bias"][-1])

    plain = bias("plain", 0.0)
    assert bias("biased", 3.0) == pytest.approx(plain + 3.0, abs=1e-5)
    weights = str(small_config(folder="plain").checkpoint.save_checkpoint_path)
    assert bias("warm", 3.0, warm_start=weights) == pytest.approx(plain, abs=1e-5)
