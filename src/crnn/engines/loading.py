"""Choice of an engine and opening of networks: weights in any engine, exported files in ONNX Runtime or OpenVINO."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from crnn.config.model import ReaderConfig
from crnn.decoding.confidence import Calibration
from crnn.engines.engine import Engine, EngineName, Mode, Precision, cpu_threads
from crnn.errors import ConfigError, MissingExtraError
from crnn.model.weights import read_weights, shipped_engine_file, shipped_names

EngineChoice = Literal["auto", "torch", "onnx", "openvino"]


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A network ready to compute: engine, its name, settings of the weights, and their calibration, if any."""

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
        model: Name of shipped weights, a weights file, a run folder, or an exported file (``.onnx``).
        engine: ``auto``: the first of OpenVINO, ONNX Runtime and torch that is installed and can do it.
        device: ``auto``, ``cpu``, or an accelerator's name (torch only).
        precision: ``int8`` needs an exported file or shipped weights that have one. An exported file keeps its own,
            unless it is ``fp32`` and ``bf16`` is asked for.
        threads: Threads on the CPU. Default: ``OMP_NUM_THREADS``, else the engine's choice.
        mode: Whether threads share out images or each operation (``crnn.engines.engine.Mode``).

    Raises:
        CheckpointError: The model is missing, damaged, foreign, or from a newer version.
        ConfigError: A choice is unknown, the engine cannot do it, or choices contradict each other.
        MissingExtraError: A package is not installed.
    """
    for name, value, choices in (
        ("engine", engine, EngineChoice), ("precision", precision, Precision), ("mode", mode, Mode),
    ):  # fmt: skip
        if value not in get_args(choices):
            raise ConfigError(f"{name} is {value!r}; expected one of: {', '.join(get_args(choices))}")
    cpu_threads(threads)
    asked = _Request(model, device, precision, threads, mode, _exported(model, precision))
    chosen = _choose(engine, asked)
    if precision == "int8" and asked.exported is None:
        shipped = [name for name in shipped_names() if shipped_engine_file(name, "int8") is not None]
        raise ConfigError(
            f"precision is 'int8', and {str(model)!r} has no such weights; expected "
            f"{' or '.join(f'the shipped {name}' for name in shipped) or 'shipped weights that have them'}, or a file "
            f"written by: crnn export {model} OUT.onnx --precision int8"
        )
    return chosen.open(asked)


def installed_engines() -> list[EngineName]:
    """Return the names of installed engines, the fastest on CPUs first; imports none."""
    return [candidate.name for candidate in _CANDIDATES if not candidate.missing()]


def is_for_cpus(model: str | Path, engine: EngineChoice, precision: Precision) -> bool:
    """Return true if the choice computes on CPUs only, whatever accelerators there are."""
    return engine in ("onnx", "openvino") or _exported(model, precision) is not None


def _exported(model: str | Path, precision: Precision) -> Path | None:
    """Return the exported file, or ``None`` for weights."""
    if precision == "int8" and (shipped := shipped_engine_file(str(model), precision)) is not None:
        return shipped
    path = Path(model)
    return path if path.suffix in (".onnx", ".xml") and str(model) not in shipped_names() else None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # of a finder that hides it
        return False


@dataclass(frozen=True, slots=True)
class _Request:
    model: str | Path
    device: str
    precision: Precision
    threads: int | None
    mode: Mode
    exported: Path | None  # the exported file, where that and no weights are meant


class _Candidate:
    """An engine to choose from; by default one for graphs on CPUs."""

    name: EngineName
    packages: tuple[str, ...]

    def missing(self) -> list[str]:
        return [package for package in self.packages if not _is_installed(package)]

    def unsuitable(self, asked: _Request) -> str | None:
        """Return why it cannot do the request, or ``None``."""
        if asked.device not in ("auto", "cpu"):
            return f"which computes on the CPU, and device is {asked.device!r}"
        return None

    def open(self, asked: _Request) -> OpenedModel:
        if asked.exported is not None:
            from crnn.engines.exported_file import read_engine_file

            file = read_engine_file(asked.exported)
            precision = _computed_precision(file.precision, asked.precision, asked.exported)
            model, config, calibration = file.model, file.config, file.calibration
        else:
            from crnn.engines.onnx_graph import network_graph

            weights = read_weights(asked.model)
            precision, config, calibration = asked.precision, weights.config, weights.calibration
            model = network_graph(weights).SerializeToString()
            del weights  # engines make copies of their own of every array
        return OpenedModel(
            self.engine(model, config, replace(asked, precision=precision)), self.name, config, calibration
        )

    def engine(self, model: bytes, config: ReaderConfig, asked: _Request) -> Engine:
        raise NotImplementedError


class _OpenVino(_Candidate):
    name = "openvino"
    packages = ("openvino", "onnx")

    def engine(self, model: bytes, config: ReaderConfig, asked: _Request) -> Engine:
        from crnn.engines.openvino_engine import OpenVinoEngine

        channels = config.image.image_channels
        return OpenVinoEngine(
            model, channels=channels, precision=asked.precision, threads=asked.threads, mode=asked.mode
        )


class _Onnx(_Candidate):
    name = "onnx"
    packages = ("onnxruntime", "onnx")

    def unsuitable(self, asked: _Request) -> str | None:
        bf16 = "which does not compute in bf16 on CPUs" if asked.precision == "bf16" else None
        return super().unsuitable(asked) or bf16

    def engine(self, model: bytes, config: ReaderConfig, asked: _Request) -> Engine:
        from crnn.engines.onnx_engine import OnnxEngine

        return OnnxEngine(model, channels=config.image.image_channels, threads=asked.threads, mode=asked.mode)


class _Torch(_Candidate):
    name = "torch"
    packages = ("torch",)

    def unsuitable(self, asked: _Request) -> str | None:
        if asked.exported is not None:
            return f"which reads weights files, and {asked.exported} is an exported one"
        return "which does not compute in int8" if asked.precision == "int8" else None

    def open(self, asked: _Request) -> OpenedModel:
        import torch

        from crnn.distributed import resolve_device
        from crnn.engines.torch_engine import TorchEngine
        from crnn.model.checkpoint import build_network, load_weights

        if asked.threads is not None:
            torch.set_num_threads(asked.threads)
        weights = load_weights(asked.model)
        device = str(resolve_device(asked.device))
        engine = TorchEngine(build_network(weights), device, "bf16" if asked.precision == "bf16" else "fp32")
        return OpenedModel(engine, self.name, weights.config, weights.calibration)


_CANDIDATES = (_OpenVino(), _Onnx(), _Torch())  # the fastest on CPUs first


def _choose(engine: EngineChoice, asked: _Request) -> _Candidate:
    """Return the named engine; for ``auto`` the first suitable and installed one."""
    reasons = [(candidate, candidate.unsuitable(asked)) for candidate in _CANDIDATES]
    suitable = [candidate for candidate, reason in reasons if reason is None]
    for candidate, reason in reasons:
        if engine == candidate.name and reason is not None:
            others = f"; expected engine {' or '.join(c.name for c in suitable)}, or auto" if suitable else ""
            raise ConfigError(f"engine is {engine!r}, {reason}{others}")
        if reason is None and engine in ("auto", candidate.name) and not candidate.missing():
            return candidate
    if not suitable:
        raise ConfigError(
            f"device is {asked.device!r}, and {asked.exported} is a file for CPUs; expected device auto or cpu"
        )
    first = next(c for c in suitable if engine in ("auto", c.name))
    use = "no engine that can do it is installed;" if engine == "auto" else "reading with the engine"
    raise MissingExtraError(first.missing()[0], first.name, f"{use} {first.name}")


def _computed_precision(held: Precision, asked: Precision, path: Path) -> Precision:
    if held == asked or asked == "fp32":  # the default: as the file is
        return held
    if held == "fp32" and asked == "bf16":
        return "bf16"
    raise ConfigError(f"precision is {asked!r}, and {path} is exported as {held}; leave precision out, or export anew")
