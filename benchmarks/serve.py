"""The service under load: clients on the loopback beside ``Recognizer.stream`` on the same crops, in turns.

    python benchmarks/serve.py [--data FOLDER] [--clients 1 8 64] [--minutes 10] [--silent 2000] [--beside MODULE:APP]

Images per second, with the median, 95th and 99th percentile of the time of a request in milliseconds. Clients and
service share the processors, as do ``stream`` and what it reads. ``--minutes`` adds a long run of the last number of
clients and tells the memory of the service; ``--silent`` opens connections that send nothing beforehand.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import Row, arguments, find_crops, measure, report
from crnn.recognizer import Recognizer, load


@contextlib.contextmanager
def service(*arguments: str) -> Iterator[tuple[int, int]]:
    """Run a module that serves, such as ``crnn serve``; yield its port, which it tells, and its process number."""
    command = [sys.executable, "-m", *arguments, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        told = ""
        while (found := re.search(r"http://127[0-9.]+:(\d+)", told)) is None:
            if not (line := running.stderr.readline()):
                raise SystemExit(told)
            told += line
        drained = subprocess.Popen(["cat"], stdin=running.stderr, stdout=subprocess.DEVNULL)  # its log
        try:
            yield int(found[1]), running.pid
        finally:
            running.terminate()
            running.wait()
            drained.wait()


async def _client(port: int, bodies: Sequence[bytes], first: int, end: float, times: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /read HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    number = first
    while time.perf_counter() < end:
        body = bodies[number % len(bodies)]
        number += 1
        began = time.perf_counter()
        writer.write(head % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer.decode())
        length = re.search(rb"content-length: (\d+)", answer)
        assert length is not None
        await reader.readexactly(int(length[1]))
        times.append(time.perf_counter() - began)
    writer.close()


async def _load(port: int, bodies: Sequence[bytes], clients: int, duration: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + duration
    await asyncio.gather(*(_client(port, bodies, 17 * n, end, times) for n in range(clients)))
    return times


def requests(row: Row, port: int, bodies: Sequence[bytes], clients: int, duration: float) -> float:
    """Load the service; return images per second, and note the times of requests."""
    began = time.perf_counter()
    times = sorted(asyncio.run(_load(port, bodies, clients, duration)))
    taken = time.perf_counter() - began
    for name, share in (("p50 ms", 0.5), ("p95 ms", 0.95), ("p99 ms", 0.99)):
        row.notes[name] = f"{1000 * times[min(int(share * len(times)), len(times) - 1)]:.0f}"  # of the last round
    return len(times) / taken


def stream(reader: Recognizer, bodies: Sequence[bytes], duration: float) -> float:
    """Return images per second of the same work without HTTP."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + duration:
        count += sum(1 for _ in reader.stream(bodies))
    return count / (time.perf_counter() - began)


def memory(process: int) -> float:
    """Return the memory in MB of a process and its children, what they share counted once."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    used = 0
    for one in (process, *children):
        used += int(re.search(r"Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8"))[1])  # type: ignore[index]
    return used / 1024


def main() -> None:
    """Print one table, and what is asked for beside it."""
    parser = arguments(__doc__, count=256, rounds=3)
    parser.add_argument("model", nargs="?", default="crnn-small")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each row and round; default: 6")
    parser.add_argument("--minutes", type=float, default=0.0, help="a long run; memory at each tenth of it")
    parser.add_argument(
        "--beside", metavar="MODULE:APP", help="another service of POST /read, such as rapidocr_route:app"
    )
    parser.add_argument("--silent", type=int, default=0, help="connections that send nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        bodies = [Path(crop.path).read_bytes() for crop in find_crops(options, "crnn-small", Path(scratch))]
        reader = load(options.model)
        reader.read(bodies)
        port, process = stack.enter_context(service("crnn", "serve", "--model", options.model))
        asyncio.run(_load(port, bodies, 8, 3.0))
        for _ in range(options.silent):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        rows = [Row("Recognizer.stream", functools.partial(stream, reader, bodies, options.seconds))]
        for clients in options.clients:
            row = Row(f"{clients} clients", lambda: 0.0, "Recognizer.stream")
            row.work = functools.partial(requests, row, port, bodies, clients, options.seconds)
            rows.append(row)
        if options.beside:
            other, _ = stack.enter_context(service("uvicorn", options.beside, "--app-dir", str(Path(__file__).parent)))
            asyncio.run(_load(other, bodies, 8, 3.0))
            row = Row(f"{options.beside}, {options.clients[-1]} clients", lambda: 0.0, "Recognizer.stream")
            row.work = functools.partial(requests, row, other, bodies, options.clients[-1], options.seconds)
            rows.append(row)
        measure(rows, options.rounds)
        report(f"{len(bodies)} crops, {options.silent} silent connections", "images/s", rows, options.json)
        if options.minutes:
            used = [memory(process)]
            rates = []
            for _ in range(10):
                rates.append(requests(rows[-1], port, bodies, options.clients[-1], 6.0 * options.minutes))
                used.append(memory(process))
            shown = ", ".join(f"{value:.0f}" for value in used)
            print(f"{options.minutes:g} minutes, {statistics.median(rates):.0f} images/s; memory in MB: {shown}")


if __name__ == "__main__":
    main()
