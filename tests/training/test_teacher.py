"""Learning from another network: its texts, their shares, and the loss of a step."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crnn.config.run import Config
from crnn.data.dataset import Batch, network_input
from crnn.decoding.ctc import sequence_log_probs
from crnn.distributed import Ranks
from crnn.errors import CheckpointError, ConfigError
from crnn.model.checkpoint import build_network, load_weights, save_weights
from crnn.model.crnn import build_model
from crnn.training.loop import train
from crnn.training.optim import build_optimizer
from crnn.training.run_folder import TrainState
from crnn.training.step import TrainStep
from crnn.training.teacher import Teacher

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
Configs = Callable[..., Config]


class Fixed(nn.Module):
    """A network that reads the same in all images: the probability of each class at each step."""

    def __init__(self, probabilities: list[dict[int, float]], num_classes: int) -> None:
        super().__init__()
        self._logits = torch.full((len(probabilities), num_classes), -30.0)
        for step, row in enumerate(probabilities):
            for index, share in row.items():
                self._logits[step, index] = math.log(share)

    def forward(self, images: Tensor) -> Tensor:
        return self._logits.expand(len(images), -1, -1)


@pytest.fixture
def teacher_of(small_config: Configs, tmp_path: Path) -> Callable[..., Teacher]:
    """A function that makes a teacher of a charset for a run of another one, reading what it is told to."""

    def make(theirs: str, own: dict[str, Any], probabilities: list[dict[str, float]]) -> Teacher:
        config = small_config(charset={"characters": theirs, "case": "keep"})
        network = build_model(config.model, config.image, len(theirs) + 1, seed=0)
        save_weights(tmp_path / "teacher.safetensors", network.state_dict(), config, {})
        teacher = Teacher(small_config(charset=own, objective={"teacher": str(tmp_path / "teacher.safetensors")}), CPU)
        ids = {**{c: i for i, c in enumerate(theirs)}, "": len(theirs)}
        steps = [{ids[c]: share for c, share in row.items()} for row in probabilities]
        teacher._network = Fixed(steps, len(theirs) + 1)
        return teacher

    return make


def learned(teacher: Teacher, labels: list[list[int]], num_steps: int = 9) -> list[dict[tuple[int, ...], float]]:
    """The texts of each image with their shares, rounded."""
    found = teacher.targets(torch.zeros(len(labels), 1, 32, 64), labels, num_steps)
    texts: list[dict[tuple[int, ...], float]] = [{} for _ in labels]
    for row, ids, length, share in zip(*(tensor.tolist() for tensor in found), strict=True):
        texts[row][tuple(ids[:length])] = round(share, 4)
    return texts


def test_half_of_the_loss_is_that_of_the_teachers_texts(teacher_of: Callable[..., Teacher]) -> None:
    teacher = teacher_of("abc", {"characters": "cba"}, [{"a": 0.8, "b": 0.2}, {"": 1.0}, {"c": 0.99, "a": 0.01}])
    a, b, c = 2, 1, 0
    # "aa" and "ba" have one percent and less: too little to learn; the label has their shares.
    assert learned(teacher, [[a, c], [c]]) == [
        {(a, c): 0.901, (b, c): 0.099}, {(c,): 0.505, (a, c): 0.396, (b, c): 0.099},
    ]  # fmt: skip


def test_its_texts_become_labels_of_the_run(teacher_of: Callable[..., Teacher]) -> None:
    folded = {"characters": "ab", "case": "lower", "unknown": "drop_character"}
    teacher = teacher_of("abAB-", folded, [{"a": 0.5, "A": 0.5}, {"-": 0.9, "": 0.1}, {"B": 0.6, "b": 0.4}])
    assert learned(teacher, [[0, 1]]) == [{(0, 1): 1.0}]
    # Two texts that are one label count together.
    teacher = teacher_of("abAB-", folded, [{"a": 0.96, "b": 0.02, "B": 0.02}])
    assert learned(teacher, [[0]]) == [{(0,): 0.98, (1,): 0.02}]


@pytest.mark.parametrize("unknown", ["error", "drop_sample", "drop_character"])
def test_what_no_label_could_be_is_left_to_the_label(teacher_of: Callable[..., Teacher], unknown: str) -> None:
    teacher = teacher_of("abc", {"characters": "ab", "unknown": unknown}, [{"c": 0.9, "a": 0.1}])
    # Without the unknown character nothing is left of "c".
    assert learned(teacher, [[1]]) == [{(1,): 0.95, (0,): 0.05}]
    teacher = teacher_of("abc", {"characters": "ab", "unknown": unknown}, [{"c": 1.0}])
    assert learned(teacher, [[1]]) == [{(1,): 1.0}]


def test_what_does_not_fit_the_steps_of_the_run_is_left_out(teacher_of: Callable[..., Teacher]) -> None:
    teacher = teacher_of("ab", {"characters": "ab"}, [{"a": 1.0}, {"": 1.0}, {"a": 0.5, "": 0.5}])
    assert learned(teacher, [[1]], num_steps=3) == [{(1,): 0.5, (0, 0): 0.25, (0,): 0.25}]
    assert learned(teacher, [[1]], num_steps=2) == [{(1,): 0.75, (0,): 0.25}]


def test_a_step_has_the_loss_of_these_texts(small_config: Configs) -> None:
    image = {"resize": "keep_ratio", "image_width": 64}
    config = small_config(
        image=image, charset={"characters": "95", "max_text_length": 8}, objective={"teacher": "crnn-small"}
    )
    images = torch.randint(0, 256, (4, 1, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = [[1], [2, 3], [4, 4], [5, 6, 7]]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(label) for label in labels], batch_first=True)
    batch = Batch(images, padded, torch.tensor([len(label) for label in labels]), tuple("abcd"))
    network = build_model(config.model, config.image, 96, seed=1).train()
    with torch.no_grad():
        inputs = network_input(images, config.image)
        log_probs = build_model(config.model, config.image, 96, seed=1).train()(inputs).log_softmax(-1).numpy()
    teacher = Teacher(config, CPU)
    before = {name: tensor.clone() for name, tensor in teacher._network.state_dict().items()}
    targets = teacher.targets(network_input(images, config.image), labels, log_probs.shape[1])
    assert targets.rows.bincount().min() > 1  # noise is read in more ways than the label
    texts = [ids[:length] for ids, length in zip(targets.targets.tolist(), targets.lengths.tolist(), strict=True)]
    expected = -(sequence_log_probs(log_probs, texts, targets.rows.numpy()) * targets.shares.numpy()).sum()
    state = TrainState(network, build_optimizer(network, config.optim), None)
    result = TrainStep(config, Ranks(0, 1, CPU), state, teacher=teacher)([batch], 1e-3)
    assert result.own_loss.item() == pytest.approx(expected, rel=1e-4)
    assert result.counts.tolist()[1] == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher._network.state_dict().items())
    np.testing.assert_allclose(
        torch.zeros(4).index_add(0, targets.rows, targets.shares), 1.0, rtol=1e-6
    )  # each image counts once


def test_a_teacher_changes_what_is_learned_and_is_no_part_of_the_weights(
    word_list: Callable[..., Path], small_config: Configs
) -> None:
    config = small_config(
        word_list(16), image={"resize": "keep_ratio"}, objective={"teacher": "crnn-small"}, train={"num_steps": 2}
    )
    plain = train(small_config(word_list(16), folder="plain", image={"resize": "keep_ratio"}, train={"num_steps": 2}))
    taught = train(config)
    one, other = (load_weights(report.weights) for report in (plain, taught))
    assert one.tensors.keys() == other.tensors.keys()
    assert any(not torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    build_network(other)


def test_teachers_that_cannot_teach_are_refused(word_list: Callable[..., Path], small_config: Configs) -> None:
    words = word_list(8)
    with pytest.raises(ConfigError, match=r"objective\.teacher: .*resize keep_ratio, expected squash as here"):
        train(small_config(words, objective={"teacher": "crnn-small"}))
    charset, image = {"characters": "abé"}, {"resize": "keep_ratio"}
    with pytest.raises(ConfigError, match=r"objective\.teacher: .* lacks 'é'; expected all characters of the run"):
        train(small_config(words, charset=charset, image=image, objective={"teacher": "crnn-small"}))
    narrow = str(train(small_config(words, folder="narrow", train={"num_steps": 1})).folder)
    with pytest.raises(ConfigError, match=r"objective\.teacher: .*image_width 64, expected 80 as here"):
        train(small_config(words, image={"image_width": 80}, objective={"teacher": narrow}))
    with pytest.raises(CheckpointError, match=r"^objective\.teacher: .*nothing_here"):
        train(small_config(words, folder="other", objective={"teacher": "nothing_here"}))
