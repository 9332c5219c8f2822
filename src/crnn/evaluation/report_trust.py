"""Parts of the report: how far the scores can be trusted, and accuracies with lexicons. See ``crnn.evaluation.report``.

Diagrams are SVG inside the page, drawn from ``crnn.evaluation.reliability`` alone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from crnn.evaluation.reliability import CoverageRow, Reliability, ReliabilityBin
from crnn.evaluation.results import Evaluation, LexiconResult
from crnn.metrics import TextSums

__all__ = ["lexicon_part", "trust_part"]

_SIDE = 260  # of the square of a diagram, in pixels
_FRAME = (44, 10, 14, 40)  # left, top, right, bottom of it


def lexicon_part(evaluation: Evaluation) -> Iterator[str]:
    """Accuracies without and with lexicons side by side, as the paper's table has them; nothing without lexicons."""
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
    """Reliability diagram, calibration error before and after, accuracy against coverage; nothing without samples."""
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
    """A diagram's frame, with axes from 0 (up: from ``low``) to 100 %."""
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
