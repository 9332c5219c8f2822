"""``crnn serve``: the HTTP service and its page."""

import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from crnn.cli.arguments import EngineOptions
from crnn.decoding.decoder import DecodingOptions
from crnn.errors import ConfigError, MissingExtraError
from crnn.model.weights import DEFAULT_MODEL
from crnn.parallel import usable_cores
from crnn.terminal import say

_MAX_WORKERS = 4  # by default: each takes some 250 MB


def serve(
    *,
    model: str = DEFAULT_MODEL,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token_file: str = "",
    cors: list[str] | None = None,
    detect: Literal["none", "rapidocr"] = "none",
    workers: Annotated[int | None, typer.Option(min=1, max=64)] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, max=1024)] = 32,
    max_waiting: Annotated[int, typer.Option(min=1)] = 512,
    timeout: Annotated[float, typer.Option(min=0.1)] = 30.0,
    decoding: DecodingOptions,
    engine: EngineOptions,
) -> int:
    """Serve reading over HTTP, with a page for people at /.

    curl --data-binary @word.png http://127.0.0.1:8000/read
    Options of reading are the defaults of requests, which may bring their own.

    Args:
        model: Name of weights that ship, hf://OWNER/NAME, a weights file, a run folder, or an exported file.
        host: Address to listen at; others than this machine's own need --token-file, or a network that is trusted.
        port: Port; 0: any that is free.
        token_file: File with a word that requests must bring as Authorization: Bearer WORD.
        cors: Origin of a site whose pages may call this service, as https://example.org; may be given several times.
        detect: What finds the lines of whole photos; needs crnn[detect].
        workers: Processes, each with a reader and limits of its own; default on CPUs: one for each core, up to four.
        max_megabytes: Largest body of a request.
        max_waiting: Images of a worker that may wait; beyond them requests are answered with 503.
        timeout: Seconds to receive and to answer a request.
        decoding: How texts are found.
        engine: The engine.
    """
    try:
        from crnn.serving.app import Limits
        from crnn.serving.server import AppFactory
        from crnn.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "serve", "crnn serve") from error
    token = None
    if token_file:
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {token_file}: cannot be read ({error})") from None
        if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"--token-file {token_file}: expected one word of 16 ASCII characters or more")
    elif host not in ("127.0.0.1", "::1", "localhost"):
        say("serve", f"whoever reaches {host} may use it: --token-file is not given")
    for origin in cors or ():
        if not re.fullmatch(r"https?://[^/\s*]+", origin):
            raise ConfigError(f"--cors {origin}: expected an origin such as https://example.org, or several --cors")
    workers, threads = _shared_out(workers, engine)
    engine = replace(engine, threads=threads)
    limits = Limits(max_bytes=max_megabytes << 20, max_waiting=max_waiting, timeout_s=timeout)
    factory = AppFactory(model, {**asdict(engine), **asdict(decoding)}, limits, token, host, tuple(cors or ()), detect)
    run(factory, port, workers, lambda url: say("serve", f"{url} reads with {model}; Ctrl-C ends it"))
    return 0


def _shared_out(workers: int | None, engine: EngineOptions) -> tuple[int, int | None]:
    """Return the number of workers and the threads of each, so that together they use the cores once."""
    if workers is None:
        on_cpu = engine.device == "cpu" or (engine.device == "auto" and engine.engine != "torch")
        workers = max(1, min(_MAX_WORKERS, usable_cores() // (engine.threads or 1))) if on_cpu else 1
    if workers == 1 or engine.threads or "OMP_NUM_THREADS" in os.environ:
        return workers, engine.threads
    return workers, max(1, usable_cores() // workers)
