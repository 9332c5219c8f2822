"""``crnn calibrate``: fit the confidences of a weights file on labelled images."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

import typer

from crnn.cli.arguments import EngineOptions
from crnn.config.training import ProtocolName
from crnn.terminal import check_writable, counting_bar, print_json, say, show


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    data: Annotated[list[str], typer.Argument(metavar="[NAME=]DATA ...")],
    out: str = "",
    protocol: ProtocolName = "parseq",
    charset: Literal["auto", "36", "62", "94"] = "auto",
    max_bad_share: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    json: bool = False,
    *,
    engine: EngineOptions,
) -> int:
    """Make confidences true: fit them on labelled images, and write that into the weights file MODEL, or to --out.

    Texts and scores stay as they are, and so does a curve that a fit does not better. Take images like those that will
    be read, some hundreds of them, and none that the network has learned from. In Python:
    ``crnn.evaluation.evaluate.calibrate``.

    Args:
        model: Weights file or run folder (its best weights); without --out replaced by one with the curves in it.
        data: LMDB folders and list files.
        out: Write this file instead, and leave the model as it is.
        protocol: Rules that say when a reading is right.
        charset: Characters that are compared; auto: 36, or the model's own where it is no set of the field.
        max_bad_share: A larger share of unreadable images, at least ten, is an error.
        json: Print one JSON object.
        engine: The engine.
    """
    check_writable("--out", out, "calibrated.safetensors", (".safetensors",))
    from crnn.evaluation.evaluate import calibrate as run
    from crnn.evaluation.evaluate import count_samples
    from crnn.model.weights import save_calibration, weights_to_calibrate
    from crnn.recognizer import load

    current = weights_to_calibrate(model, out or None).calibration
    reader = load(model, **asdict(engine))
    with counting_bar("reading", count_samples(data)) as progress:
        found = run(
            reader, data, protocol=protocol, charset=charset, current=current, max_bad_share=max_bad_share,
            progress=progress, say=partial(say, "calibrate"),
        )  # fmt: skip
    path = save_calibration(model, found, out or None)
    say("calibrate", f"{path} {'is written' if out else 'is changed'}: it has these confidences, the rest stays")
    if json:
        print_json({"model": str(path), **found.as_dict()})
    for way, curve in (("greedy", found.greedy), ("with language", found.language)):
        if curve is not None and not json:
            show(
                f"{path}, {way}: slope {curve.slope:.3f}, offset {curve.offset:+.3f} from {curve.samples} readings, "
                f"{100 * curve.accuracy:.2f} % right; expected calibration error {100 * curve.error_before:.2f} % "
                f"of the network's probability, {100 * curve.error_after:.2f} % of the confidence (on readings that it "
                "was not fitted on)"
            )
    return 0
