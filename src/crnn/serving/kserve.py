"""Routes of the Open Inference Protocol (KServe V2), with its binary extension, for clients of Triton and the like.

The model ``crnn`` reads lines: ``images``, BYTES ``[N]`` (encoded images; base64 in JSON) or UINT8 ``[N, H, W, C]``, to
``text``, ``score`` and ``confidence`` ``[N]``. The model ``ocr`` has the tensors of docling's client: ``image``, UINT8
``[1, H, W, 3]``, to ``boxes``, ``txts`` and ``scores`` of its lines; without a detector, of the image as one line.
Reference: https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md).
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from crnn import __version__
from crnn.errors import ImageError
from crnn.recognizer import Reading
from crnn.serving.requests import MAX_IMAGES

_MAX_DIMENSIONS, _MAX_SIZE = 8, 1 << 31  # of tensors
_MAX_NUMBERS, _MAX_LISTS = 8_000_000, 2_000_000  # of JSON, whose parser lets no other thread run meanwhile
_LENGTH = "Inference-Header-Content-Length"  # of the JSON in front of binary tensors
_MODELS: dict[str, dict[str, Any]] = {
    "crnn": {
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
        ],
    },
    "ocr": {
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [1, -1, -1, 3]},
            {"name": "lang_type", "datatype": "BYTES", "shape": [1, 1]},
        ],
        "outputs": [
            {"name": "boxes", "datatype": "FP32", "shape": [-1, 4, 2]},
            {"name": "txts", "datatype": "BYTES", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1]},
        ],
    },
}

_Tensor = npt.NDArray[Any] | list[bytes]


def routes() -> list[Route]:
    """Return the routes."""
    model = "/v2/models/{model}"
    made = [Route("/v2", _server), Route("/v2/health/live", _health), Route("/v2/health/ready", _health)]
    for path in (model, f"{model}/versions/{{version}}"):
        made += [Route(path, _metadata), Route(f"{path}/ready", _model_ready)]
        made.append(Route(f"{path}/infer", _infer, methods=["POST"]))
    return made


async def _server(_: Request) -> Response:
    return JSONResponse({"name": "crnn", "version": __version__, "extensions": ["binary_tensor_data"]})


async def _health(_: Request) -> Response:
    return JSONResponse({})


def _model(request: Request) -> str:
    name = str(request.path_params["model"])
    if name not in _MODELS or request.path_params.get("version", "1") != "1":
        raise HTTPException(404, f"no such model; expected {' or '.join(_MODELS)}, version 1")
    return name


async def _metadata(request: Request) -> Response:
    name = _model(request)
    return JSONResponse({"name": name, "versions": ["1"], "platform": "crnn", **_MODELS[name]})


async def _model_ready(request: Request) -> Response:
    return JSONResponse({"name": _model(request), "ready": True})


async def _infer(request: Request) -> Response:
    from crnn.serving.app import read_lines, service_of

    name = _model(request)
    body = b"".join([chunk async for chunk in service_of(request).body(request)])
    try:
        head, tensors = await run_in_threadpool(_parsed, body, request.headers.get(_LENGTH))
        images, wanted = _images(name, tensors), _wanted(name, head)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error, RecursionError) as error:
        raise HTTPException(400, f"not a request of the Open Inference Protocol: {_cause(error)}") from None
    if name == "ocr":
        lines = await read_lines(service_of(request), request, images[0])
        if isinstance(lines, ImageError):
            raise HTTPException(400, f"image 0: {lines}")
        texts, boxes, scores = (list(column) for column in zip(*lines, strict=True)) if lines else ([], [], [])
        outputs: dict[str, _Tensor] = {
            "boxes": np.array(boxes, dtype="<f4").reshape(-1, 4, 2),
            "txts": [text.encode() for text in texts],
            "scores": np.array(scores, dtype="<f4"),
        }
        return _answer(name, head, wanted, outputs)
    found = await service_of(request).read(request, images, {})
    readings: list[Reading] = []
    for place, result in enumerate(found):
        if isinstance(result, ImageError):
            raise HTTPException(400, f"image {place}: {result}")
        readings.append(result)
    return _answer(name, head, wanted, _outputs(readings))


def _cause(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)[:200]


def _parsed(body: bytes, length: str | None) -> tuple[dict[str, Any], dict[str, _Tensor]]:
    """Return the JSON of a request, and its input tensors."""
    end = len(body) if length is None else int(length)
    if not 0 <= end <= len(body):
        raise ValueError(f"{_LENGTH} is {end}, the body has {len(body)} bytes")
    if body.count(b",", 0, end) > _MAX_NUMBERS or body.count(b"[", 0, end) > _MAX_LISTS:
        raise ValueError("the tensors are too large for JSON; send them in binary form")
    head = from_json(body[:end])
    tensors: dict[str, _Tensor] = {}
    for given in head["inputs"]:
        shape = given["shape"]
        if not 0 < len(shape) <= _MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n <= _MAX_SIZE for n in shape):
            raise ValueError(f"shape is {shape!s:.80}; expected 1 to {_MAX_DIMENSIONS} sizes")
        size = (given.get("parameters") or {}).get("binary_data_size")
        data = None if size is None else body[end : end + int(size)]
        if data is not None:
            end += len(data)
        tensors[given["name"]] = _tensor(given, shape, data)
    return head, tensors


def _tensor(given: dict[str, Any], shape: list[int], data: bytes | None) -> _Tensor:
    count, kind = math.prod(shape), given["datatype"]
    if kind == "BYTES":
        items = _texts(given["data"]) if data is None else _split(data)
        if len(items) != count:
            raise ValueError(f"{given['name']!s:.40} has {len(items)} elements, its shape says {count}")
        return items
    if kind != "UINT8":
        raise ValueError(f"datatype {kind!s:.20} is not taken; expected UINT8 or BYTES")
    if data is not None:
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)
    numbers = np.array(given["data"])
    if numbers.dtype.kind != "i" or numbers.min() < 0 or numbers.max() > 255:
        raise ValueError(f"{given['name']!s:.40} has other data than whole numbers from 0 to 255")
    return numbers.astype(np.uint8).reshape(shape)


def _texts(data: Any) -> list[bytes]:
    """Return the elements of nested lists of texts."""
    for _ in range(_MAX_DIMENSIONS):
        if not all(isinstance(row, list) for row in data):
            break
        data = list(itertools.chain.from_iterable(data))
    return [text.encode() for text in data]


def _split(data: bytes) -> list[bytes]:
    """Return the elements of a binary BYTES tensor: each behind its length, 4 bytes little-endian."""
    items: list[bytes] = []
    place = 0
    while place < len(data):
        if len(items) == MAX_IMAGES:
            raise ValueError(f"a tensor has more than {MAX_IMAGES} elements")
        (size,) = struct.unpack_from("<I", data, place)
        items.append(data[place + 4 : place + 4 + size])
        place += 4 + size
    return items


def _images(model: str, tensors: dict[str, _Tensor]) -> list[bytes | npt.NDArray[np.uint8]]:
    tensor = tensors["images" if model == "crnn" else "image"]
    most = MAX_IMAGES if model == "crnn" else 1
    if not 0 < len(tensor) <= most:
        raise ValueError(f"{len(tensor)} images; expected 1 to {most}")
    if isinstance(tensor, list):
        images: list[Any] = [_decoded(item) for item in tensor]
    elif tensor.ndim == 4:
        images = list(tensor)
    else:
        raise ValueError(f"images are UINT8 {list(tensor.shape)}; expected [N, H, W, C]")
    return images


def _decoded(item: bytes) -> bytes:
    """Return the bytes of an image, which JSON has in base64."""
    try:
        return base64.b64decode(item, validate=True)
    except binascii.Error:
        return item


def _outputs(readings: Sequence[Reading]) -> dict[str, _Tensor]:
    return {
        "text": [reading.text.encode() for reading in readings],
        "score": np.array([max(reading.score, -1e30) for reading in readings], dtype="<f4"),  # JSON has no infinity
        "confidence": np.array([reading.confidence for reading in readings], dtype="<f4"),
    }


def _wanted(model: str, head: dict[str, Any]) -> dict[str, bool]:
    """Return the outputs that a request wants, and true for each that is to be binary."""
    known = [of["name"] for of in _MODELS[model]["outputs"]]
    whole = bool((head.get("parameters") or {}).get("binary_data_output"))
    asked = {
        of["name"]: bool((of.get("parameters") or {}).get("binary_data", whole)) for of in head.get("outputs") or []
    }
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"{unknown[0]!s:.40} is no output of {model}; expected {', '.join(known)}")
    return asked or dict.fromkeys(known, whole)


def _answer(model: str, head: dict[str, Any], wanted: dict[str, bool], outputs: dict[str, _Tensor]) -> Response:
    listed, tail = [], b""
    for name, tensor in outputs.items():
        if name not in wanted:
            continue
        if isinstance(tensor, list):
            of: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(tensor)]}
            data, values = b"".join(struct.pack("<I", len(t)) + t for t in tensor), [t.decode() for t in tensor]
        else:
            of = {"name": name, "datatype": "FP32", "shape": list(tensor.shape)}
            data, values = tensor.tobytes(), tensor.ravel().tolist()
        if wanted[name]:
            of["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            of["data"] = values
        listed.append(of)
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": listed}
    if "id" in head:
        answer["id"] = str(head["id"])[:200]
    if not tail:
        return JSONResponse(answer)
    text = json.dumps(answer).encode()
    return Response(text + tail, media_type="application/octet-stream", headers={_LENGTH: str(len(text))})
