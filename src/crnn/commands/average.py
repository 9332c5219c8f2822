"""``crnn average``: the mean of several weights of one network.

Part of the command line (see ``crnn.cli``): parses, calls one function of the package, prints.
"""

from __future__ import annotations

from typing import Annotated

import tyro

from crnn.commands.terminal import check_writable, require_torch
from crnn.errors import ConfigError

__all__ = ["average_command"]


def average_command(
    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL MODEL ...")] = (),
    out: str = "",
) -> int:
    """Write the mean of weights of one training, or of several that began with the same weights.

    It can read better than each of them; measure it. Confidences are made true anew: crnn calibrate OUT. In Python:
    ``crnn.averaging.average_weights``.

    Args:
        models: Names of weights that ship, weights files, or run folders; two or more.
        out: The weights file to write (OUT.safetensors).
    """
    if not out:
        raise ConfigError("no file to write is given; expected --out OUT.safetensors")
    check_writable("--out", out, "mean.safetensors")
    require_torch("averaging", "torch")
    from crnn.averaging import average_weights

    print(f"{average_weights(models, out)}: the mean of {len(models)} weights")
    return 0
