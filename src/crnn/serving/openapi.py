"""The description of the routes in OpenAPI's form."""

import json
from html import escape
from typing import Any

from crnn import __version__

_READING = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "description": "Name of the file."},
        "text": {"type": "string"},
        "score": {"type": ["number", "null"], "description": "CTC log-probability of the text."},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "warning": {"type": ["string", "null"], "enum": ["page", "turned", "too_wide", "frames", None]},
        "turned": {"type": "integer", "description": "Degrees clockwise, where the text is likely turned."},
        "characters": {
            "type": "array",
            "description": "Left to right; places in pixels of the image.",
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    **{name: {"type": "number"} for name in ("score", "start", "end")},
                },
            },
        },
        "alternatives": {
            "type": "array",
            "description": "Further texts, with n_best above 1.",
            "items": {"type": "object"},
        },
        "lines": {
            "type": "array",
            "description": "With detect, in place of all but the name: text, score, confidence, box, characters.",
            "items": {"type": "object"},
        },
        "error": {"type": "string", "description": "Why the image cannot be read; then there is nothing else."},
    },
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
_REFUSALS = {
    "400": "An option or the body is wrong.", "401": "The token is missing or wrong.", "408": "It took too long.",
    "413": "The body is too large.", "503": "Too many images wait; Retry-After says when to come back.",
}  # fmt: skip


def openapi(max_images: int, max_words: int) -> dict[str, Any]:
    """Return the description."""
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "decode": ("greedy, beam, lexicon, or auto", {"enum": ["auto", "greedy", "beam", "lexicon"]}),
        "lm": ("auto: the language of the weights; none", {"enum": ["auto", "none"]}),
        "lexicon": (f"at most {max_words:,} words, one on each line", {}),
        "pattern": ("regular expression that the whole text must match, at most 200 characters", {}),
        "allow": ("only characters that texts may have", {}),
        "block": ("characters that texts may not have", {}),
        "detect": ("true: all lines of each image, where the service has a detector", {"enum": ["true", "false"]}),
        "n_best": ("number of texts, 1 to 10", {"type": "integer", "minimum": 1, "maximum": 10}),
    }
    parameters = [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string", **more}}
        for name, (text, more) in options.items()
    ]
    fields: dict[str, Any] = {
        name: {"type": "string", **more, "description": text} for name, (text, more) in options.items()
    }
    files = {"type": "array", "maxItems": max_images, "items": {"type": "string", "format": "binary"}}
    binary: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
    form = {"schema": {"type": "object", "properties": {"files": files, **fields}}}
    several = {"type": "object", "properties": {"readings": {"type": "array", "items": _READING}}}
    refusals = {code: _response(text, _ERROR) for code, text in _REFUSALS.items()}

    def get(summary: str) -> dict[str, Any]:
        return {"get": {"summary": summary, "responses": {"200": {"description": "As told."}}}}

    def post(
        summary: str, content: dict[str, Any], answer: dict[str, Any], others: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        body = {"required": True, "content": content}
        return {
            "post": {
                "summary": summary,
                "requestBody": body,
                "responses": {"200": answer, **refusals, **(others or {})},
                **more,
            }
        }

    tensors = {"application/json": {"schema": {"type": "object"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "crnn", "version": __version__, "description": "Reads words and lines from images."},
        "paths": {
            "/read": post(
                "Read an image, or several.",
                {"image/*": binary, "multipart/form-data": form},
                _response("One reading, or those of several.", {"oneOf": [_READING, several]}),
                {"422": _response("The image, the only one of the request, cannot be read.", _READING)},
                description="curl --data-binary @word.png http://127.0.0.1:8000/read\n"
                "curl -F a=@1.png -F b=@2.png -F n_best=3 http://127.0.0.1:8000/read",
                parameters=parameters,
            ),
            "/ocr": post(
                "Read the lines of an image, in the form of LiteParse's OCR servers.",
                {"multipart/form-data": {"schema": {"type": "object", "properties": {"file": binary["schema"]}}}},
                _response("Text, box and confidence.", {"type": "object"}),
            ),
            "/v2/models/{model}/infer": post(
                "Open Inference Protocol; the models are crnn and ocr.",
                tensors,
                _response("Tensors.", {"type": "object"}),
                parameters=[{"name": "model", "in": "path", "required": True, "schema": {"enum": ["crnn", "ocr"]}}],
            ),
            "/health/live": get("The process runs."),
            "/health/ready": get("Requests are taken; 503 while too many wait."),
            "/metrics": get("Counters, in Prometheus' form."),
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }  # fmt: skip


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def as_html(described: dict[str, Any]) -> str:
    """Return a page for people of what ``openapi`` returns."""
    parts = []
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {})
            where = "in the query, or a field of the form" if "multipart/form-data" in body else "in the path"
            rows = [(p["name"], where, escape(p.get("description", ""))) for p in route.get("parameters", ())]
            rows += [("body", kind, _shown(content["schema"])) for kind, content in body.items()]
            for code, answer in sorted(route["responses"].items()):
                schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
                rows.append((code, answer["description"], _shown(schema)))
            cells = "".join(f"<tr><th>{escape(n)}</th><td>{escape(k)}</td><td>{t}</td></tr>" for n, k, t in rows)
            example = f"<pre>{escape(route['description'])}</pre>" if "description" in route else ""
            title = f"{method.upper()} {escape(path)}"
            parts.append(f"<h2>{title}</h2><p>{escape(route['summary'])}</p>{example}<table>{cells}</table>")
    title = f"{described['info']['title']} {described['info']['version']}"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}: routes</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="page.css"></head><body><main><h1>{title}</h1>'
        f'<p>{escape(described["info"]["description"])} <a href="./">The page</a>, '
        f'<a href="openapi.json">this as JSON</a>.</p>{"".join(parts)}</main></body></html>'
    )


def _shown(schema: dict[str, Any]) -> str:
    """Return a schema to open, if it tells more than a type."""
    if not any(key in schema for key in ("properties", "oneOf")):
        return ""
    return f"<details><summary>fields</summary><pre>{escape(json.dumps(schema, indent=1))}</pre></details>"
