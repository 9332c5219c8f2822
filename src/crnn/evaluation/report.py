"""HTML report of an evaluation: figures, lexicons, calibration, lengths, confused characters, worst readings.

The page is one file without scripts, with style and images inside. The same evaluation gives the same bytes.
"""

import base64
import contextlib
import html
import io
import math
import unicodedata
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from PIL import Image
from rapidfuzz.distance import Levenshtein

from crnn.errors import ConfigError, CrnnError, printable
from crnn.evaluation.calibration import ReliabilityBin
from crnn.evaluation.metrics import TextSums
from crnn.evaluation.results import (
    DatasetResult,
    Evaluation,
    LexiconResult,
    SampleResult,
    accuracy_by_length,
    confusions,
    worst_errors,
)
from crnn.files import atomic_write
from crnn.image import load_image

MAX_ERRORS = 60  # wrong readings in a report
MAX_CONFUSIONS = 20  # confusions of characters in a report

_LONGEST = 20  # longer labels share the last row
_THUMBNAIL = (160, 48)  # pixels; larger images are made smaller, so that a report stays below a megabyte
_SIDE = 260  # of the square of the diagram, in pixels

_CONTROL_SYMBOLS = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}

ImageLookup = Callable[[str, int], bytes | None]  # encoded image of a sample, by set name and index


def write_report(
    path: Path, evaluation: Evaluation, lookup: ImageLookup, details: Sequence[tuple[str, str]] = ()
) -> None:
    """Write the report of an evaluation as one HTML file, atomically; ``ConfigError`` if that is impossible.

    ``lookup`` returns the images of wrong readings; a ``CrnnError`` or ``OSError`` from it leaves a gap. ``details``
    are facts on the evaluation (decoding, engine, versions), by name.
    """
    title = f"Evaluation of {_text(evaluation.model)}"
    facts = [f"{_text(name)}: {_text(value)}" for name, value in (("Protocol", evaluation.title), *details)]
    style = (resources.files("crnn") / "evaluation" / "report.css").read_text(encoding="utf-8")
    # The policy is a second lock: even markup that slipped through could load and run nothing.
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style></head>
<body>
<h1>{title}</h1>
<p class="lead">{" · ".join(facts)}</p>
{_summary(evaluation)}{_with_lexicons(evaluation)}{_trust(evaluation)}
<div class="pair"><section>{_lengths(evaluation)}</section><section>{_confusions(evaluation)}</section></div>
{_errors(evaluation, lookup)}
</body></html>
"""
    # A label may hold lone surrogates, which UTF-8 has no bytes for.
    atomic_write(path, page.encode("utf-8", errors="backslashreplace"), ConfigError)


def _summary(evaluation: Evaluation) -> str:
    text = (
        "Accuracy: share of samples read without any error; the line is its 95 % interval. 1-NED: one minus the edit "
        "distance over the length of the longer text, averaged. CER: edits per character of the labels."
    )
    heads = ("Dataset", "#Accuracy", "", "#1-NED", "#CER", "#Samples", "Skipped")
    rows = [_figures(_text(d.name), d.sums, _skipped(d)) for d in evaluation.datasets]
    foot = []
    if len(rows) > 1:
        foot = [_figures("Combined", evaluation.sums), ("Mean", _percent(evaluation.mean_accuracy), *[""] * 5)]
    warnings = "".join(f"<li>{_text(line)}</li>" for dataset in evaluation.datasets for line in dataset.warnings)
    listed = f'<ul class="warnings">{warnings}</ul>\n' if warnings else ""
    return _part("Datasets", text, _table(heads, rows, foot) + listed)


def _figures(name: str, sums: TextSums, skipped: str = "") -> tuple[str, ...]:
    low, high = sums.accuracy_interval
    interval = f'<span class="sub">{100 * low:.1f} to {100 * high:.1f}</span>' if sums.samples else ""
    accuracy, samples = f"{_percent(sums.accuracy)}{interval}", f"{sums.samples:,}"
    return name, accuracy, _bar(sums), _percent(sums.one_minus_ned), _percent(sums.cer), samples, skipped


def _skipped(dataset: DatasetResult) -> str:
    counts = sorted(dataset.skipped.items())
    return "<br>".join(f"{count:,} {_text(reason.replace('_', ' '))}" for reason, count in counts if count)


def _with_lexicons(evaluation: Evaluation) -> str:
    """Return accuracies with and without lexicons side by side, like the paper's table; nothing without lexicons."""
    if not evaluation.lexicon_names:
        return ""
    text = (
        "Share of samples read rightly when the reading must be a word of a lexicon: the 50 or 1,000 words kept with "
        "each sample (50, 1k), all labels of the set (full), or a file. None: read freely. A number in brackets: only "
        "so many samples have a lexicon."
    )

    def cell(lexicon: LexiconResult) -> str:
        words = "" if lexicon.words is None else f'<span class="sub">{lexicon.words:,} words</span>'
        some = f'<span class="sub">({lexicon.sums.samples:,})</span>' if lexicon.without else ""
        return f"{_percent(lexicon.sums.accuracy)}{words}{some}" if lexicon.sums.samples else "–"

    heads = ("Dataset", *(f"#{_text(name)}" for name in evaluation.lexicon_names), "#None")
    rows = [(_text(d.name), *map(cell, d.lexicons), _percent(d.sums.accuracy)) for d in evaluation.datasets]
    return _part("With lexicons", text, _table(heads, rows))


def _trust(evaluation: Evaluation) -> str:
    """Return calibration error, reliability diagram, and accuracy against coverage; nothing without samples."""
    found = evaluation.reliability
    if found.error_before is None:
        return ""
    which, curves = "score as a probability", [("after", "scores", found.before)]
    errors = ". The weights are not calibrated: <code>crnn calibrate</code> fits them on labelled images."
    if found.error_after is not None:
        which, curves = "confidence", [("before", "scores", found.before), ("after", "confidences", found.after)]
        errors = f", that of the confidences <b>{_percent(found.error_after)}</b>."
    text = (
        "Where readings that call themselves 80 % sure are right in 80 % of the cases, points lie on the diagonal. "
        "Expected calibration error: mean distance from it. That of the scores is "
        f"<b>{_percent(found.error_before)}</b>{errors}"
    )
    cells = [
        (f"{100 * r.threshold:g} %", f"{r.samples:,}", _percent(r.coverage), _percent(r.accuracy))
        for r in found.coverage
    ]
    body = f"""{_reliability_diagram(curves)}
<p>What remains when readings with a lower {which} are refused.</p>
{_table(("#Threshold", "#Read", "#Coverage", "#Accuracy"), cells)}"""
    return _part("How far scores can be trusted", text, body)


def _reliability_diagram(curves: Sequence[tuple[str, str, Sequence[ReliabilityBin]]]) -> str:
    """Draw curves, given by class in the style sheet, name and points; the area of a point is its number of samples."""
    drawn = [
        f'<svg class="diagram" viewBox="-44 -10 {_SIDE + 58} {_SIDE + 50}" width="{_SIDE + 58}" role="img" '
        'aria-label="Reliability diagram">'
        f'<rect class="frame" x="0" y="0" width="{_SIDE}" height="{_SIDE}"/>'
        f'<line class="ideal" x1="0" y1="{_SIDE}" x2="{_SIDE}" y2="0"/>'
        f'<text x="{_SIDE / 2:g}" y="{_SIDE + 34}" class="middle">Confidence (%)</text>'
        f'<text x="{-_SIDE / 2:g}" y="-32" class="middle" transform="rotate(-90)">Accuracy (%)</text>'
    ]
    for k in range(6):
        x, y = _SIDE * k / 5, _SIDE * (5 - k) / 5
        drawn.append(f'<text x="{x:g}" y="{_SIDE + 16}" class="middle">{20 * k}</text>')
        drawn.append(f'<text x="-6" y="{y + 4:g}" class="end">{20 * k}</text>')
        drawn.append(f'<line class="grid" x1="0" y1="{y:g}" x2="{_SIDE}" y2="{y:g}"/>')
    for kind, name, bins in curves:
        places = [(round(_SIDE * b.confidence, 1), round(_SIDE * (1 - b.accuracy), 1)) for b in bins]
        drawn.append(f'<polyline class="{kind}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
        most = max(b.samples for b in bins)
        for (x, y), b in zip(places, bins, strict=True):
            note = f"{name}: {_percent(b.confidence)} sure, {_percent(b.accuracy)} right, {b.samples:,} samples"
            circle = f'class="{kind}" cx="{x}" cy="{y}" r="{2.0 + 4.0 * math.sqrt(b.samples / most):.1f}"'
            drawn.append(f"<circle {circle}><title>{note}</title></circle>")
    keys = "".join(f'<span class="{kind}">● {name}</span>' for kind, name, _ in curves)
    return f'{"".join(drawn)}</svg>\n<p class="keys">{keys}</p>'


def _lengths(evaluation: Evaluation) -> str:
    rows = []
    for length, sums in accuracy_by_length(evaluation.samples, _LONGEST).items():
        counts = f"{sums.samples:,}", f"{sums.samples - sums.correct:,}"
        rows.append((f"{length}{'+' if length > _LONGEST else ''}", *counts, _percent(sums.accuracy), _bar(sums)))
    table = _table(("#Length", "#Samples", "#Wrong", "#Accuracy", ""), rows)
    return _part("Accuracy by length", "Characters of the label, all datasets together.", table)


def _confusions(evaluation: Evaluation) -> str:
    rows = []
    found = confusions(evaluation.samples, MAX_CONFUSIONS)
    for expected, read, count, occurrences in found:
        share = _percent(count / occurrences if occurrences else math.nan)
        bar = f'<div class="bar" style="--value:{100 * count / found[0][2]:.1f}%"><i></i></div>'
        rows.append((_glyph(expected), _glyph(read), f"{count:,}", share, bar))
    table = _table(("Label", "Read as", "#Times", "#Share", ""), rows)
    text = "The most frequent ones. Share: of all such characters in the labels."
    return _part("Confused characters", text, table) if rows else _part("Confused characters", "None.", "")


def _errors(evaluation: Evaluation, lookup: ImageLookup) -> str:
    errors = worst_errors(evaluation.datasets, MAX_ERRORS)
    if not errors:
        return _part("Worst errors", "No reading was wrong.", "")
    num_wrong = evaluation.sums.samples - evaluation.sums.correct
    shown = f"{len(errors)} of {num_wrong:,}" if len(errors) < num_wrong else f"all {num_wrong:,}"
    text = f"The wrong readings that the model is surest of ({shown}). Some labels may be wrong, too."
    items = [_error(dataset, sample, _thumbnail(lookup, dataset, sample.index)) for dataset, sample in errors]
    return _part("Worst errors", text, f'<ol class="errors">\n{"".join(items)}</ol>')


def _error(dataset: str, sample: SampleResult, thumbnail: str) -> str:
    label, reading = _marked(sample.label, sample.prediction)
    texts = [("Label", label), ("Read", reading)]
    if sample.raw_label != sample.label:
        texts.append(("Raw", _text(sample.raw_label)))
    facts = "".join(f'<dt>{name}</dt><dd class="text"><bdi>{text}</bdi></dd>' for name, text in texts)
    score = f"{_percent(math.exp(min(sample.score, 0.0)))} (log-probability {sample.score:.3f})"
    facts += f"<dt>Score</dt><dd>{'–' if math.isnan(sample.score) else score}</dd>"
    if sample.confidence is not None:
        facts += f"<dt>Sure</dt><dd>{_percent(sample.confidence)}</dd>"
    source = f'<div class="source">{_text(dataset)} · {_text(sample.key)}</div>'
    return f'<li><div class="image">{thumbnail}</div><dl>{facts}</dl>{source}</li>\n'


def _thumbnail(lookup: ImageLookup, dataset: str, index: int) -> str:
    pixels = None
    with contextlib.suppress(CrnnError, OSError):
        data = lookup(dataset, index)
        pixels = None if data is None else load_image(data, 3)
    if pixels is None:
        return '<span class="nothing">no image</span>'
    image = Image.fromarray(pixels)
    image.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}" alt="">'


def _marked(label: str, prediction: str) -> tuple[str, str]:
    """Return both texts as HTML, differences marked; a bar stands for characters of the other text alone."""
    gap = '<span class="gap"></span>'
    shown_label, shown_reading = [], []
    for operation in Levenshtein.opcodes(label, prediction):
        expected = _text(label[operation.src_start : operation.src_end])
        read = _text(prediction[operation.dest_start : operation.dest_end])
        if operation.tag != "equal":
            expected = f'<mark class="lost">{expected}</mark>' if expected else gap
            read = f'<mark class="wrong">{read}</mark>' if read else gap
        shown_label.append(expected)
        shown_reading.append(read)
    return "".join(shown_label), "".join(shown_reading)


def _glyph(character: str) -> str:
    if not character:
        return '<span class="nothing">nothing</span>'
    name = unicodedata.name(character, f"U+{ord(character):04X}").lower()
    category = unicodedata.category(character)
    if category[0] in "CZ":  # nothing to see: white space, controls
        return f'<span class="nothing">{name}</span>'
    shown = f"\u25cc{character}" if category[0] == "M" else character  # a combining mark needs something to sit on
    return f'<bdi class="glyph" title="{name}">{_text(shown)}</bdi>'


def _part(title: str, text: str, body: str) -> str:
    return f"<h2>{title}</h2>\n<p>{text}</p>\n{body}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[Sequence[str]] = ()) -> str:
    """Return a table of cells in HTML, the first of each row its heading; ``#`` marks the columns of numbers."""
    kinds = [' class="num"' if head.startswith("#") else "" for head in heads]

    def line(cells: Sequence[str], others: str = "td") -> str:
        tags = ["th", *[others] * (len(cells) - 1)]
        shown = zip(tags, kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for tag, kind, cell in shown)}</tr>\n"

    head = line([head.removeprefix("#") for head in heads], "th")
    body, end = "".join(map(line, rows)), "".join(map(line, foot))
    return f"""<div class="wide"><table><thead>{head}</thead><tbody>
{body}</tbody><tfoot>{end}</tfoot></table></div>
"""


def _bar(sums: TextSums) -> str:
    if not sums.samples:
        return ""
    low, high = sums.accuracy_interval
    style = f"--value:{100 * sums.accuracy:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%"
    return f'<div class="bar" style="{style}"><i></i><b></b></div>'


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"


def _text(text: str) -> str:
    """Escape text for HTML; control characters become their symbols, because HTML cannot write them."""
    return html.escape(printable(text.translate(_CONTROL_SYMBOLS), 4000))
