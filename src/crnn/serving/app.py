"""The routes of the service; a Starlette application, which any ASGI server can run.

Errors are JSON, ``{"error": "..."}``; nothing of an image is stored or logged.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crnn.errors import CrnnError, ImageError
from crnn.interop.detection import Detector
from crnn.page import Page, PageReader, advance
from crnn.recognizer import Reading, Recognizer
from crnn.serving.batcher import Batcher, Image, OverloadedError, options_key
from crnn.serving.openapi import as_html, openapi
from crnn.serving.requests import MAX_IMAGES, MAX_WORDS, images_of, reading_options

_R = TypeVar("_R")
_log = logging.getLogger("crnn.serve")
logging.getLogger("python_multipart").disabled = True  # it repeats what clients wrote

_MAX_PHOTOS = 16  # of all requests together whose lines are looked for; a photo takes a second or two
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
_OPEN = (*_HEALTH, *_PAGE, "/docs", "/openapi.json")  # without the token


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what requests may cost.

    Attributes:
        max_bytes: Bytes of the body of a request.
        held_bytes: Bytes of all bodies together; beyond them, 503.
        max_waiting: Images of all requests together that wait; beyond them, 503.
        timeout_s: Seconds to receive a request, and to answer it.
    """

    max_bytes: int = 32 << 20
    held_bytes: int = 512 << 20
    max_waiting: int = 512
    timeout_s: float = 30.0


class Service:
    """Reader, batches and counters that the routes share.

    Args:
        reader: The reader.
        name: Name of its weights, for the metadata.
        limits: What requests may cost.
        detector: Detector of the lines of whole photos, if there is one.
    """

    def __init__(self, reader: Recognizer, name: str, limits: Limits, detector: Detector | None = None) -> None:
        self.reader, self.name, self.limits = reader, name, limits
        self.held_bytes = 0
        self.registry = CollectorRegistry()
        labels = ["route", "status"]
        self.requests = Counter("crnn_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram("crnn_request_seconds", "Time of requests.", ["route"], registry=self.registry)
        self.images = Counter("crnn_images", "Images read.", ["outcome"], registry=self.registry)
        sizes = Histogram(
            "crnn_batch_images", "Images read together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )  # fmt: skip
        waiting = Gauge(
            "crnn_images_waiting", "Images that wait or are read.", registry=self.registry, multiprocess_mode="livesum"
        )
        self.pages = None if detector is None else PageReader(reader, detector)
        self._photos = 0
        # One photo at a time, which has all threads of the detector.
        self._finding = ThreadPoolExecutor(1, thread_name_prefix="crnn-find")
        self.batcher = Batcher(reader, max_waiting=limits.max_waiting, on_batch=sizes.observe, on_waiting=waiting.set)

    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the parts of a body, within the limits."""
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.max_bytes:
            raise self.too_large()
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            self.held_bytes += len(chunk)
            request.state.held += len(chunk)
            if size > self.limits.max_bytes:
                raise self.too_large()
            if self.held_bytes > self.limits.held_bytes:
                raise OverloadedError
            yield chunk

    def too_large(self) -> HTTPException:
        """Return the error for a body above the limit."""
        text = f"the body has more than {self.limits.max_bytes:,} bytes; send fewer or smaller images"
        return HTTPException(413, text, {"Connection": "close"})

    async def read(
        self, request: Request, images: Sequence[Image], options: dict[str, Any]
    ) -> list[Reading | ImageError]:
        """Return the reading of each image, or its error; the work is given up when the client goes away."""
        decoder = self.batcher.decoder(())
        if options:
            (decoder,) = await self._awaited(request, [self.batcher.decoder_in_turn(options_key(options))])
        found = await self._awaited(request, self.batcher.submit(images, decoder))
        for result in found:
            self.images.labels("error" if isinstance(result, ImageError) else "read").inc()
        return found

    async def read_page(self, request: Request, image: Image, options: dict[str, Any]) -> Page | ImageError:
        """Return the lines of a photo, or its error; they are read in the batches that requests share."""
        assert self.pages is not None
        if self._photos >= _MAX_PHOTOS:
            raise OverloadedError
        self._photos += 1
        try:
            work = self.pages.steps(image)
            (step,) = await self._awaited(request, [self._finding.submit(advance, work)])
            while not isinstance(step, Page):
                readings: list[Any] = []
                for first in range(0, len(step), MAX_IMAGES):  # no photo fills the queue
                    readings += await self.read(request, step[first : first + MAX_IMAGES], options)
                (step,) = await self._awaited(request, [self._finding.submit(advance, work, readings)])
            return step
        except ImageError as error:
            self.images.labels("error").inc()
            return error
        finally:
            self._photos -= 1

    async def _awaited(self, request: Request, results: Sequence[Future[_R]]) -> list[_R]:
        """Return what comes of work that is under way, unless the client goes away first."""
        waited = [asyncio.wrap_future(result) for result in results]
        gone = asyncio.ensure_future(_gone(request.receive))
        gone.add_done_callback(lambda _: [result.cancel() for result in waited])
        try:
            await asyncio.wait(waited)
        finally:
            gone.cancel()
        if any(result.cancelled() for result in waited):
            raise ClientDisconnect
        return [result.result() for result in waited]

    def close(self) -> None:
        """End the threads."""
        self._finding.shutdown(cancel_futures=True)
        self.batcher.close()


async def _gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def service_of(request: Request) -> Service:
    """Return the service of a request."""
    service: Service = request.app.state.service
    return service


# ---- Routes


def reading_json(found: Reading | Page | ImageError, name: str, *, with_alternatives: bool) -> dict[str, Any]:
    """Return a reading, or an error, as ``crnn read --json`` does."""
    if isinstance(found, ImageError):
        return {"image": name, "error": str(found)}
    if isinstance(found, Page):
        return {"image": name, **found.as_dict()}
    return {"image": name, **found.as_dict(with_alternatives=with_alternatives)}


async def read(request: Request) -> Response:
    """Read one image, the body, or several, the files of a multipart body; with ``detect``, all lines of each."""
    service = service_of(request)
    images, fields, several = await images_of(request, service.body(request))
    detect = fields.pop("detect", "") or "false"
    options = reading_options(fields)
    if detect not in ("true", "false") or (detect == "true" and service.pages is None):
        expected = "expected true or false" if service.pages is not None else "this service finds no lines"
        raise HTTPException(400, f"detect is {detect[:20]!r}; {expected}")
    found: Sequence[Reading | Page | ImageError]
    if detect == "true":
        if options.get("n_best", 1) > 1:
            raise HTTPException(400, "n_best is for images of one line; expected it without detect")
        found = [await service.read_page(request, data, options) for _, data in images]
    else:
        found = await service.read(request, [data for _, data in images], options)
    texts = [
        reading_json(result, name, with_alternatives=options.get("n_best", 1) > 1)
        for result, (name, _) in zip(found, images, strict=True)
    ]
    if several:
        return JSONResponse({"readings": texts})
    return JSONResponse(texts[0], 422 if "error" in texts[0] else 200)


async def ocr(request: Request) -> Response:
    """Read one image and return it in LiteParse's form: its lines; without a detector, one that fills the image."""
    service = service_of(request)
    images, _, _ = await images_of(request, service.body(request))
    if len(images) != 1:
        raise HTTPException(400, f"{len(images)} images are sent; expected one, or POST /read for several")
    found = await read_lines(service, request, images[0][1])
    if isinstance(found, ImageError):
        return JSONResponse({"error": str(found)}, 400)
    results = []
    for text, box, confidence in found:
        x, y = zip(*box, strict=True)
        polygon = [list(corner) for corner in box]
        results.append(
            {"text": text, "bbox": [min(x), min(y), max(x), max(y)], "polygon": polygon, "confidence": confidence}
        )
    return JSONResponse({"results": results})


async def read_lines(
    service: Service, request: Request, image: Image
) -> list[tuple[str, Sequence[tuple[float, float]], float]] | ImageError:
    """Return text, corners and confidence of the lines of an image; without a detector it is one line."""
    if service.pages is not None:
        page = await service.read_page(request, image, {})
        return page if isinstance(page, ImageError) else [(line.text, line.box, line.confidence) for line in page.lines]
    (found,) = await service.read(request, [image], {})
    if isinstance(found, ImageError):
        return found
    width, height = found.size
    return [(found.text, ((0, 0), (width, 0), (width, height), (0, height)), found.confidence)] if found.text else []


async def live(_: Request) -> Response:
    """Say that the process runs."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Say whether requests are taken at the moment."""
    service = service_of(request)
    free = service.batcher.waiting < service.limits.max_waiting
    return JSONResponse({"ready": free}, 200 if free else 503)


async def metrics(request: Request) -> Response:
    """Return the counters in Prometheus' form."""
    registry = service_of(request).registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # several workers
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def info(request: Request) -> Response:
    """Describe the reader, for the page."""
    reader = service_of(request).reader
    return JSONResponse({
        "model": service_of(request).name,
        "characters": reader.charset.characters,
        "language": reader.config.charset.language,
        "detect": service_of(request).pages is not None,
        "max_images": MAX_IMAGES,
        "max_bytes": service_of(request).limits.max_bytes,
    })  # fmt: skip


async def schema(_: Request) -> Response:
    """Describe the routes in OpenAPI's form."""
    return JSONResponse(openapi(MAX_IMAGES, MAX_WORDS))


async def docs(_: Request) -> Response:
    """Describe the routes for people."""
    return Response(as_html(openapi(MAX_IMAGES, MAX_WORDS)), media_type="text/html")


def _page_file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (resources.files("crnn.serving") / "page" / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send


# ---- The application


def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        if error.status_code in (404, 405) and error.detail in ("Not Found", "Method Not Allowed"):
            error.detail += "; GET /docs describes the routes"
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, OverloadedError):
        return JSONResponse({"error": "too many images wait; try again"}, 503, {"Retry-After": "1"})
    return JSONResponse({"error": str(error)}, 400)


class _Guard:
    """Around all routes: token, time limit, headers, metrics and the log."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None, hosts: Sequence[str]) -> None:
        self.app, self.service, self._hosts = app, service, hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # nothing was sent: the client went away
        state = scope.setdefault("state", {})
        state["held"] = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            if "*" not in self._hosts and not self._is_own_name(scope):
                # Otherwise a site could have its own name lead here, and its pages read what this service answers.
                text = (
                    f"this service answers to the names {', '.join(self._hosts)}; a proxy sends Host: {self._hosts[0]}"
                )
                await JSONResponse({"error": text}, 400)(scope, receive, sending)
                return
            if not self._allowed(scope):
                refusal = JSONResponse({"error": "the token is missing or wrong"}, 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, sending)
                return
            async with asyncio.timeout(self.service.limits.timeout_s):
                await self.app(scope, receive, sending)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status != 499:
                raise
            code, text = 408, f"the request took more than {self.service.limits.timeout_s:g} s"
            if not isinstance(error, TimeoutError):
                _log.exception("error")
                code, text = 500, "the service has an error of its own; its log says more"
            await JSONResponse({"error": text}, code, {"Connection": "close"})(scope, receive, sending)
        finally:
            self.service.held_bytes -= state["held"]
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.perf_counter() - began
            self.service.requests.labels(route, status).inc()
            self.service.seconds.labels(route).observe(seconds)
            method = scope["method"] if scope["method"] in _METHODS else "-"  # nothing that a client made up
            _log.info("%s %s %d %.0f ms", method, route, status, 1e3 * seconds)

    def _is_own_name(self, scope: Scope) -> bool:
        host = Headers(scope=scope).get("host", "")
        return re.sub(r":[0-9]*$", "", host).lower() in self._hosts

    def _allowed(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] in _OPEN:
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return hmac.compare_digest(given.strip().encode(), self._token) and scheme.lower() == "bearer"


def create_app(
    reader: Recognizer,
    *,
    name: str = "crnn",
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] = ("*",),
    origins: Sequence[str] = (),
    detector: Detector | None = None,
) -> Starlette:
    """Return the application.

    Args:
        reader: The reader; nothing else may use it meanwhile.
        name: Name of its weights.
        limits: What requests may cost.
        token: Word that requests bring as ``Authorization: Bearer``; the page and the health routes need none.
        hosts: Names under which browsers may call the service; ``*``: any.
        origins: Sites of other origins that may call it from browsers.
        detector: Detector of the lines of whole photos, if there is one.
    """
    from crnn.serving import kserve

    service = Service(reader, name, limits or Limits(), detector)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    routes = [
        Route("/read", read, methods=["POST"]),
        Route("/ocr", ocr, methods=["POST"]),
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
        Route("/info", info),
        Route("/openapi.json", schema),
        Route("/docs", docs),
        *kserve.routes(),
        *(Route(path, _page_file(*of)) for path, of in _PAGE.items()),
    ]
    middleware = [Middleware(_Guard, service=service, token=token, hosts=hosts)]
    if origins:
        taken = ["Authorization", "Content-Type"]
        cors = Middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=taken
        )
        middleware.insert(0, cors)
    kinds: tuple[type[Exception], ...] = (HTTPException, OverloadedError, CrnnError)
    app = Starlette(
        routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=dict.fromkeys(kinds, _refused)
    )
    app.state.service = service
    return app
