"""``crnn push``: a model to the Hugging Face Hub."""

from typing import Annotated

import typer

from crnn.model.weights import shipped_weights
from crnn.terminal import say, show


def push(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME")],
    private: bool = False,
    license: str = "",  # noqa: A002 - the name of the option
    results: Annotated[list[str] | None, typer.Option(metavar="FILE")] = None,
    dry_run: Annotated[str, typer.Option(metavar="FOLDER")] = "",
) -> int:
    """Upload a model to the Hugging Face Hub: weights, ONNX file, and a card with what the weights know.

    Whoever writes hf://OWNER/NAME as MODEL then reads with it. It needs a token: hf auth login, or HF_TOKEN.
    In Python: ``crnn.interop.push.push``.

    Args:
        model: Name of weights that ship, a weights file, or a run folder.
        repository: Where to; it is made where there is none.
        private: Make it a private one.
        license: License of the weights as the hub calls it, such as apache-2.0.
        results: File of crnn evaluate --json, for the card; may be given several times.
        dry_run: Write the files there, and upload nothing.
    """
    from crnn.interop.push import push as run

    show(run(model, repository, private=private, license=license, results=results or (), dry_run=dry_run or None))
    if not license and shipped_weights(model) is None:
        say("push", "the card names no license; --license does, such as apache-2.0")
    return 0
