"""The network: ``images (N, C, 32, W) -> backbone (N, D, 1, T) -> (N, T, D) -> rnn -> head -> logits (N, T, V)``.

``T = W // 4 - 1``. From the ModelZoo: third and fourth pooling are 2x1 without overlap or padding (T = 24 for 100
pixels; with the paper's ``pooling`` 26), and batch normalization may follow every convolution. From the paper: the
second LSTM is bidirectional.
Reference: Shi, Bai and Yao 2015, arXiv 1507.05717, table 1; ModelZoo ``official/cv/CRNN/src/crnn.py`` (Apache-2.0).
"""

import torch
from torch import Tensor, nn

from crnn.config.model import BACKBONE_CHANNELS, ImageConfig, ModelConfig
from crnn.errors import DataError
from crnn.model.backbones import BACKBONES, BATCH_NORM, pool_of


class CRNN(nn.Module):
    """The network of Shi, Bai and Yao, for images of ``height`` H pixels and 1 or 3 channels C.

    Attributes:
        backbone: ``conv1`` to ``conv7`` with ``norm`` and ``pool`` of the same number.
        rnn1: First bidirectional LSTM, D -> 2 x hidden.
        neck: Linear layer between the LSTMs, 2 x hidden -> hidden; none for ``neck = "none"``.
        rnn2: Second LSTM, bidirectional unless ``rnn2 = "forward"``, -> 2 x hidden, or hidden.
        head: Linear layer, -> V, the number of classes with the blank.
    """

    height = ImageConfig().image_height

    def __init__(self, model: ModelConfig, image: ImageConfig, num_classes: int) -> None:
        super().__init__()
        hidden, has_neck, both = model.lstm_size, model.neck == "linear", model.rnn2 == "both"
        self.backbone = _Backbone(model, image.image_channels)
        self.rnn1 = nn.LSTM(BACKBONE_CHANNELS[model.backbone], hidden, bidirectional=True, batch_first=True)
        self.neck = nn.Linear(2 * hidden, hidden) if has_neck else nn.Identity()
        self.dropout = nn.Dropout(model.dropout if model.use_dropout else 0.0)
        self.rnn2 = nn.LSTM(hidden * (2 - has_neck), hidden, bidirectional=both, batch_first=True)
        self.head = nn.Linear(hidden * (1 + both), num_classes)
        self.image, self.image_channels = image, image.image_channels
        self.pooling, self.num_classes = model.pooling, num_classes  # V, with the blank, the last one
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015 (arXiv 1502.01852), like DTRB; LSTMs and linear layers start as torch's, and the
                # ModelZoo's, do: uniform in +-1/sqrt(hidden) and +-1/sqrt(inputs).
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, T, V)``; float, or autocast's type.

        ``images`` is ``(N, C, 32, W)`` float, of ``crnn.data.dataset.network_input``.
        """
        if images.ndim != 4 or images.shape[1:3] != (self.image_channels, self.height) or images.shape[3] < 8:
            raise DataError(
                f"images have shape {tuple(images.shape)}; expected (N, {self.image_channels}, {self.height}, W >= 8)"
            )
        features: Tensor = self.backbone(images)  # ............ (N, D, 1, T)
        features = features.squeeze(2).transpose(1, 2)  # ...... (N, T, D)
        device = images.device.type
        mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if device == "cpu" or not mixed:
            return self._classify(features)
        # Before torch 2.10 cuDNN's LSTMs lack bf16: torch uses slow ones, or half precision, whose range gradients
        # leave. Float32 multiplies in TF32, fast enough for 6 % of the work.
        with torch.autocast(device, enabled=False):
            return self._classify(features.float())

    def _classify(self, features: Tensor) -> Tensor:
        sequence = self.neck(self.rnn1(features)[0])  # ........ (N, T, hidden), 2 * hidden without neck
        sequence = self.rnn2(self.dropout(sequence))[0]  # ..... (N, T, 2 * hidden), hidden if forward alone
        logits: Tensor = self.head(sequence)  # ................ (N, T, V)
        return logits


class _Backbone(nn.Sequential):
    """The convolutions of a table, ``(N, C, 32, W) -> (N, D, 1, T)``, named ``conv1``, ``norm1``, ..."""

    def __init__(self, model: ModelConfig, image_channels: int) -> None:
        super().__init__()
        depth = image_channels
        for number, layer in enumerate(BACKBONES[model.backbone], start=1):
            normalized = number in BATCH_NORM[model.batch_norm]
            # A bias before batch normalization would be subtracted again with the mean.
            conv = nn.Conv2d(depth, layer.channels, layer.kernel, layer.stride, layer.padding, bias=not normalized)
            self.add_module(f"conv{number}", conv)
            if normalized:
                self.add_module(f"norm{number}", nn.BatchNorm2d(layer.channels))
            # The maximum and ReLU change places without changing anything but the time: ReLU has a quarter left to do.
            if (pool := pool_of(layer, model.pooling)) is not None:
                self.add_module(f"pool{number}", nn.MaxPool2d(*pool))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            depth = layer.channels

    def forward(self, x: Tensor) -> Tensor:  # its own, because compile skips torch's code
        for module in self:
            x = module(x)
        return x


def build_model(model: ModelConfig, image: ImageConfig, num_classes: int, seed: int) -> CRNN:
    """Build the network of these settings on the CPU; ``num_classes`` counts the blank. torch's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CRNN(model, image, num_classes)
