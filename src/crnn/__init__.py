"""Read words and lines from image crops, and train the CRNN that reads them.

>>> import crnn
>>> reader = crnn.load("runs/crnn")                      # doctest: +SKIP
>>> reader.read("word.png").text                         # doctest: +SKIP
'hello'

Importing the package imports neither torch nor anything else that is heavy: names are found when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crnn.charset import Charset
    from crnn.config.run import Config, load_config
    from crnn.decoding.ctc import Alternative
    from crnn.errors import (
        CharsetError,
        CheckpointError,
        ConfigError,
        CrnnError,
        DataError,
        ExportMismatchError,
        ImageError,
        MissingExtraError,
        TrainingError,
    )
    from crnn.explanation import Explanation, explain
    from crnn.page import Line, Page, PageReader, read_page
    from crnn.recognizer import Character, Reading, Recognizer, load

__all__ = [
    "Alternative", "Character", "Charset", "CharsetError", "CheckpointError", "Config", "ConfigError", "CrnnError",
    "DataError", "Explanation", "ExportMismatchError", "ImageError", "Line", "MissingExtraError", "Page", "PageReader",
    "Reading", "Recognizer", "TrainingError", "__version__", "explain", "load", "load_config", "read_page",
]  # fmt: skip

_MODULES = {
    "Charset": "charset", "Config": "config.run", "load_config": "config.run", "Explanation": "explanation",
    "explain": "explanation", "Line": "page", "Page": "page", "PageReader": "page", "read_page": "page",
    "Alternative": "decoding.ctc", "Character": "recognizer", "Reading": "recognizer",
    "Recognizer": "recognizer", "load": "recognizer",
}  # fmt: skip
"""Modules of the names that are no errors."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crnn")
    if name in __all__:
        return getattr(import_module(f"crnn.{_MODULES.get(name, 'errors')}"), name)
    raise AttributeError(f"module 'crnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
