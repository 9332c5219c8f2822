"""HTML report of an evaluation: figures, lexicons, lengths, confused characters, worst readings.

The page is one file without scripts, with style and images inside. The same evaluation gives the same bytes.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from PIL import Image
from rapidfuzz.distance import Levenshtein

from crnn.errors import ConfigError, CrnnError
from crnn.evaluation.calibration import CoverageRow, Reliability, ReliabilityBin
from crnn.evaluation.metrics import TextSums
from crnn.evaluation.results import (
    Confusion,
    DatasetResult,
    Evaluation,
    LengthRow,
    LexiconResult,
    SampleResult,
    accuracy_by_length,
    confusions,
    worst_errors,
)
from crnn.files import atomic_write
from crnn.image import load_image

_SIDE = 260  # of the square of a diagram, in pixels
_FRAME = (44, 10, 14, 40)  # left, top, right, bottom of it


def lexicon_part(evaluation: Evaluation) -> Iterator[str]:
    """Write accuracies without and with lexicons side by side, like the paper's table; nothing without lexicons."""
    names = evaluation.lexicon_names
    if not names:
        return
    yield "<h2>With lexicons</h2>\n<p>Share of samples read rightly when the reading must be a word of a lexicon: the "
    yield "50 or 1,000 words kept with each sample (50, 1k), all labels of the set (full), or a file. None: read "
    yield "freely. A number in brackets: only so many samples have a lexicon.</p>\n"
    heads = "".join(f'<th class="num">{html.escape(name)}</th>' for name in (*names, "None"))
    yield f'<div class="wide"><table><thead><tr><th>Dataset</th>{heads}</tr></thead><tbody>\n'
    for dataset in evaluation.datasets:
        cells = "".join(_lexicon_cell(lexicon) for lexicon in dataset.lexicons)
        free = f'<td class="num">{_percent(dataset.sums.accuracy)}</td>'
        yield f"<tr><th>{html.escape(dataset.name)}</th>{cells}{free}</tr>\n"
    yield "</tbody></table></div>\n"


def _lexicon_cell(lexicon: LexiconResult) -> str:
    if not lexicon.sums.samples:
        return '<td class="num">–</td>'
    words = "" if lexicon.words is None else f'<span class="sub">{lexicon.words:,} words</span>'
    some = f'<span class="sub">({lexicon.sums.samples:,})</span>' if lexicon.without else ""
    return f'<td class="num">{_percent(lexicon.sums.accuracy)}{words}{some}</td>'


def trust_part(found: Reliability, total: TextSums) -> Iterator[str]:
    """Write reliability diagram, calibration error and accuracy against coverage; nothing without samples."""
    if not total.samples or not found.samples:
        return
    yield "<h2>How far scores can be trusted</h2>\n"
    yield "<p>Where readings that call themselves 80 % sure are right in 80 % of the cases, points lie on the "
    yield "diagonal. Expected calibration error: mean distance from it. "
    if found.error_after is None:
        yield f"That of the scores is <b>{_percent(found.error_before)}</b>. The weights are not calibrated: "
        yield "<code>crnn calibrate</code> fits them on labelled images.</p>\n"
    else:
        yield f"That of the scores is <b>{_percent(found.error_before)}</b>, that of the confidences "
        yield f"<b>{_percent(found.error_after)}</b>.</p>\n"
    yield '<div class="pair"><section>\n'
    yield from _reliability_diagram(found)
    yield "</section><section>\n"
    yield from _coverage_diagram(found.coverage)
    yield "</section></div>\n"
    which = "score as a probability" if found.error_after is None else "confidence"
    yield f"<p>What remains when readings with a lower {which} are refused.</p>\n"
    heads = "".join(f'<th class="num">{head}</th>' for head in ("Threshold", "Read", "Coverage", "Accuracy"))
    yield f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n'
    for row in found.coverage:
        cells = (f"{100 * row.threshold:g} %", f"{row.samples:,}", _percent(row.coverage), _percent(row.accuracy))
        yield f"<tr>{''.join(f'<td class=num>{cell}</td>' for cell in cells)}</tr>\n"
    yield "</tbody></table></div>\n"


def _reliability_diagram(found: Reliability) -> Iterator[str]:
    yield _opened("Reliability diagram", "Confidence", "Accuracy", 0.0)
    x0, y0, x1, y1 = (*_point(0.0, 0.0, 0.0), *_point(1.0, 1.0, 0.0))
    yield f'<line class="ideal" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>\n'
    if found.error_after is None:
        yield from _curve(found.before, "after", "scores")
    else:
        yield from _curve(found.before, "before", "scores")
        yield from _curve(found.after, "after", "confidences")
    yield "</svg>\n"
    names = [("after", "scores")]
    if found.error_after is not None:
        names = [("before", "scores"), ("after", "confidences")]
    keys = "".join(f'<span class="{kind}">● {name}</span>' for kind, name in names)
    yield f'<p class="keys">{keys}</p>\n'


def _curve(bins: Sequence[ReliabilityBin], kind: str, name: str) -> Iterator[str]:
    points = [_point(b.confidence, b.accuracy, 0.0) for b in bins]
    yield f'<polyline class="{kind}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>\n'
    most = max((b.samples for b in bins), default=1)
    for (x, y), b in zip(points, bins, strict=True):
        radius = round(2.0 + 4.0 * math.sqrt(b.samples / most), 1)  # area by number of samples
        note = f"{name}: {_percent(b.confidence)} sure, {_percent(b.accuracy)} right, {b.samples:,} samples"
        yield f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{note}</title></circle>\n'


def _coverage_diagram(rows: Sequence[CoverageRow]) -> Iterator[str]:
    low = min((row.accuracy for row in rows), default=0.0)
    low = max(0.0, math.floor(10.0 * low) / 10.0 - 0.1) if low < 1.0 else 0.9
    yield _opened("Accuracy against coverage", "Coverage", "Accuracy", low)
    points = [_point(row.coverage, row.accuracy, low) for row in rows]
    yield f'<polyline class="after" points="{" ".join(f"{x},{y}" for x, y in points)}"/>\n'
    for (x, y), row in zip(points, rows, strict=True):
        note = f"from {100 * row.threshold:g} %: {_percent(row.coverage)} read, {_percent(row.accuracy)} of it right"
        yield f'<circle class="after" cx="{x}" cy="{y}" r="4"><title>{note}</title></circle>\n'
    yield "</svg>\n"


def _opened(title: str, across: str, up: str, low: float) -> str:
    """Open a diagram: frame and axes, from 0 (up: from ``low``) to 100 %."""
    left, top, right, bottom = _FRAME
    width, height = left + _SIDE + right, top + _SIDE + bottom
    parts = [
        f'<svg class="diagram" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{title}">\n<rect class="frame" x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}"/>\n'
    ]
    for k in range(6):
        x = left + _SIDE * k / 5
        y = top + _SIDE * (1 - k / 5)
        parts.append(f'<text x="{x:g}" y="{top + _SIDE + 16}" class="middle">{20 * k}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" class="end">{100 * (low + (1 - low) * k / 5):.0f}</text>')
        parts.append(f'<line class="grid" x1="{left}" y1="{y:g}" x2="{left + _SIDE}" y2="{y:g}"/>')
    parts.append(f'\n<text x="{left + _SIDE / 2:g}" y="{height - 6}" class="middle">{across} (%)</text>')
    turned = f'transform="rotate(-90 12 {top + _SIDE / 2:g})"'
    parts.append(f'<text x="12" y="{top + _SIDE / 2:g}" class="middle" {turned}>{up} (%)</text>\n')
    return "".join(parts)


def _point(across: float, up: float, low: float) -> tuple[float, float]:
    left, top = _FRAME[:2]
    return round(left + _SIDE * across, 1), round(top + _SIDE * (1.0 - (up - low) / (1.0 - low)), 1)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"


MAX_ERRORS = 60  # wrong readings in a report

MAX_CONFUSIONS = 20  # confusions of characters in a report

_THUMBNAIL = (160, 48)  # pixels; larger images are made smaller, so that a report stays below a megabyte

_CONTROL_SYMBOLS = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}

# The policy is a second lock: even markup that slipped through could load and run nothing.
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""

ImageLookup = Callable[[str, int], bytes | None]  # encoded image of a sample, by set name and index


def write_report(
    path: Path, evaluation: Evaluation, lookup: ImageLookup, details: Sequence[tuple[str, str]] = ()
) -> None:
    """Write the report of an evaluation as one HTML file, atomically.

    ``lookup`` returns the images of wrong readings; a ``CrnnError`` or ``OSError`` from it leaves a gap. ``details``
    are facts on the evaluation (decoding, engine, versions), by name.

    Raises:
        ConfigError: The file cannot be written; an earlier one at ``path`` is untouched.
    """
    # A label may hold lone surrogates, which UTF-8 has no bytes for.
    page = "".join(_page(evaluation, lookup, details)).encode("utf-8", errors="backslashreplace")
    atomic_write(path, page, ConfigError)


def _page(evaluation: Evaluation, lookup: ImageLookup, details: Sequence[tuple[str, str]]) -> Iterator[str]:
    datasets = evaluation.datasets
    samples = [sample for dataset in datasets for sample in dataset.samples]
    total = sum((dataset.sums for dataset in datasets), TextSums())
    title = f"Evaluation of {_text(evaluation.model)}"
    facts = (("Protocol", evaluation.title), *details)
    style = (resources.files("crnn") / "evaluation" / "report.css").read_text(encoding="utf-8")
    yield f"{_HEAD}<title>{title}</title>\n<style>\n{style}</style></head>\n<body>\n<h1>{title}</h1>\n"
    yield f'<p class="lead">{" · ".join(f"{_text(name)}: {_text(value)}" for name, value in facts)}</p>\n'
    yield from _tiles(evaluation, total)
    yield from _summary(evaluation, total)
    yield from lexicon_part(evaluation)
    yield from trust_part(evaluation.reliability, total)
    yield '<div class="pair">\n'
    yield from _lengths(accuracy_by_length(samples))
    yield from _confusions(confusions(samples, MAX_CONFUSIONS))
    yield "</div>\n"
    yield from _errors(worst_errors(datasets, MAX_ERRORS), total.samples - total.correct, lookup)
    yield "</body></html>\n"


def _tiles(evaluation: Evaluation, total: TextSums) -> Iterator[str]:
    skipped = sum(sum(dataset.skipped.values()) for dataset in evaluation.datasets)
    yield '<dl class="tiles">'
    for name, value, note in (
        ("Word accuracy", _percent(evaluation.combined_accuracy), f"95 % interval {_interval(total)}"),
        ("Mean of the sets", _percent(evaluation.mean_accuracy), "every set weighs the same"),
        ("Samples", f"{total.samples:,}", f"{total.samples - total.correct:,} read wrongly"),
        ("Skipped", f"{skipped:,}", "left out of every number"),
    ):
        yield f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
    yield "</dl>\n"


def _summary(evaluation: Evaluation, total: TextSums) -> Iterator[str]:
    yield "<h2>Datasets</h2>\n<p>Accuracy: share of samples read without any error; the line is its 95 % interval. "
    yield "1-NED: one minus the edit distance over the length of the longer text, averaged. "
    yield "CER: edits per character of the labels.</p>\n"
    yield _table_head("Dataset", "#Accuracy", "", "#1-NED", "#CER", "#Samples", "Skipped")
    for dataset in evaluation.datasets:
        skipped = [f"{n:,} {_text(reason.replace('_', ' '))}" for reason, n in sorted(dataset.skipped.items()) if n]
        yield _summary_row(_text(dataset.name), dataset.sums, _expected(dataset), "<br>".join(skipped))
    yield "</tbody>"
    if len(evaluation.datasets) > 1:
        mean = _percent(evaluation.mean_accuracy)
        yield f"<tfoot>{_summary_row('Combined', total, '', '')}"
        yield f'<tr><th>Mean</th><td class="num">{mean}</td><td colspan="5"></td></tr></tfoot>'
    yield "</table></div>\n"
    warnings = [f"<li>{_text(warning)}</li>" for dataset in evaluation.datasets for warning in dataset.warnings]
    if warnings:
        yield f'<ul class="warnings">{"".join(warnings)}</ul>\n'


def _summary_row(name: str, sums: TextSums, expected: str, skipped: str) -> str:
    accuracy = f'{_percent(sums.accuracy)}<span class="sub">{_interval(sums)}</span>'
    numbers = (_percent(sums.one_minus_ned), _percent(sums.cer), f"{sums.samples:,}{expected}")
    cells = "".join(f'<td class="num">{number}</td>' for number in numbers)
    return f'<tr><th>{name}</th><td class="num">{accuracy}</td><td>{_bar(sums)}</td>{cells}<td>{skipped}</td></tr>\n'


def _expected(dataset: DatasetResult) -> str:
    if dataset.expected is None:
        return ""
    if dataset.expected == dataset.sums.samples:
        return '<br><span class="flag good">as published</span>'
    return f'<br><span class="flag warn">published: {dataset.expected:,}</span>'


def _lengths(rows: Sequence[LengthRow]) -> Iterator[str]:
    yield "<section><h2>Accuracy by length</h2>\n<p>Characters of the label, all datasets together.</p>\n"
    yield _table_head("#Length", "#Samples", "#Wrong", "#Accuracy", "")
    for row in rows:
        length = f"{row.length}{'+' if row.or_more else ''}"
        wrong = row.sums.samples - row.sums.correct
        numbers = (f"{row.sums.samples:,}", f"{wrong:,}", _percent(row.sums.accuracy))
        cells = "".join(f'<td class="num">{number}</td>' for number in numbers)
        yield f'<tr><th class="num">{length}</th>{cells}<td>{_bar(row.sums)}</td></tr>\n'
    yield "</tbody></table></div></section>\n"


def _confusions(rows: Sequence[Confusion]) -> Iterator[str]:
    yield "<section><h2>Confused characters</h2>\n"
    if rows:
        yield "<p>The most frequent ones. Share: of all such characters in the labels.</p>\n"
        yield _table_head("Label", "Read as", "#Times", "#Share", "")
        for row in rows:
            share = _percent(row.count / row.occurrences if row.occurrences else math.nan)
            bar = f'<div class="bar" style="--value:{100 * row.count / rows[0].count:.1f}%"><i></i></div>'
            yield f"<tr><td>{_glyph(row.expected)}</td><td>{_glyph(row.read)}</td>"
            yield f'<td class="num">{row.count:,}</td><td class="num">{share}</td><td>{bar}</td></tr>\n'
        yield "</tbody></table></div></section>\n"
    else:
        yield "<p>None.</p></section>\n"


def _errors(errors: Sequence[tuple[str, SampleResult]], num_wrong: int, lookup: ImageLookup) -> Iterator[str]:
    yield "<h2>Worst errors</h2>\n"
    if not errors:
        yield "<p>No reading was wrong.</p>\n"
        return
    shown = f"{len(errors)} of {num_wrong:,}" if len(errors) < num_wrong else f"all {num_wrong:,}"
    yield f"<p>The wrong readings that the model is surest of ({shown}). Some labels may be wrong, too.</p>\n"
    yield '<ol class="errors">\n'
    for dataset, sample in errors:
        label, reading = _marked(sample.label, sample.prediction)
        texts = [("Label", label), ("Read", reading)]
        if sample.raw_label != sample.label:
            texts.append(("Raw", _text(sample.raw_label)))
        yield f'<li><div class="image">{_thumbnail(lookup, dataset, sample.index)}</div><dl>'
        yield "".join(f'<dt>{name}</dt><dd class="text"><bdi>{text}</bdi></dd>' for name, text in texts)
        yield f"<dt>Score</dt><dd>{_score(sample.score)}</dd>"
        if sample.confidence is not None:
            yield f"<dt>Sure</dt><dd>{_percent(sample.confidence)}</dd>"
        yield "</dl>"
        yield f'<div class="source">{_text(dataset)} · {_text(sample.key)}</div></li>\n'
    yield "</ol>\n"


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


def _table_head(*names: str) -> str:
    """Open a table; ``#`` marks the columns of numbers."""
    cells = "".join(f'<th class="num">{n[1:]}</th>' if n.startswith("#") else f"<th>{n}</th>" for n in names)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n'


def _bar(sums: TextSums) -> str:
    if not sums.samples:
        return ""
    low, high = sums.accuracy_interval
    style = f"--value:{100 * sums.accuracy:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%"
    return f'<div class="bar" style="{style}"><i></i><b></b></div>'


def _interval(sums: TextSums) -> str:
    low, high = sums.accuracy_interval
    return f"{100 * low:.1f} to {100 * high:.1f}" if sums.samples else "–"


def _score(score: float) -> str:
    return "–" if math.isnan(score) else f"{_percent(math.exp(min(score, 0.0)))} (log-probability {score:.3f})"


def _text(text: str) -> str:
    """Escape text for HTML; control characters become their symbols, because HTML cannot write them."""
    return html.escape(text.translate(_CONTROL_SYMBOLS))
