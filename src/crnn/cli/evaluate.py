"""``crnn evaluate``: a model, or readings in a file, on benchmark sets, as a table, JSON or a page."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crnn.charset import NAMED_CHARSETS
from crnn.cli.arguments import EngineOptions
from crnn.config.training import ProtocolName
from crnn.decoding.decoder import DecodingOptions, resolve_method
from crnn.errors import ConfigError, printable
from crnn.terminal import check_writable, counting_bar, print_json, require_torch, say

if TYPE_CHECKING:
    from crnn.evaluation.results import DatasetResult, Evaluation


def evaluate(
    model: Annotated[str, typer.Argument(metavar="[MODEL]")],
    data: Annotated[list[str] | None, typer.Argument(metavar="[NAME=]DATA ...")] = None,
    protocol: ProtocolName = "parseq",
    charset: Literal["auto", "36", "62", "94"] = "auto",
    lexicon: Annotated[list[str] | None, typer.Option(metavar="50|1k|full|FILE")] = None,
    max_bad_share: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    *,
    readings: str = "",
    like: Annotated[str, typer.Option(metavar="MODEL")] = "",
    decoding: Annotated[DecodingOptions, {"n_best"}],
    report: str = "",
    json: bool = False,
    engine: EngineOptions,
) -> int:
    """Measure a model, or readings of any program, on benchmark sets under a published protocol.

    In Python: ``crnn.evaluation.evaluate.evaluate(crnn.load(model), data)``. Under ``torchrun`` ranks share the work.

    Args:
        model: Name of weights that ship, hf://OWNER/NAME, a weights file, a run folder, or an exported file; none:
            --readings is scored.
        data: LMDB folders and list files.
        protocol: Rules for labels and readings; lines: whole texts with case folded, marks and spaces counted.
        charset: Characters that are compared; auto: 36, or the model's own where it is no set of the field.
        lexicon: Once more with a lexicon, beside the free reading: 50 or 1k (those kept with the samples), full (the
            set's labels) or a file. May be given several times.
        max_bad_share: A larger share of unreadable images, at least ten, is an error.
        readings: With MODEL: write its readings to this new file. Without: score those in it, as crnn read prints them
            (path, tab, text), with --json or without.
        like: Score by the characters and label rules of this model.
        decoding: How texts are found; --decode lexicon: with the one --lexicon and nothing else.
        report: Write a page that explains the result: worst errors, calibration, accuracy by length.
        json: Print one JSON object instead of the table.
        engine: The engine.
    """
    from crnn.engines.loading import is_model

    scored = readings and not is_model(model)
    data = [*([model] if scored else []), *(data or [])]
    if not data:
        raise ConfigError(f"DATA is missing behind the model {model}; expected LMDB folders and list files")
    if scored and not Path(readings).exists():
        raise ConfigError(
            f"--readings {readings}: there is no such file to score, and {model} is no model, whose readings could be "
            "written; expected a file of readings, or a model before the data"
        )
    if readings and not scored and os.path.lexists(readings):
        raise ConfigError(
            f"--readings {readings}: exists already, and readings of the model {model} are to be written; expected a "
            "new file. To score those in it, leave the model out"
        )
    unused = [f.name for o in (decoding, engine) for f in fields(o) if scored and getattr(o, f.name) != f.default]
    if unused or (like and not scored):
        flag, way = (unused[0].replace("_", "-"), "scoring a file") if unused else ("like", "reading with a model")
        raise ConfigError(f"--{flag} does nothing when {way}; leave it out")
    check_writable("--report", report, "report.html", (".html", ".htm"))
    check_writable("--readings", "" if scored else readings, "readings.tsv")
    if readings and readings == report:
        raise ConfigError(f"--readings and --report are both {report}; expected two files")
    rules: dict[str, Any] = {"protocol": protocol, "charset": charset, "max_bad_share": max_bad_share}
    rules["lexicons"] = tuple(lexicon or ())
    if scored:
        from crnn.evaluation.readings import score_readings
        from crnn.recognizer import load

        own, way = load(like).config.charset if like else None, "readings in a file"
        result = score_readings(readings, data, like=own, **rules)
    elif (found := _read(model, data, rules, decoding, engine)) is None:
        return 0
    else:
        result, way = found
    if json:
        print_json(result.as_dict())
    else:
        _print_table(result)
    for line in result.warnings:
        say("evaluate", line)
    if report:
        from crnn.data.source import open_source
        from crnn.evaluation.report import write_report

        stores = {dataset.name: open_source(dataset.path) for dataset in result.datasets}
        write_report(Path(report), result, lambda name, i: stores[name].image_bytes(i), details=(("Decoding", way),))
        say("evaluate", f"report written to {report}")
    if readings and not scored:
        from crnn.evaluation.readings import write_readings

        write_readings(readings, result)
        say("evaluate", f"readings written to {readings}")
    return 1 if any(dataset.unreadable or not dataset.sums.samples for dataset in result.datasets) else 0


def _read(
    model: str, data: list[str], rules: dict[str, Any], decoding: DecodingOptions, engine: EngineOptions
) -> tuple[Evaluation, str] | None:
    """Return the result and the way of decoding on the main rank, ``None`` on others."""
    lexicons, charset = rules["lexicons"], rules["charset"]
    lexicon_only, margin = decoding.decode == "lexicon", decoding.lexicon_margin
    if lexicon_only and len(lexicons) != 1:
        raise ConfigError(f"--decode lexicon reads with one --lexicon, {len(lexicons)} are given; leave --decode out")
    if lexicon_only:
        resolve_method(replace(decoding, lexicon=lexicons[0]), has_language=False)
    if margin is not None and not lexicons:
        raise ConfigError("--lexicon-margin is given without --lexicon; expected both, or neither")
    from crnn.engines.loading import installed_engines, is_for_cpus
    from crnn.evaluation.evaluate import count_samples
    from crnn.evaluation.evaluate import evaluate as run
    from crnn.recognizer import load

    cpu = is_for_cpus(model, engine.engine, engine.precision)
    ranks, device, world_size = None, engine.device, int(os.environ.get("WORLD_SIZE", "1"))
    with ExitStack() as stack:
        if world_size > 1 or not (cpu or "torch" not in installed_engines()):
            require_torch("evaluating on several ranks", "train")
            from crnn.distributed import TIMEOUT, lost_peers_explained, start_ranks

            ranks = stack.enter_context(start_ranks("cpu" if cpu and device == "auto" else device))
            stack.enter_context(lost_peers_explained(ranks, TIMEOUT.total_seconds(), "start all again"))
            device = str(ranks.device)
        is_main = ranks is None or ranks.is_main
        own = replace(decoding, decode="auto" if lexicon_only else decoding.decode, lexicon_margin=None)
        reader = load(model, **asdict(replace(engine, device=device)), **asdict(own))
        total = -(-count_samples(data) // world_size)
        with counting_bar("reading", total, enabled=is_main) as progress:
            rules |= {"lexicon_margin": margin, "lexicon_only": lexicon_only, "ranks": ranks, "progress": progress}
            result = run(reader, data, model=model, **rules)
        if not is_main:
            return None
    missing = "".join(c for c in NAMED_CHARSETS.get(charset, "") if c not in reader.charset)
    if missing:
        shown = f"{missing[:12]}{'...' if len(missing) > 12 else ''}"
        told = f"{model} cannot write {len(missing)} of the {charset} characters that are compared ({shown})"
        say("evaluate", f"{told}: labels with them count as wrong. --charset auto compares what it can write")
    return result, reader.decoder.method if not lexicon_only else f"lexicon, {lexicons[0]}"


def _print_table(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    from crnn.evaluation.metrics import TextSums, mean_accuracy
    from crnn.evaluation.results import label_losses

    table = Table(title=printable(f"{result.model}, {result.title}"), title_justify="left")
    plain = any(dataset.greedy is not None for dataset in result.datasets)
    forms = [name for name, _ in result.datasets[0].forms]  # one protocol, so all sets have the same
    figures = ("greedy", "with language") if plain else ("accuracy",)
    losses = {dataset.name: label_losses(dataset.samples) for dataset in result.datasets}
    kinds = [k for k in ("lost", "unwritable") if any(loss[k]["labels"] for loss in losses.values())]
    texts = ("skipped", *(f"labels: {kind}" for kind in kinds))
    headings = ("dataset", *result.lexicon_names, *figures, "95 %", "1-NED", "CER", *forms, "samples", *texts)
    for heading in map(printable, headings):
        table.add_column(heading, justify="left" if heading in ("dataset", *texts) else "right")
    for dataset in result.datasets:
        found = [losses[dataset.name][kind] for kind in kinds]
        cells = [f"{x['labels']}: {printable(''.join(x['characters'])[:12])}" if x["labels"] else "-" for x in found]
        table.add_row(*_table_row(dataset, plain), *cells)
    if len(result.datasets) > 1:
        total = sum(dataset.sums.samples for dataset in result.datasets)
        between, behind = [""] * len(result.lexicon_names), [""] * (3 + len(forms))
        greedy = [dataset.greedy for dataset in result.datasets if dataset.greedy is not None]
        table.add_section()
        for name, value, mean, count in (
            ("mean", result.mean_accuracy, mean_accuracy(greedy), ""),
            ("combined", result.combined_accuracy, sum(greedy, TextSums()).accuracy, str(total)),
        ):
            both = (_percent(mean), _percent(value)) if plain else (_percent(value),)
            table.add_row(name, *between, *both, *behind, count)
    console = Console(markup=False, emoji=False, highlight=False)  # names are names, whatever brackets they have
    console.width = max(console.width, 120 + 10 * len(result.lexicon_names) + 20 * (len(forms) + len(kinds)))
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="", flush=True)
    if plain:
        print("greedy: the network alone, which is what papers report; with language: what readers get")


def _table_row(dataset: DatasetResult, plain: bool) -> list[str]:
    sums = dataset.sums
    low, high = sums.accuracy_interval
    return [
        printable(dataset.name),
        *(_percent(lexicon.sums.accuracy) for lexicon in dataset.lexicons),
        *((_percent(dataset.greedy.accuracy) if dataset.greedy is not None else "-",) if plain else ()),
        _percent(sums.accuracy),
        f"{_percent(low)} - {_percent(high)}" if sums.samples else "-",
        _percent(sums.one_minus_ned),
        _percent(sums.cer),
        *(f"{_percent(form.accuracy)} / {_percent(form.cer)}" for _, form in dataset.forms),
        str(sums.samples) + ("" if dataset.expected in (None, sums.samples) else f" of {dataset.expected}"),
        ", ".join(f"{reason}: {count}" for reason, count in dataset.skipped.items()) or "-",
    ]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
