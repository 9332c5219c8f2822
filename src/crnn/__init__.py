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
    from crnn.charset import Charset as Charset
    from crnn.config.run import Config as Config
    from crnn.config.run import load_config as load_config
    from crnn.errors import CharsetError as CharsetError
    from crnn.errors import CheckpointError as CheckpointError
    from crnn.errors import ConfigError as ConfigError
    from crnn.errors import CrnnError as CrnnError
    from crnn.errors import DataError as DataError
    from crnn.errors import ExportMismatchError as ExportMismatchError
    from crnn.errors import ImageError as ImageError
    from crnn.errors import MissingExtraError as MissingExtraError
    from crnn.errors import TrainingError as TrainingError
    from crnn.explanation import Explanation as Explanation
    from crnn.explanation import explain as explain
    from crnn.recognizer import Alternative as Alternative
    from crnn.recognizer import Character as Character
    from crnn.recognizer import Reading as Reading
    from crnn.recognizer import Recognizer as Recognizer
    from crnn.recognizer import load as load

_HOMES = {
    "Alternative": "recognizer",
    "Character": "recognizer",
    "Charset": "charset",
    "CharsetError": "errors",
    "CheckpointError": "errors",
    "Config": "config.run",
    "ConfigError": "errors",
    "CrnnError": "errors",
    "DataError": "errors",
    "Explanation": "explanation",
    "ExportMismatchError": "errors",
    "ImageError": "errors",
    "MissingExtraError": "errors",
    "Reading": "recognizer",
    "Recognizer": "recognizer",
    "TrainingError": "errors",
    "explain": "explanation",
    "load": "recognizer",
    "load_config": "config.run",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crnn")
    if name in _HOMES:
        return getattr(import_module(f"crnn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'crnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
