"""What a training keeps in memory: whether it stays the same for as long as it runs, and how it grows with the batch.

    python benchmarks/memory.py watch synth|STORE|LIST [--minutes 20] [--every 5] [--json] [-- --train.threads 1 ...]
    python benchmarks/memory.py peaks [--batch 16 64 256] [--backbone vgg] [--json]

``watch`` starts ``crnn train``, looks at it and its workers every few seconds, and ends it as a scheduler would.
What follows ``--`` goes to ``crnn train``. ``peaks`` starts a short training for each backbone, precision and size of a
batch, and reports the most that each ever had. Linux only.

Memory is what is resident. ``own`` is what the program asked for; a page that processes share counts once in their sum
(proportional set size). ``files`` are pages of libraries and of the store, counted in every process that has them; the
system takes them back when it needs the room, and they grow until the whole store has been read. Growth is that of the
straight line through what was there after the first fifth of the time, over the rest of it: have the first checkpoint
and validation in the first fifth (--checkpoint.save_checkpoint_steps), which need memory of their own.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from crnn.reader_config import BACKBONE_CHANNELS

LIMIT = 0.03
"""Most growth of what is a program's own, after the first fifth, that is called flat."""

_ENDLESS = 10**7
_KINDS = {"smaps_rollup": {"Pss_Anon": "own", "Pss_Shmem": "own"}, "status": {"RssFile": "files"}}
_PEAK_STEPS = 6
_BATCHES = (16, 32, 64, 128, 256)

# ---- looking at processes --------------------------------------------------------------------------------------------


def memory_of(pid: int) -> dict[str, int] | None:
    """Bytes in memory of one process: ``own``, ``files`` and ``all``, their sum; ``None`` if it has ended."""
    found = dict.fromkeys(("own", "files"), 0)
    try:
        for name, kinds in _KINDS.items():
            for line in Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8").splitlines():
                if (kind := kinds.get(line.split(":")[0])) is not None:
                    found[kind] += int(line.split()[1]) << 10
    except OSError:
        return None
    return {"all": sum(found.values()), **found} if found["own"] else None


def below(pid: int) -> Iterator[int]:
    """The processes that one started, and those that they did."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
    except OSError:  # it ended
        return
    for child in children:
        yield child
        yield from below(child)


@dataclass(frozen=True, slots=True)
class Look:
    """What was in memory at one moment, in bytes.

    Attributes:
        seconds: Since the training was started.
        training: Of the process that trains, by kind; see ``memory_of``.
        workers: Of all that it started, together.
        processes: How many these are.
    """

    seconds: float
    training: dict[str, int]
    workers: dict[str, int]
    processes: int

    def total(self, kind: str = "all") -> int:
        """Of all processes together."""
        return self.training[kind] + self.workers[kind]


def look(pid: int, seconds: float) -> Look | None:
    """A process and those below it now; ``None`` if it has ended."""
    training = memory_of(pid)
    others = [found for each in below(pid) if (found := memory_of(each)) is not None]
    if training is None:
        return None
    return Look(seconds, training, {kind: sum(other[kind] for other in others) for kind in training}, len(others))


# ---- a long training -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trend:
    """What became of a figure after the first fifth of the time.

    Attributes:
        start: The straight line at the end of the first fifth, in bytes.
        growth: The line at the end over ``start``, less one.
        slope: Bytes per hour.
        ends: Medians of the second and of the last fifth, in bytes.
        peak: The highest of all, in bytes.
    """

    start: float
    growth: float
    slope: float
    ends: tuple[float, float]
    peak: int


def trend(seconds: list[float], values: list[int]) -> Trend:
    """The straight line (least squares) through what was seen after the first fifth of the time."""
    if len(values) < 10:
        raise RuntimeError(f"only {len(values)} looks were taken; expected at least 10. Watch longer, or more often")
    end = seconds[-1]
    late = [(s, v) for s, v in zip(seconds, values, strict=True) if s >= end / 5]
    slope, intercept = statistics.linear_regression([s for s, _ in late], [float(v) for _, v in late])
    start = intercept + slope * end / 5
    second = [v for s, v in late if s < 2 * end / 5]
    last = [v for s, v in late if s >= 4 * end / 5]
    medians = statistics.median(second or [late[0][1]]), statistics.median(last)
    return Trend(start, slope * end * 4 / 5 / start, 3600 * slope, medians, max(values))


def train_command(data: str, preset: str, folder: str, options: list[str]) -> list[str]:
    """A training that saves and logs as any other, into ``folder``."""
    command = [sys.executable, "-m", "crnn", "train", preset, "--data.train", data]
    return [*command, "--checkpoint.save_checkpoint_path", folder, *options]


def watch(data: str, preset: str, minutes: float, every: float, options: list[str]) -> tuple[list[Look], int]:
    """Train for some minutes after the first logged step; what was in memory, and the steps that were done."""
    looks: list[Look] = []
    with tempfile.TemporaryDirectory() as scratch:
        run, log = Path(scratch, "run"), Path(scratch, "log")
        metrics = run / "metrics.jsonl"
        steps = [] if "--train.num_steps" in options else ["--train.num_steps", str(_ENDLESS)]
        command = train_command(data, preset, str(run), [*steps, *options])
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
                time.sleep(0.1)
            started = time.monotonic()
            for _ in range(int(minutes * 60 / every)):
                time.sleep(every)
                if process.poll() is not None or (seen := look(process.pid, time.monotonic() - started)) is None:
                    break
                looks.append(seen)
            process.terminate()
            process.wait(120)
        finally:
            process.kill()
            process.wait()
        if process.returncode not in (0, 128 + signal.SIGTERM):
            raise RuntimeError(f"crnn train ended with status {process.returncode}:\n{log.read_text()[-3000:]}")
        return looks, int(json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["step"])


def trends(looks: list[Look]) -> dict[str, Trend]:
    """Of all processes, of the one that trains and of its workers; and of all by kind."""
    seconds = [each.seconds for each in looks]
    found = {
        "all": trend(seconds, [each.total() for each in looks]),
        "all, own": trend(seconds, [each.total("own") for each in looks]),
        "all, files": trend(seconds, [each.total("files") for each in looks]),
        "training process": trend(seconds, [each.training["all"] for each in looks]),
    }
    if any(each.processes for each in looks):
        found["workers"] = trend(seconds, [each.workers["all"] for each in looks])
    return found


def watch_table(title: str, found: dict[str, Trend]) -> str:
    """The trends for people, in Markdown."""
    lines = [
        title,
        "",
        "| MB | after 1/5 | growth | limit | MB per hour | 2nd fifth, last fifth | peak |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, each in found.items():
        limit = f"{100 * LIMIT:.0f} %" if name == "all, own" else ""
        ends = ", ".join(f"{value / 1e6:,.1f}" for value in each.ends)
        lines.append(
            f"| {name} | {each.start / 1e6:,.1f} | {100 * each.growth:+.2f} % | {limit} | {each.slope / 1e6:+,.1f} "
            f"| {ends} | {each.peak / 1e6:,.1f} |"
        )
    return "\n".join(lines)


# ---- peaks by batch --------------------------------------------------------------------------------------------------


def draw_words(folder: Path, count: int) -> str:
    """A list of drawn words the size of ordinary crops."""
    lines = []
    for number in range(count):
        picture = Image.new("L", (140, 48), 255)
        ImageDraw.Draw(picture).text((6, 6), f"word{number}", fill=0, font=ImageFont.load_default(30))
        picture.save(folder / f"{number}.png")
        lines.append(f"{number}.png\tword{number}\n")
    path = folder / "labels.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def peak_of(command: list[str]) -> int:
    """Bytes that a command had in memory at its highest, pages of files included."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{log.read().decode()}")
    return usage.ru_maxrss << 10


def peaks(backbones: list[str], precisions: list[str], batches: list[int]) -> dict[str, dict[str, int]]:
    """``BACKBONE, PRECISION`` -> size of the batch -> bytes; and what the program needs before it has a network."""
    with tempfile.TemporaryDirectory() as scratch:
        data = draw_words(Path(scratch), max(batches))
        train = functools.partial(train_command, data)
        found = {"nothing": {"0": peak_of([sys.executable, "-c", "import crnn.cli, crnn.train"])}}
        for backbone in backbones:
            for precision in precisions:
                row = found.setdefault(f"{backbone}, {precision}", {})
                for batch in batches:
                    options = ["--train.batch_size", str(batch), "--train.precision", precision]
                    options += ["--train.num_steps", str(_PEAK_STEPS), "--train.device", "cpu"]
                    options += ["--data.workers", "0", "--train.no-tensorboard", "--train.threads", "1"]
                    folder = f"{scratch}/{backbone}-{precision}-{batch}"
                    row[str(batch)] = peak_of(train(f"crnn-{backbone}", folder, options))
    return found


def peaks_table(found: dict[str, dict[str, int]]) -> str:
    """The peaks for people, in Markdown; the last column is what each further picture of a batch costs."""
    rows = {name: row for name, row in found.items() if name != "nothing"}
    batches = list(next(iter(rows.values())))
    lines = [
        f"the program before it has a network: {found['nothing']['0'] / 1e6:,.0f} MB",
        "",
        f"| MB at batch | {' | '.join(batches)} | MB per picture |",
        "|---|" + "---:|" * (len(batches) + 1),
    ]
    for name, row in rows.items():
        more = (row[batches[-1]] - row[batches[0]]) / max(1, int(batches[-1]) - int(batches[0]))
        lines.append(f"| {name} | {' | '.join(f'{value / 1e6:,.0f}' for value in row.values())} | {more / 1e6:.2f} |")
    return "\n".join(lines)


# ---- command line ----------------------------------------------------------------------------------------------------


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    long = modes.add_parser("watch", help="a long training, its memory every few seconds")
    long.add_argument("data", help="synth, an LMDB folder or a list file")
    long.add_argument("--preset", default="crnn-small")
    long.add_argument("--minutes", type=float, default=20.0)
    long.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    short = modes.add_parser("peaks", help="the most that a training has, by size of the batch")
    short.add_argument("--backbone", nargs="+", choices=list(BACKBONE_CHANNELS), default=list(BACKBONE_CHANNELS))
    short.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    short.add_argument("--batch", nargs="+", type=int, default=list(_BATCHES))
    for mode in (long, short):
        mode.add_argument("--json", action="store_true")
    place = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:place])
    options.train = given[place + 1 :]
    return options


def measure(options: argparse.Namespace) -> bool:
    """Print one table; whether memory stayed flat, where that was asked."""
    if options.mode == "peaks":
        rows = peaks(options.backbone, options.precision, options.batch)
        print(json.dumps(rows, indent=1) if options.json else peaks_table(rows))
        return True
    looks, steps = watch(options.data, options.preset, options.minutes, options.every, options.train)
    found = trends(looks)
    allocator = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    title = f"{options.preset}, {options.data}: {steps:,} steps in {looks[-1].seconds / 60:.1f} minutes, "
    title += f"allocator: {allocator or 'as it is'}"
    if options.json:
        shown = {name: asdict(each) for name, each in found.items()}
        print(json.dumps({"title": title, "steps": steps, "trends": shown, "looks": [asdict(each) for each in looks]}))
    else:
        print(watch_table(title, found))
    return found["all, own"].growth <= LIMIT


def main() -> int:
    """Exit status 1 where a long training's memory is not flat, 2 where nothing could be measured."""
    options = _arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the training ends, too
    try:
        if memory_of(os.getpid()) is None:
            raise RuntimeError("/proc/self/smaps_rollup is not there; expected Linux 4.14 or newer")
        return 0 if measure(options) else 1
    except RuntimeError as error:
        print(f"memory.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
