"""Reading, from files to texts: engines, precisions and decoding side by side.

    python benchmarks/read.py [MODEL ...] [--data FOLDER] [--engines openvino onnx torch] [--precisions fp32 bf16 int8]

Images per second, with the best path alone (greedy) and with the language of the weights; ratios to the first row of
the same model. ``right`` counts texts equal to their labels, capitals aside. Rendered crops are of the kind that the
weights were trained on: they compare speeds, not accuracies. What cannot be measured here is named.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import Crop, Row, arguments, find_crops, left_out, measure, report, seconds
from crnn.engines.engine import Precision
from crnn.engines.loading import EngineChoice
from crnn.errors import CrnnError
from crnn.recognizer import Recognizer, load

ENGINES: tuple[EngineChoice, ...] = ("openvino", "onnx", "torch")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def rate(reader: Recognizer, paths: Sequence[str]) -> float:
    """Return images per second."""
    return len(paths) / seconds(functools.partial(reader.read, paths))


def row(name: str, reader: Recognizer, crops: Sequence[Crop], base: str) -> Row:
    """Return what is measured of a reader, which has read the crops once."""
    paths = [crop.path for crop in crops]
    texts = [reading.text for reading in reader.read(paths)]
    right = sum(text.casefold() == crop.label.casefold() for text, crop in zip(texts, crops, strict=True))
    return Row(name, functools.partial(rate, reader, paths), base, {"right": f"{100 * right / len(crops):.1f} %"})


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__, count=32, rounds=3)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["crnn-small"], help="default: crnn-small")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    rows: list[Row] = []
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        crops = find_crops(options, "crnn-small", Path(scratch))
        for model in options.models:
            base = ""
            for engine in options.engines:
                for precision in options.precisions:
                    name = f"{Path(model).name}, {engine} {precision}"
                    opened = functools.partial(
                        load, model, engine=engine, precision=precision, device="cpu", threads=options.threads,
                        batch_size=options.batch_size,
                    )  # fmt: skip
                    try:
                        greedy = opened(decode="greedy")
                        with_language = opened() if greedy.config.charset.language else None
                    except CrnnError as error:
                        reasons[name] = str(error)
                        continue
                    base = base or f"{name}, greedy"
                    rows.append(row(f"{name}, greedy", greedy, crops, base))
                    if with_language is not None:
                        rows.append(row(f"{name}, language", with_language, crops, base))
        if rows:
            measure(rows, options.rounds)
    left_out(reasons)
    if not rows:
        raise SystemExit("nothing can be measured here")
    report(f"{len(crops)} crops from files to texts, {options.threads} threads", "images/s", rows, options.json)


if __name__ == "__main__":
    main()
