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


BATCH_NORM: dict[str, tuple[int, ...]] = {
    "all": (1, 2, 3, 4, 5, 6, 7),
    "paper": (3, 5, 7),  # Shi's: bgshih/crnn, crnn_demo/config.lua (MIT)
    "dtrb": (5, 6),  # clovaai/deep-text-recognition-benchmark, modules/feature_extraction.py (Apache-2.0)
}
"""Numbers, from one, of the convolutions that batch normalization follows."""


class Pool(NamedTuple):
    """A maximum pooling: rows and columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def pool_of(layer: ConvLayer, pooling: str) -> Pool | None:
    """Return the pooling of a row; the paper's 2x1 ones see two columns, and a padded one at each end."""
    if layer.pool == (2, 1) and pooling == "paper":
        return Pool((2, 2), (2, 1), (0, 1))
    return layer.pool and Pool(layer.pool, layer.pool, (0, 0))
