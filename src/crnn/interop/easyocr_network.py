"""A network of crnn for EasyOCR (1.7.2), which imports this file by its name: torch is all that it needs.

``crnn export --for easyocr`` writes it beside the settings, NAME.yaml, and the weights, NAME.pth.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Model(nn.Module):
    """CRNN that undoes EasyOCR's padding and resizes every image as in its training.

    Args:
        num_class: Number of characters and the blank, the first class.
        layers: Of each convolution: channels, kernel, stride, padding, kernel of the pooling or none, normalization.
        hidden_size: Units of each LSTM per direction.
        image: How images were resized in the training (section image of crnn's settings).
    """

    def __init__(self, num_class: int, layers: list[Any], hidden_size: int, image: dict[str, Any]) -> None:
        super().__init__()
        self.image, self.num_class = image, num_class
        self.backbone = nn.Sequential()
        depth = image["image_channels"]
        for number, (channels, kernel, stride, padding, pool, normalized) in enumerate(layers, start=1):
            conv = nn.Conv2d(depth, channels, kernel, stride, padding, bias=not normalized)
            self.backbone.add_module(f"conv{number}", conv)
            if normalized:
                self.backbone.add_module(f"norm{number}", nn.BatchNorm2d(channels))
            if pool:
                self.backbone.add_module(f"pool{number}", nn.MaxPool2d(tuple(pool)))
            self.backbone.add_module(f"relu{number}", nn.ReLU())
            depth = channels
        self.rnn1 = nn.LSTM(depth, hidden_size, bidirectional=True, batch_first=True)
        self.neck = nn.Linear(2 * hidden_size, hidden_size)
        self.rnn2 = nn.LSTM(hidden_size, hidden_size, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden_size, num_class)

    def forward(self, images: Tensor, text: Any = None) -> Tensor:  # noqa: ARG002 - EasyOCR's interface
        """Return the logits ``(N, T, V)`` of images ``(N, 1, 32, W)`` in [-1, 1], each padded with its last column."""
        by_width: dict[int, list[tuple[int, Tensor]]] = {}
        for place, pixels in enumerate(torch.round(images * 127.5 + 127.5)):
            changes = (pixels[:, :, 1:] != pixels[:, :, :-1]).flatten(0, 1).any(0).nonzero()
            width = int(changes[-1]) + 2 if len(changes) else pixels.shape[2]
            resized = self._resized(pixels[None, :, :, :width])
            by_width.setdefault(resized.shape[3], []).append((place, resized))
        logits = images.new_full((len(images), max(by_width) // 4 - 1, self.num_class), -50.0)
        logits[:, :, 0] = 0.0  # behind an image are blanks
        for width, members in by_width.items():
            places, resized_images = zip(*members, strict=True)
            logits[list(places), : width // 4 - 1] = self._classified(torch.cat(resized_images))
        return logits

    def _resized(self, pixels: Tensor) -> Tensor:
        image = self.image
        width = image["image_width"]
        if image["resize"] == "keep_ratio":
            # EasyOCR has rounded the width up: half a pixel less is nearer.
            units = (pixels.shape[3] - 0.5) * image["width_scale"] / image["width_step"]
            width = math.floor(units + 0.5) * image["width_step"]
            width = min(max(width, image["min_width"]), image["max_width"])
        size = (32, width)
        resized = functional.interpolate(pixels, size, mode=image["interpolation"], antialias=True)
        resized = resized.round().clamp(0.0, 255.0) / 127.5 - 1.0
        return resized.expand(-1, image["image_channels"], -1, -1)

    def _classified(self, images: Tensor) -> Tensor:
        features = self.backbone(images).squeeze(2).transpose(1, 2)  # (N, T, D)
        hidden = self.rnn2(self.neck(self.rnn1(features)[0]))[0]
        logits: Tensor = self.head(hidden)  # (N, T, V)
        return logits
