"""``crnn export``: a network as a file for ONNX Runtime, OpenVINO and others."""

from functools import partial
from typing import Annotated, Literal

import typer

from crnn.errors import ConfigError, ExportMismatchError
from crnn.terminal import say, show


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    out: Annotated[str, typer.Argument(metavar="OUT")],
    precision: Literal["fp32", "int8"] = "fp32",
    data: Annotated[list[str] | None, typer.Option(metavar="[NAME=]DATA")] = None,
    samples: int = 512,
    runtime: Annotated[
        Literal["rapidocr", "paddleocr", "opencv", "easyocr", "onnxtr"] | None, typer.Option("--for")
    ] = None,
    width: int | None = None,
) -> int:
    """Write a network as an ONNX file for ONNX Runtime, OpenVINO and browsers.

    The file takes pixels as they are, and carries settings, characters and a checksum; crnn read --model OUT reads with
    it. It is read back and compared with its source, and not written where they differ (exit status 1). In Python:
    ``crnn.export.export``.

    Args:
        model: Name of weights that ship, hf://OWNER/NAME, a weights file, or a run folder.
        out: The file to write, OUT.onnx; with --for a folder, but for RapidOCR.
        precision: int8: a quarter of the size and several times as fast.
        data: LMDB folder or list file with images like those that will be read, to quantise and to compare with; may
            be given several times. Default: rendered words.
        samples: How many images.
        runtime: Write for another project's runtime, with its padding, characters and blank: fp32, without the
            language.
        width: Pixels of the input, for opencv and onnxtr, which want it fixed; default: see docs/export.md.
    """
    if runtime is not None:
        if precision != "fp32" or data:
            raise ConfigError(f"--for {runtime} takes neither --precision nor --data; leave them out")
        from crnn.interop.runtimes import export_for

        try:
            done = export_for(runtime, model, out, width=width)
        except ExportMismatchError as error:
            say("export", str(error))
            return 1
        show(f"{done.path}: {sum(done.files.values()) / 1e6:.2f} MB for {runtime}")
        show(f"  {done.equal} of {done.images} drawn words, given as {runtime} gives them, are read as by {model}")
        return 0
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
