"""``crnn page``: a static site that reads in browsers."""

from typing import Annotated, Literal

import typer

from crnn.model.weights import DEFAULT_MODEL


def page(
    out: Annotated[str, typer.Argument(metavar="OUT")],
    model: str = DEFAULT_MODEL,
    runtime: str = "node_modules",
    precision: Literal["int8", "fp32"] = "int8",
) -> int:
    """Write a static site that reads on its visitors' machines.

    Any web server can send it; images stay with the visitor, and after the first visit it works offline. It takes
    three files of the npm package onnxruntime-web: npm install onnxruntime-web.

    Args:
        out: The folder to write, new or empty.
        model: Name of weights that ship, hf://OWNER/NAME, a weights file, a run folder, or an exported file.
        runtime: Folder of the npm package onnxruntime-web, or node_modules with it.
        precision: int8: a quarter of the size.
    """
    from crnn.serving.site import write_site

    size = write_site(model, out, runtime, precision)
    print(f"{out}: {size / 1e6:.1f} MB; to try it: python -m http.server -b 127.0.0.1 -d {out}")
    return 0
