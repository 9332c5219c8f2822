"""What ``import crnn`` gives: the names, where they come from, and what it does not import."""

import importlib
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import crnn
from crnn import errors

PUBLIC = {
    "Alternative", "Character", "Charset", "CharsetError", "CheckpointError", "Config", "ConfigError", "CrnnError",
    "DataError", "Explanation", "ExportMismatchError", "ImageError", "Line", "MissingExtraError", "Page", "PageReader",
    "Reading", "Recognizer", "TrainingError", "__version__", "explain", "load", "load_config", "read_page",
}  # fmt: skip


def test_the_names_are_these_and_all_can_be_had():
    assert set(crnn.__all__) == PUBLIC
    assert list(crnn.__all__) == sorted(crnn.__all__)
    assert dir(crnn) == crnn.__all__
    everything = {}
    exec("from crnn import *", everything)
    assert set(everything) - {"__builtins__"} == PUBLIC
    for name in PUBLIC - {"__version__"}:
        home = importlib.import_module(getattr(crnn, name).__module__)
        assert getattr(home, name) is getattr(crnn, name)
    assert crnn.__version__ == importlib.metadata.version("crnn")


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'crnn' has no attribute 'lode'"):
        crnn.lode  # noqa: B018


def test_every_error_of_the_tree_can_be_caught_by_its_name():
    tree = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.CrnnError)}
    assert tree <= PUBLIC


def test_importing_is_light():
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
