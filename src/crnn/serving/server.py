"""The server: uvicorn, with limits for slow and endless headers, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from crnn.errors import ConfigError
from crnn.interop.detection import Detector, load_detector
from crnn.parallel import exit_with_parent, signals_blocked, unblock_signals
from crnn.recognizer import Recognizer, load
from crnn.serving.app import Limits, create_app

_log = logging.getLogger("crnn.serve")

_HEADER_S = 10.0  # for the first line and the headers of a request
_HEADER_BYTES = 64 << 10
_DRAIN_S = 20  # for the answers to what was taken, after SIGTERM
_MORE_S = 5.0  # until a worker that does not end by itself is killed
_START_S = 30  # in which a worker must come up, and answer its parent
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits for what surrounds bodies.

    By itself it waits forever for headers, trailers, and what follows an answer, and takes any number of them.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_message = False
    _received = _in_bodies = _in_headers = 0  # bytes since the message began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = True
        self._received = self._in_bodies = self._in_headers = 0
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        # Chunks of single bytes have five of their own for each.
        if self._received > _HEADER_BYTES + len(data) + 6 * self._in_bodies:
            self.transport.abort()
        elif self._deadline is None and not self._in_message and (self.cycle is None or self.cycle.response_complete):
            self._set_deadline()  # empty lines between messages: uvicorn's own timer has ended

    def on_header(self, name: bytes, value: bytes) -> None:
        self._in_headers += len(name) + len(value)
        if self._in_headers > _HEADER_BYTES:
            self.transport.abort()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._end_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._in_bodies += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._received = self._in_bodies = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        answered = self.cycle is not None and self.cycle.response_complete  # and not one of several sent at once
        if self._in_message and answered and not self.transport.is_closing():  # the rest of a body that nobody reads
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        self._end_deadline()
        self._deadline = self.loop.call_later(_HEADER_S, self.transport.close)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@dataclass(frozen=True)
class AppFactory:
    """Loader of a reader and its application, in each worker process.

    Attributes:
        model: As for ``crnn.load``.
        reading: Options of ``crnn.load``.
        limits: What requests may cost.
        token: As for ``create_app``.
        host: Address of the server: on the loopback, browsers may use no other name for it.
        origins: As for ``create_app``.
        detect: Name of a detector, or ``none``.
    """

    model: str
    reading: dict[str, Any]
    limits: Limits
    token: str | None = field(default=None, repr=False)
    host: str = _LOOPBACK[0]
    origins: Sequence[str] = ()
    detect: str = "none"

    def check(self) -> None:
        """Load all once, for its errors."""
        self._load()

    def _load(self) -> tuple[Recognizer, Detector | None]:
        detector = None if self.detect == "none" else load_detector(self.detect, self.reading.get("threads"))
        return load(self.model, **self.reading), detector

    def __call__(self) -> ASGIApp:
        """Return the application."""
        unblock_signals()  # in a worker, uvicorn has its handlers by now
        exit_with_parent()
        _start_log()
        hosts = ("localhost", "127.0.0.1", "[::1]") if self.host in _LOOPBACK else ("*",)
        reader, detector = self._load()
        return create_app(
            reader, name=self.model, limits=self.limits, token=self.token, hosts=hosts, origins=self.origins,
            detector=detector,
        )  # fmt: skip


def _start_log() -> None:
    """Log to stderr; in each process."""
    _log.setLevel(logging.INFO)
    _log.propagate = False
    _log.handlers = [logging.StreamHandler()]


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 is any free one. ``ConfigError`` if there is no such address, or it is in use."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(f"--port {port} of {host} is in use; expected a free one, or 0 for any") from None
        raise ConfigError(f"--host {host} --port {port}: {error}; expected an address of this machine") from None


class _Workers(Multiprocess):
    """uvicorn's worker processes: none is waited for without an end, and their ends are told."""

    def init_processes(self) -> None:
        with signals_blocked():  # until workers can take them
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        for pid in set(before).difference(process.pid for process in self.processes):
            assert pid is not None
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
            _log.warning("worker %d has ended by itself; another takes its place", pid)

    def join_all(self) -> None:
        end = time.monotonic() + _DRAIN_S + _MORE_S
        for process in self.processes:
            process.process.join(max(0.0, end - time.monotonic()))
            if process.process.is_alive():
                process.process.kill()


def serve(factory: AppFactory, port: int, workers: int, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer what was taken.

    Args:
        factory: What is served; errors of its settings are raised before anything listens.
        port: Port; 0: any that is free.
        workers: Processes.
        on_ready: Called with the address when requests are taken.

    Raises:
        ConfigError: A setting is wrong, or the port is not free.
    """
    app: ASGIApp | AppFactory = factory
    if workers == 1:
        app = factory()
    else:
        _start_log()
        factory.check()  # its errors belong here, and not to workers that are started again and again
    config = uvicorn.Config(
        app, factory=workers > 1, http=_Protocol, ws="none", access_log=False, log_level="warning", server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=_DRAIN_S, workers=workers, timeout_worker_healthcheck=_START_S,
    )  # fmt: skip
    with listen(factory.host, port) as bound, contextlib.ExitStack() as stack:
        host = f"[{factory.host}]" if ":" in factory.host else factory.host
        on_ready(f"http://{host}:{bound.getsockname()[1]}/")
        if workers == 1:
            uvicorn.Server(config).run([bound])
        else:
            # In memory where there is such a folder: on a disk that is full, counting would end the workers.
            memory = "/dev/shm"  # noqa: S108
            folder = memory if os.access(memory, os.W_OK) else None
            counters = stack.enter_context(tempfile.TemporaryDirectory(prefix="crnn-", dir=folder))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters  # counts of all workers together
            _Workers(config, sockets=[bound]).run()
