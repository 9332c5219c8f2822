"""The server: uvicorn, with limits for slow and endless headers, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from crnn.errors import ConfigError
from crnn.interop.detection import Detector, load_detector
from crnn.parallel import signals_blocked, unblock_signals
from crnn.recognizer import Recognizer, load
from crnn.serving.app import Limits, create_app

_HEADER_S = 10.0  # for the first line and the headers of a request
_HEADER_BYTES = 64 << 10
_DRAIN_S = 20  # for the answers to what was taken, after SIGTERM
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for headers forever, and takes any number of them."""

    _deadline: asyncio.TimerHandle | None = None
    _header_bytes: int | None = 0  # None: the headers are there

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._header_bytes is not None:
            self._header_bytes += len(data)
            if self._header_bytes > _HEADER_BYTES:
                self.transport.abort()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._end()
        self._header_bytes = 0
        self._deadline = self.loop.call_later(_HEADER_S, self.transport.close)

    def _end(self) -> None:
        self._header_bytes = None
        if self._deadline is not None:
            self._deadline.cancel()


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
        log = logging.getLogger("crnn.serve")  # here, as workers are processes of their own
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(logging.StreamHandler())
        hosts = ("localhost", "127.0.0.1", "[::1]") if self.host in _LOOPBACK else ("*",)
        reader, detector = self._load()
        return create_app(
            reader, name=self.model, limits=self.limits, token=self.token, hosts=hosts, origins=self.origins,
            detector=detector,
        )  # fmt: skip


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
    """uvicorn's worker processes; signals wait until they can take them, and end without a traceback."""

    def init_processes(self) -> None:
        with signals_blocked():
            super().init_processes()


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
        factory.check()  # its errors belong here, and not to workers that are started again and again
    config = uvicorn.Config(
        app, factory=workers > 1, http=_Protocol, ws="none", access_log=False, log_level="warning", server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=_DRAIN_S, workers=workers,
    )  # fmt: skip
    with listen(factory.host, port) as bound, contextlib.ExitStack() as stack:
        host = f"[{factory.host}]" if ":" in factory.host else factory.host
        on_ready(f"http://{host}:{bound.getsockname()[1]}/")
        if workers == 1:
            uvicorn.Server(config).run([bound])
        else:
            counters = stack.enter_context(tempfile.TemporaryDirectory())
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters  # counts of all workers together
            _Workers(config, sockets=[bound]).run()
