"""Learning from another network beside the labels (sequence-level knowledge distillation).

An image that can be read in two ways has one label; a better network says how likely either is. References: Kim and
Rush 2016, arXiv 1606.07947; for CTC, Takashima et al. 2018, "An investigation of a knowledge distillation method for
CTC acoustic models".
"""

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crnn.charset import LabelSkip, min_time_steps
from crnn.config.run import Config
from crnn.decoding.beam import beam_search
from crnn.errors import CharsetError, CheckpointError, ConfigError
from crnn.model.checkpoint import build_network, load_weights

_SHARE = 0.5  # of the loss, which the teacher's texts have; the labels have the rest
_BEAM_WIDTH = 4  # texts of the teacher for each image
_LEAST = 0.03  # share of these at which a text is worth its computation


class TeacherTargets(NamedTuple):
    """M texts to learn for N images: labels and the teacher's, with shares that sum to 1 for each image."""

    rows: Tensor  # (M,) int64: index of the image
    targets: Tensor  # (M, S) int64 class ids, zero behind each text's end
    lengths: Tensor  # (M,) int64
    shares: Tensor  # (M,) float32


class Teacher:
    """Network that reads the training images.

    Its texts are brought into the charset of the run by the rules of its labels. ``ConfigError`` if it lacks characters
    of that charset, or takes other images: other channels, proportions, mean or std.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        try:
            weights = load_weights(str(config.objective.teacher))
            network = build_network(weights)
        except CheckpointError as error:
            raise CheckpointError(f"objective.teacher: {error}") from error
        shape = "image_width" if config.image.resize == "squash" else "width_scale"
        for name in ("image_channels", "resize", shape, "mean", "std"):
            theirs, own = getattr(weights.config.image, name), getattr(config.image, name)
            if theirs != own:
                raise ConfigError(
                    f"objective.teacher: {weights.path} has image.{name} {theirs}, expected {own} as here"
                )
        self._network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.path = weights.path
        self._theirs, self._own = weights.config.charset.charset(), config.charset.charset()
        # Without a class for "A" it would teach "a" wherever it sees one.
        if missing := self._theirs.unknown(self._own.characters):
            raise ConfigError(
                f"objective.teacher: {weights.path} lacks {missing!r}; expected all characters of the run"
            )
        self._rules = config.charset.rules()

    @torch.no_grad()
    def targets(self, images: Tensor, labels: Sequence[Sequence[int]], num_steps: int) -> TeacherTargets:
        """Return what to learn for images ``(N, C, 32, W)`` with labels in class ids, within ``num_steps`` steps."""
        log_probs = self._network(images).float().log_softmax(dim=-1).cpu().numpy()
        texts: list[tuple[int, tuple[int, ...], float]] = []  # image, class ids, share
        for row, (label, found) in enumerate(zip(labels, beam_search(log_probs, _BEAM_WIDTH), strict=True)):
            mixed = {tuple(label): 1.0}
            read = self._read([(hypothesis.ids, hypothesis.score) for hypothesis in found], num_steps)
            for ids, share in read.items():
                mixed[ids] = mixed.get(ids, 0.0) + _SHARE * share
                mixed[tuple(label)] -= _SHARE * share
            texts += [(row, ids, share) for ids, share in mixed.items()]
        rows, targets, shares = zip(*texts, strict=True)
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True)
        tensors = torch.tensor(rows), padded, torch.tensor([*map(len, targets)]), torch.tensor(shares)
        return TeacherTargets(*(tensor.to(images.device) for tensor in tensors))

    def _read(self, found: list[tuple[tuple[int, ...], float]], num_steps: int) -> dict[tuple[int, ...], float]:
        """Return the usable texts in class ids of the run, with their shares of all that were found."""
        best = max((score for _, score in found), default=0.0)
        whole = sum(math.exp(score - best) for _, score in found)
        shares: dict[tuple[int, ...], float] = {}
        for theirs, score in found:
            with contextlib.suppress(LabelSkip, CharsetError):
                ids = tuple(self._own.encode(self._rules.apply(self._theirs.decode(theirs), self._own)))
                if min_time_steps(ids) <= num_steps:
                    shares[ids] = shares.get(ids, 0.0) + math.exp(score - best) / whole
        return {ids: share for ids, share in shares.items() if share >= _LEAST}
