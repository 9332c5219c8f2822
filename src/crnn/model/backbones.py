"""Tables of the backbones, built by ``crnn.model.crnn`` (torch) and ``crnn.engines.onnx_graph`` (ONNX)."""

from typing import NamedTuple


class ConvLayer(NamedTuple):
    """One row of a backbone's table: convolution, normalization, pooling and ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: tuple[int, int] | None = None


BACKBONES: dict[str, tuple[ConvLayer, ...]] = {
    "vgg": (  # .............................. (D, H, W) after the row, for an image of 32 x W
        ConvLayer(64, pool=(2, 2)),  # ....... 64, 16, W/2
        ConvLayer(128, pool=(2, 2)),  # ...... 128, 8, W/4
        ConvLayer(256),  # ................... 256, 8, W/4
        ConvLayer(256, pool=(2, 1)),  # ...... 256, 4, W/4
        ConvLayer(512),  # ................... 512, 4, W/4
        ConvLayer(512, pool=(2, 1)),  # ...... 512, 2, W/4
        ConvLayer(512, kernel=2, padding=0),  # 512, 1, W/4 - 1
    ),
    # For CPUs. Chosen by measured speed (docs/log/experiments.md): halving the image in the first convolution costs a
    # quarter of the time of a 3x3 one with pooling at full size, which pays for three times the arithmetic behind it;
    # depths are multiples of 16 because the vector and tile units of CPUs are.
    "small": (
        ConvLayer(32, kernel=4, stride=2),  #  32, 16, W/2
        ConvLayer(48, pool=(2, 2)),  # ....... 48, 8, W/4
        ConvLayer(96),  # .................... 96, 8, W/4
        ConvLayer(96, pool=(2, 1)),  # ....... 96, 4, W/4
        ConvLayer(160),  # ................... 160, 4, W/4
        ConvLayer(160, pool=(2, 1)),  # ...... 160, 2, W/4
        ConvLayer(256, kernel=2, padding=0),  # 256, 1, W/4 - 1
    ),
}


def is_normalized(number: int, batch_norm: str) -> bool:
    """Return true if convolution ``number``, from one, has batch normalization (``all`` or ``paper``)."""
    return batch_norm == "all" or number in (3, 5, 7)  # Shi's: bgshih/crnn, crnn_demo/config.lua (MIT)
