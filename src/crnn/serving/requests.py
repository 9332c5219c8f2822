"""Contents of requests: images, as the body or as files of a form, and options of reading, within limits."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from typing import Any, get_args

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from crnn.decoding.decoder import DecodeMethod

MAX_IMAGES = 64  # of a request
_MAX_FIELDS = 16
MAX_WORDS, _MAX_LEXICON = 50_000, 1 << 20  # of a lexicon, and its characters
_MAX_PATTERN, _MAX_CHARACTERS = 200, 4_000  # of a pattern, and of allow and block
_MAX_ALTERNATIVES = 10  # the width of the beam
_METHODS_OF_READING = get_args(DecodeMethod)
_RECURSION = re.compile(r"\(\?(R|\d|&|P>)")  # of patterns; takes hundreds of megabytes
_OPTIONS = ("decode", "lm", "lexicon", "pattern", "allow", "block", "n_best")  # of a request


async def _form(content_type: str, body: AsyncIterator[bytes]) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Return the files of a multipart body, as pairs of name and content, and its fields."""
    files: list[tuple[str, bytes]] = []
    fields: dict[str, str] = {}

    parts = 0

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        content = file.file_object.read()
        file.close()
        if file.field_name == b"lexicon":
            fields["lexicon"] = _text("lexicon", content)
        else:
            files.append(((file.file_name or b"").decode(errors="replace"), content))
        if len(files) > MAX_IMAGES:
            raise HTTPException(400, f"more than {MAX_IMAGES} images are sent; send them in several requests")

    def on_field(field: Field) -> None:
        nonlocal parts
        parts += 1
        fields[(field.field_name or b"").decode(errors="replace")] = _text("a field", field.value or b"")
        if parts > _MAX_FIELDS:
            raise HTTPException(400, f"more than {_MAX_FIELDS} fields are sent")

    _, settings = parse_options_header(content_type)
    in_memory = {"MAX_MEMORY_FILE_SIZE": math.inf}  # nothing of a request is written to disk
    try:
        parser = FormParser(
            "multipart/form-data", on_field, on_file, boundary=settings.get(b"boundary"), config=in_memory
        )
        async for chunk in body:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"not a multipart body as RFC 7578 has it: {error}") from None
    return files, fields


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HTTPException(400, f"{name} is not text in UTF-8") from None


def reading_options(given: dict[str, str]) -> dict[str, Any]:
    """Return the options of reading of a request, or raise a 400 for what is not one or too large."""
    if unknown := [name for name in given if name not in _OPTIONS]:
        raise HTTPException(400, f"{unknown[0][:40]!r} is no option; expected some of: {', '.join(_OPTIONS)}")
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    if options.get("lm", "auto") not in ("auto", "none"):  # a name could be a file of the server
        raise HTTPException(400, f"lm is {options['lm'][:20]!r}; expected auto or none")
    if options.get("decode", "auto") not in _METHODS_OF_READING:
        raise HTTPException(
            400, f"decode is {options['decode'][:20]!r}; expected one of {', '.join(_METHODS_OF_READING)}"
        )
    if len(options.get("pattern", "")) > _MAX_PATTERN:
        raise HTTPException(400, f"pattern has more than {_MAX_PATTERN} characters")
    if _RECURSION.search(options.get("pattern", "")):
        raise HTTPException(400, "pattern calls itself or a group; expected it written out")
    for name in ("allow", "block"):
        if len(options.get(name, "")) > _MAX_CHARACTERS:
            raise HTTPException(400, f"{name} has more than {_MAX_CHARACTERS:,} characters")
    if "lexicon" in options:
        words = [word for word in options["lexicon"].splitlines() if word.strip()]
        if len(options["lexicon"]) > _MAX_LEXICON:
            raise HTTPException(400, f"lexicon has more than {_MAX_LEXICON:,} characters")
        if not 0 < len(words) <= MAX_WORDS:
            raise HTTPException(400, f"lexicon has {len(words):,} words; expected 1 to {MAX_WORDS:,}, one on each line")
        options["lexicon"] = words
    if "n_best" in options:
        if not re.fullmatch(r"[0-9]{1,3}", options["n_best"]) or not 1 <= int(options["n_best"]) <= _MAX_ALTERNATIVES:
            raise HTTPException(400, f"n_best is {options['n_best'][:20]!r}; expected 1 to {_MAX_ALTERNATIVES}")
        options["n_best"] = int(options["n_best"])
    return options


async def images_of(
    request: Request, body: AsyncIterator[bytes]
) -> tuple[list[tuple[str, bytes]], dict[str, str], bool]:
    """Return the images of a request, as pairs of name and content, its fields, and true if it was multipart."""
    query = dict(request.query_params)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        files, fields = await _form(request.headers["content-type"], body)
        if not 0 < len(files) <= MAX_IMAGES:
            raise HTTPException(400, f"{len(files)} images are sent; expected 1 to {MAX_IMAGES}, each as a file")
        return files, query | fields, True
    data = b"".join([chunk async for chunk in body])
    if not data:
        raise HTTPException(400, "the body is empty; expected an image, or several as multipart/form-data")
    return [("", data)], query, False
