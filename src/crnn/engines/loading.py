"""From what a user names to an engine that computes: which one, by what is installed, and on what.

A weights file is read by every engine (the graph for OpenVINO and ONNX Runtime is built in memory); an exported file by
those that know its format.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from crnn.config.model import ReaderConfig
from crnn.decoding.confidence import Calibration
from crnn.engines.engine import Engine, EngineName, Mode, Precision, cpu_threads
from crnn.errors import ConfigError, MissingExtraError
from crnn.model.weights import read_weights, shipped_engine_file, shipped_names

if TYPE_CHECKING:
    from crnn.engines.exported_file import EngineFile

__all__ = ["EngineChoice", "OpenedModel", "installed_engines", "is_for_cpus", "open_model"]


EngineChoice = Literal["auto", "torch", "onnx", "openvino"]

_PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "openvino": ("openvino", "onnx"),
    "onnx": ("onnxruntime", "onnx"),
    "torch": ("torch",),
}
"""What each engine needs, the fastest on CPUs first: in this order ``auto`` looks for them."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A network that is ready to compute.

    Attributes:
        engine: What computes.
        name: Which one it is.
        config: Settings of its weights: charset and image.
        calibration: Of the weights, where they have one.
    """

    engine: Engine
    name: EngineName
    config: ReaderConfig
    calibration: Calibration | None


def open_model(
    model: str | Path,
    *,
    engine: EngineChoice = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    mode: Mode = "throughput",
) -> OpenedModel:
    """Open a network in an engine.

    Args:
        model: Name of weights that ship, a weights file, a run folder, or an exported file (``.onnx``).
        engine: ``auto``: OpenVINO, else ONNX Runtime, else torch, by what is installed and can do what is asked for.
        device: ``auto``, ``cpu``, or an accelerator's name, which only torch computes on.
        precision: ``int8`` is that of an exported file; of shipped weights, the one that ships beside them. An exported
            file keeps its own, unless it is ``fp32`` and ``bf16`` is asked for.
        threads: Threads on the CPU. Default: ``OMP_NUM_THREADS``, else the engine's own choice.
        mode: What the threads share out: pictures, or each operation (``crnn.engines.engine.Mode``).

    Raises:
        CheckpointError: The model is missing, damaged, foreign, or from a newer version.
        ConfigError: A choice is unknown, the engine cannot do it, or choices contradict each other.
        MissingExtraError: What is needed is not installed.
    """
    _check_choice("engine", engine, EngineChoice)
    _check_choice("precision", precision, Precision)
    _check_choice("mode", mode, Mode)
    cpu_threads(threads)
    exported = _exported(model, precision)
    chosen = _choose(engine, device, precision, exported)
    if exported is not None:
        return _open_file(exported, chosen, precision, threads, mode)
    if precision == "int8":
        raise ConfigError(
            f"precision is 'int8', and {str(model)!r} has no such weights; expected "
            f"{' or '.join(_shipped_as('int8'))}, or a file written by: crnn export {model} OUT.onnx --precision int8"
        )
    if chosen == "torch":
        return _open_in_torch(model, device, precision, threads)
    return _open_weights(model, chosen, precision, threads, mode)


def installed_engines() -> list[EngineName]:
    """Names of the engines whose packages are installed, the fastest on CPUs first; none of them is imported."""
    return [name for name in _PACKAGES if not _missing(name)]


def is_for_cpus(model: str | Path, engine: EngineChoice, precision: Precision) -> bool:
    """Whether what is asked for computes on CPUs alone, whatever accelerators there are."""
    return engine in ("onnx", "openvino") or _exported(model, precision) is not None


def _choose(engine: EngineChoice, device: str, precision: Precision, exported: Path | None) -> EngineName:
    """The engine that is meant; for ``auto`` the first that is installed of those that can do it."""
    why_not = {name: _why_not(name, device, precision, exported) for name in _PACKAGES}
    able = [name for name in _PACKAGES if why_not[name] is None]
    if engine != "auto":
        if engine not in able:
            others = f"; expected engine {' or '.join(able)}, or auto" if able else ""
            raise ConfigError(f"engine is {engine!r}, {why_not[engine]}{others}")
        if _missing(engine):
            raise MissingExtraError(_missing(engine)[0], engine, f"reading with the engine {engine}")
        return engine
    if not able:
        raise ConfigError(f"device is {device!r}, and {exported} is a file for CPUs; expected device auto or cpu")
    for name in able:
        if not _missing(name):
            return name
    raise MissingExtraError(_missing(able[0])[0], able[0], f"no engine that can do it is installed; {able[0]}")


def _why_not(name: EngineName, device: str, precision: Precision, exported: Path | None) -> str | None:
    """Why an engine cannot do what is asked for; ``None`` where it can."""
    if name == "torch":
        if exported is not None:
            return f"which reads weights files, and {exported} is an exported one"
        return "which does not compute in int8" if precision == "int8" else None
    if device not in ("auto", "cpu"):
        return f"which computes on the CPU, and device is {device!r}"
    if name == "onnx" and precision == "bf16":
        return "which does not compute in bf16 on CPUs"
    return None


def _missing(name: EngineName) -> list[str]:
    """Packages that an engine needs and that are not installed."""
    return [package for package in _PACKAGES[name] if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # of a finder that hides it
        return False


def _exported(model: str | Path, precision: Precision) -> Path | None:
    """The exported file that is meant; ``None``: weights are."""
    if precision == "int8" and (shipped := shipped_engine_file(str(model), precision)) is not None:
        return shipped
    path = Path(model)
    return path if path.suffix in (".onnx", ".xml") and str(model) not in shipped_names() else None


def _shipped_as(precision: str) -> list[str]:
    names = [name for name in shipped_names() if shipped_engine_file(name, precision) is not None]
    return [f"the shipped {name}" for name in names] or ["shipped weights that have them"]


def _open_file(path: Path, name: EngineName, precision: Precision, threads: int | None, mode: Mode) -> OpenedModel:
    from crnn.engines.exported_file import read_engine_file

    file: EngineFile = read_engine_file(path)
    computed = _computed_precision(file.precision, precision, path)
    engine = _graph_engine(name, file.model, file.config, computed, threads, mode)
    return OpenedModel(engine, name, file.config, file.calibration)


def _computed_precision(held: Precision, asked: Precision, path: Path) -> Precision:
    if held == asked or asked == "fp32":  # the default: as the file is
        return held
    if held == "fp32" and asked == "bf16":
        return "bf16"
    raise ConfigError(f"precision is {asked!r}, and {path} is exported as {held}; leave precision out, or export anew")


def _open_weights(
    model: str | Path, name: EngineName, precision: Precision, threads: int | None, mode: Mode
) -> OpenedModel:
    from crnn.engines.onnx_graph import network_graph

    weights = read_weights(model)
    config, calibration = weights.config, weights.calibration
    graph = network_graph(weights).SerializeToString()
    del weights  # engines make copies of their own of every array
    engine = _graph_engine(name, graph, config, precision, threads, mode)
    return OpenedModel(engine, name, config, calibration)


def _graph_engine(
    name: EngineName, model: bytes | Path, config: ReaderConfig, precision: Precision, threads: int | None, mode: Mode
) -> Engine:
    channels = config.image.image_channels
    if name == "onnx":
        from crnn.engines.onnx_engine import OnnxEngine

        return OnnxEngine(model, channels=channels, threads=threads, mode=mode)
    from crnn.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(model, channels=channels, precision=precision, threads=threads, mode=mode)


def _open_in_torch(model: str | Path, device: str, precision: Precision, threads: int | None) -> OpenedModel:
    import torch

    from crnn.distributed import resolve_device
    from crnn.engines.torch_engine import TorchEngine
    from crnn.model.checkpoint import build_network, load_weights

    if threads is not None:
        torch.set_num_threads(threads)
    weights = load_weights(model)
    engine = TorchEngine(build_network(weights), str(resolve_device(device)), "bf16" if precision == "bf16" else "fp32")
    return OpenedModel(engine, "torch", weights.config, weights.calibration)


def _check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a choice that a caller without a type checker got wrong: another one would be taken in silence."""
    if value not in get_args(choices):
        raise ConfigError(f"{name} is {value!r}; expected one of: {', '.join(get_args(choices))}")
