"""What training minimises: the CTC loss of the network, and of what helps it to learn.

``Objective`` holds the network that is deployed and, beside it, modules that only exist while it trains. Pictures and
targets go in, one loss comes out, so that ranks, precision and compilation see one module.

Shape letters: N batch, C image channels, W width, T time steps, D feature depth, V classes, S target length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crnn.loss import consistency_loss, ctc_loss, focal_ctc_loss, uniform_divergence
from crnn.model import CRNN
from crnn.training.alignment_loss import alignment_loss
from crnn.training.guide import AttentionGuide
from crnn.training.settings import ObjectiveConfig
from crnn.training.views import disturbed

__all__ = ["Objective", "Shortcut", "bias_blank"]


class Objective(nn.Module):
    """The loss of a batch, as a module.

    Args:
        network: The network that is trained; kept as it is.
        config: What helps it, and how much.
        seed: Seed of the helpers' weights, drawn without touching torch's global generator. ``None``: from that one.

    Attributes:
        network: The network.
        helpers: What is trained with it and thrown away, by name; empty unless the settings switch something on.
            Every parameter has a gradient after every step.
    """

    def __init__(self, network: CRNN, config: ObjectiveConfig, seed: int | None = None) -> None:
        super().__init__()
        self.network = network
        self._config = config
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.helpers = nn.ModuleDict()
            if config.shortcut_weight:
                self.helpers["shortcut"] = Shortcut(network.depth, network.num_classes)
            if config.guide_weight:
                self.helpers["guide"] = AttentionGuide(network.depth, network.num_classes)

    def forward(self, images: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """The loss, summed over the batch.

        Args:
            images: ``(N, C, 32, W)`` float32 in [-1, 1].
            targets: ``(N, S)`` int64 class ids.
            target_lengths: ``(N,)`` int64.

        Returns:
            A float32 scalar, in nats: CTC and, by their weights, what the settings ask for beside it.
        """
        config = self._config
        if not config.consistency_weight:
            loss, _ = self._of_views(images, targets, target_lengths)
            return loss
        # Both views in one pass: batch normalisation sees what it will see, and ranks share gradients once.
        views = torch.cat([disturbed(images), disturbed(images)])
        loss, logits = self._of_views(views, targets.repeat(2, 1), target_lengths.repeat(2))
        first, second = logits.chunk(2)
        return 0.5 * loss + config.consistency_weight * consistency_loss(first, second)

    def _of_views(self, images: Tensor, targets: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each picture for itself, summed, and the logits ``(N, T, V)``."""
        config, text = self._config, (targets, target_lengths)
        features = self.network.features(images)
        logits = self.network.classify(features)
        loss = focal_ctc_loss(logits, *text, config.focal_gamma) if config.focal_gamma else ctc_loss(logits, *text)
        if config.label_smoothing:
            loss = torch.lerp(loss, uniform_divergence(logits), config.label_smoothing)
        if config.distillation_weight:
            loss = loss + config.distillation_weight * alignment_loss(logits, *text)
        if config.shortcut_weight:
            loss = loss + config.shortcut_weight * ctc_loss(self.helpers["shortcut"](features), *text)
        if config.guide_weight:
            loss = loss + config.guide_weight * self.helpers["guide"](features, *text)
        return loss, logits


class Shortcut(nn.Module):
    """Logits from the convolutions without the LSTMs, so that CTC reaches them on a short way.

    Args:
        channels: Depth D of the features.
        num_classes: Number of classes V, with the blank.

    Reference: Retsinas et al. 2022, "Best Practices for a Handwritten Text Recognition System", arXiv 2404.11339,
    whose shortcut is one convolution, three frames wide, with a tenth of the loss.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, num_classes, kernel_size=3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """``(N, T, D)`` to ``(N, T, V)``."""
        logits: Tensor = self.conv(features.transpose(1, 2))
        return logits.transpose(1, 2)


@torch.no_grad()
def bias_blank(network: CRNN, bias: float) -> None:
    """Add to the bias of the blank, which is the last class."""
    network.head.bias[-1] += bias
