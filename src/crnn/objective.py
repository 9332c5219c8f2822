"""What training minimises: the CTC loss of the network, and of what helps it to learn.

``Objective`` holds the network that is deployed and, beside it, modules that only exist while it trains. Pictures and
targets go in, one loss comes out, so that ranks, precision and compilation see one module.
"""

from __future__ import annotations

from torch import Tensor, nn

from crnn.config import ObjectiveConfig
from crnn.loss import ctc_loss
from crnn.model import CRNN

__all__ = ["Objective"]


class Objective(nn.Module):
    """The loss of a batch, as a module.

    Args:
        network: The network that is trained; kept as it is.
        config: What helps it, and how much.

    Attributes:
        network: The network.
        helpers: What is trained with it and thrown away, by name; empty unless the settings switch something on.
    """

    def __init__(self, network: CRNN, config: ObjectiveConfig) -> None:
        super().__init__()
        self.network = network
        self.helpers = nn.ModuleDict()
        self._config = config

    def forward(self, images: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """The loss, summed over the batch.

        Args:
            images: ``(N, C, 32, W)`` float32 in [-1, 1].
            targets: ``(N, S)`` int64 class ids.
            target_lengths: ``(N,)`` int64.

        Returns:
            A float32 scalar, in nats.
        """
        return ctc_loss(self.network(images), targets, target_lengths)
