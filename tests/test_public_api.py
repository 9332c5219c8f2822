"""What ``import crnn`` gives: the names, where they come from, and what it does not import."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing

import pytest

import crnn
from crnn import errors

PUBLIC = {
    "Alternative", "Character", "Charset", "CharsetError", "CheckpointError", "Config", "ConfigError", "CrnnError",
    "DataError", "Explanation", "ExportMismatchError", "ImageError", "MissingExtraError", "Reading", "Recognizer",
    "TrainingError", "__version__", "explain", "load", "load_config",
}  # fmt: skip

MODULES = sorted(found.name for found in pkgutil.walk_packages(crnn.__path__, "crnn."))


def test_the_names_are_these_and_all_can_be_had() -> None:
    assert set(crnn.__all__) == PUBLIC
    assert list(crnn.__all__) == sorted(crnn.__all__)
    assert dir(crnn) == crnn.__all__
    everything: dict[str, object] = {}
    exec("from crnn import *", everything)
    assert set(everything) - {"__builtins__"} == PUBLIC
    for name in PUBLIC - {"__version__"}:
        home = importlib.import_module(getattr(crnn, name).__module__)
        assert getattr(home, name) is getattr(crnn, name)


def test_type_checkers_are_told_the_same_names() -> None:
    source = inspect.getsource(crnn)
    told = {line.rpartition(" as ")[2] for line in source.splitlines() if " as " in line and "import" in line}
    assert told == PUBLIC - {"__version__"}


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert crnn.__version__ == version("crnn")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'crnn' has no attribute 'lode'"):
        crnn.lode  # noqa: B018


def test_every_error_of_the_tree_can_be_caught_by_its_name() -> None:
    tree = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.CrnnError)}
    assert tree <= PUBLIC


def test_importing_is_light() -> None:
    program = """
import sys
before = set(sys.modules)
import crnn
foreign = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {"crnn"}
assert not foreign, foreign
crnn.Charset("36"), crnn.Config(), crnn.load_config("tiny"), crnn.Recognizer, crnn.load
heavy = {"torch", "lmdb", "typer", "rich", "scipy", "onnxruntime", "openvino", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "crnn.__main__"])
def test_every_public_name_is_there_and_explained(module: str) -> None:
    home = importlib.import_module(module)
    assert home.__doc__
    for name, value in vars(home).items():
        is_own = getattr(value, "__module__", "") == module and not name.startswith("_")
        if is_own and (inspect.isclass(value) or inspect.isfunction(value)):
            assert value.__doc__, name
            for member, attribute in vars(value).items() if inspect.isclass(value) else ():
                if inspect.isfunction(attribute) and not member.startswith("_") and value.__module__ == module:
                    assert attribute.__doc__ or _said_above(value, member), f"{name}.{member}"


def _said_above(kind: type, member: str) -> bool:
    """Whether a method is that of a class above it, or one that a dataclass or a protocol gives."""
    return any(member in vars(parent) for parent in kind.__mro__[1:])


def test_reading_is_fully_annotated() -> None:
    for function in (crnn.load, crnn.Recognizer.read, crnn.Recognizer.stream, crnn.Recognizer.__init__):
        hints = typing.get_type_hints(function)
        parameters = [name for name in inspect.signature(function).parameters if name != "self"]
        assert set(parameters) <= set(hints)
        assert "return" in hints
