"""``crnn export``: a network as a file for ONNX Runtime, OpenVINO and others."""

from functools import partial
from typing import Annotated, Literal

import typer

from crnn.errors import ExportMismatchError
from crnn.terminal import say, show


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    out: Annotated[str, typer.Argument(metavar="OUT.onnx")],
    precision: Literal["fp32", "int8"] = "fp32",
    data: Annotated[list[str] | None, typer.Option(metavar="[NAME=]DATA")] = None,
    samples: int = 512,
) -> int:
    """Write a network as an ONNX file for ONNX Runtime, OpenVINO and browsers.

    The file takes pixels as they are, and carries settings, characters and a checksum; crnn read --model OUT reads with
    it. It is read back and compared with its source, and not written where they differ (exit status 1). In Python:
    ``crnn.export.export``.

    Args:
        model: Name of weights that ship, hf://OWNER/NAME, a weights file, or a run folder.
        out: The file to write.
        precision: int8: a quarter of the size and several times as fast.
        data: LMDB folder or list file with images like those that will be read, to quantise and to compare with; may
            be given several times. Default: rendered words.
        samples: How many images.
    """
    from crnn.export import export as run

    try:
        report = run(model, out, precision=precision, data=data or (), samples=samples, say=partial(say, "export"))
    except ExportMismatchError as error:  # a result, and a bad one
        say("export", str(error))
        return 1
    show(f"{report.path}: {report.size / 1e6:.2f} MB, {report.precision}")
    if report.quantized is not None:
        show(f"  quantised: {report.quantized}; with {report.images}")
    for found in report.comparisons:
        widths = ", ".join(str(width) for width in found.widths)
        show(
            f"  {found.engine} against {report.source}, widths {widths}: {found.texts} of {found.images} texts "
            f"differ, log-probabilities by at most {found.log_probs:.2g}, distributions by {found.distribution:.2g} on "
            f"average; scores of an image alone and in a batch by {found.alone:.2g}"
        )
    return 0
