"""Choice of an engine and opening of networks: weights in any engine, exported files in ONNX Runtime or OpenVINO."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from crnn.config.model import ReaderConfig
from crnn.decoding.confidence import Calibration
from crnn.engines.engine import Engine, EngineName, Mode, Precision, cpu_threads
from crnn.errors import ConfigError, MissingExtraError
from crnn.model.weights import read_weights, shipped_engine_file, shipped_names

EngineChoice = Literal["auto", "torch", "onnx", "openvino"]

# Packages of the engines, the fastest on CPUs first.
_PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "openvino": ("openvino", "onnx"), "onnx": ("onnxruntime", "onnx"), "torch": ("torch",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A network ready to compute: engine, settings of the weights, and their calibration, if any."""

    engine: Engine
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
    """Open a network in an engine; arguments and errors are those of ``crnn.load``.

    An exported file keeps its own precision, unless it is ``fp32`` and ``bf16`` is asked for.
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
    return _open_in_torch(asked) if chosen == "torch" else _open_graph(chosen, asked)


def installed_engines() -> list[EngineName]:
    """Return the names of installed engines, the fastest on CPUs first; imports none."""
    return [name for name in _PACKAGES if not _missing(name)]


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


def _missing(engine: EngineName) -> list[str]:
    return [package for package in _PACKAGES[engine] if not _is_installed(package)]


def _unsupported(engine: EngineName, asked: _Request) -> str | None:
    """Return why an engine cannot do the request, or ``None``."""
    if engine == "torch":
        if asked.exported is not None:
            return f"which reads weights files, and {asked.exported} is an exported one"
        return "which does not compute in int8" if asked.precision == "int8" else None
    if asked.device not in ("auto", "cpu"):
        return f"which computes on the CPU, and device is {asked.device!r}"
    return "which does not compute in bf16 on CPUs" if engine == "onnx" and asked.precision == "bf16" else None


def _choose(engine: EngineChoice, asked: _Request) -> EngineName:
    """Return the named engine; for ``auto`` the first that can do the request and is installed."""
    reasons = {name: _unsupported(name, asked) for name in _PACKAGES}
    suitable = [name for name, reason in reasons.items() if reason is None]
    if engine != "auto" and reasons[engine] is not None:
        others = f"; expected engine {' or '.join(suitable)}, or auto" if suitable else ""
        raise ConfigError(f"engine is {engine!r}, {reasons[engine]}{others}")
    if not suitable:
        raise ConfigError(
            f"device is {asked.device!r}, and {asked.exported} is a file for CPUs; expected device auto or cpu"
        )
    wanted = [name for name in suitable if engine in ("auto", name)]
    for name in wanted:
        if not _missing(name):
            return name
    use = "no engine that can do it is installed;" if engine == "auto" else "reading with the engine"
    raise MissingExtraError(_missing(wanted[0])[0], wanted[0], f"{use} {wanted[0]}")


def _open_graph(engine: EngineName, asked: _Request) -> OpenedModel:
    precision = asked.precision
    if asked.exported is not None:
        from crnn.engines.exported_file import read_engine_file

        file = read_engine_file(asked.exported)
        model, config, calibration = file.model, file.config, file.calibration
        if precision == "fp32":  # the default: as the file is
            precision = file.precision
        elif precision != file.precision and (precision, file.precision) != ("bf16", "fp32"):
            raise ConfigError(
                f"precision is {precision!r}, and {asked.exported} is exported as {file.precision}; leave precision "
                "out, or export anew"
            )
    else:
        from crnn.engines.onnx_graph import network_graph

        weights = read_weights(asked.model)
        config, calibration = weights.config, weights.calibration
        model = network_graph(weights).SerializeToString()
        del weights  # engines make copies of their own of every array
    channels, threads, mode = config.image.image_channels, asked.threads, asked.mode
    if engine == "onnx":
        from crnn.engines.onnx_engine import OnnxEngine

        return OpenedModel(OnnxEngine(model, channels=channels, threads=threads, mode=mode), config, calibration)
    from crnn.engines.openvino_engine import OpenVinoEngine

    opened = OpenVinoEngine(model, channels=channels, precision=precision, threads=threads, mode=mode)
    return OpenedModel(opened, config, calibration)


def _open_in_torch(asked: _Request) -> OpenedModel:
    import torch

    from crnn.distributed import resolve_device
    from crnn.engines.torch_engine import TorchEngine
    from crnn.model.checkpoint import build_network, load_weights

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    weights = load_weights(asked.model)
    device = str(resolve_device(asked.device))
    engine = TorchEngine(build_network(weights), device, "bf16" if asked.precision == "bf16" else "fp32")
    return OpenedModel(engine, weights.config, weights.calibration)
