"""Choice of an engine and opening of networks: weights in any engine, exported files in ONNX Runtime or OpenVINO."""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

from crnn.config.model import ReaderConfig
from crnn.config.section import checked_call
from crnn.decoding.confidence import Calibration
from crnn.engines.engine import Engine, EngineName, ForkSafeEngine, Mode, Precision, cpu_threads, is_forked
from crnn.errors import CheckpointError, ConfigError, MissingExtraError
from crnn.model.hub import is_hub_name
from crnn.model.weights import read_weights, resolve_weights, shipped_engine_file, shipped_names

EngineChoice = Literal["auto", "torch", "onnx", "openvino"]

# Extras with the engines' packages, the fastest on CPUs first; ONNX Runtime comes with crnn.
_EXTRAS: dict[EngineName, str] = {"openvino": "read", "onnx": "", "torch": "train"}


@checked_call
def open_model(
    model: str | Path,
    *,
    engine: EngineChoice = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    mode: Mode = "throughput",
) -> tuple[Engine, ReaderConfig, Calibration | None]:
    """Open a network in an engine; return it with the weights' settings and calibration.

    Arguments and errors are those of ``crnn.load``. An exported file keeps its own precision, unless it is ``fp32`` and
    ``bf16`` is asked for.
    """
    cpu_threads(threads)
    exported = _exported(model, precision)
    chosen = _choose(engine, device, precision, exported)
    if precision == "int8" and exported is None:
        shipped = [name for name in shipped_names() if shipped_engine_file(name, "int8") is not None]
        raise ConfigError(
            f"precision is 'int8', and {str(model)!r} has no such weights; expected "
            f"{' or '.join(f'the shipped {name}' for name in shipped) or 'shipped weights that have them'}, or a file "
            f"written by: crnn export {model} OUT.onnx --precision int8"
        )
    if chosen == "torch":
        return _open_in_torch(model, device, precision, threads, mode)
    if exported is not None:
        from crnn.engines.exported_file import read_engine_file

        file = read_engine_file(exported)
        graph, config, calibration = file.model, file.config, file.calibration
        if precision == "fp32":  # the default: as the file is
            precision = file.precision
        elif precision != file.precision and (precision, file.precision) != ("bf16", "fp32"):
            raise ConfigError(
                f"precision is {precision!r}, and {exported} is exported as {file.precision}; leave precision out"
            )
    else:
        from crnn.engines.onnx_graph import network_graph

        weights = read_weights(model)
        config, calibration = weights.config, weights.calibration
        graph = network_graph(weights).SerializeToString()
        del weights  # engines make copies of their own of every array
    options: dict[str, Any] = {"channels": config.image.image_channels, "threads": threads, "mode": mode}
    if chosen == "onnx":
        from crnn.engines.onnx_engine import OnnxEngine

        return ForkSafeEngine(partial(OnnxEngine, graph, **options)), config, calibration
    from crnn.engines.openvino_engine import OpenVinoEngine

    return ForkSafeEngine(partial(OpenVinoEngine, graph, precision=precision, **options)), config, calibration


def _open_in_torch(
    model: str | Path, device: str, precision: Precision, threads: int | None, mode: Mode
) -> tuple[Engine, ReaderConfig, Calibration | None]:
    import torch

    from crnn.distributed import resolve_device
    from crnn.engines.torch_engine import TorchEngine
    from crnn.model.checkpoint import build_network, load_weights

    threads = 1 if is_forked() else threads
    if threads is not None:
        torch.set_num_threads(threads)
    weights = load_weights(model)
    on = str(resolve_device(device))
    engine = TorchEngine(build_network(weights), on, "bf16" if precision == "bf16" else "fp32", mode=mode)
    return engine, weights.config, weights.calibration


def installed_engines() -> list[EngineName]:
    """Return the names of installed engines, the fastest on CPUs first; imports none."""
    return [name for name in _EXTRAS if _is_usable(name)]


def is_model(name: str) -> bool:
    """Return true for the name of a model, and of files and folders that are one by what they hold, or end as one."""
    if is_hub_name(name) or Path(name).suffix in (".onnx", ".xml", ".safetensors"):
        return True
    try:
        with resolve_weights(name).open("rb") as file:
            head, size = file.read(9), os.fstat(file.fileno()).st_size
    except (CheckpointError, OSError):
        return False
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < size


def is_for_cpus(model: str | Path, engine: EngineChoice, precision: Precision) -> bool:
    """Return true if the choice computes on CPUs only, whatever accelerators there are."""
    return engine in ("onnx", "openvino") or _exported(model, precision) is not None


def _exported(model: str | Path, precision: Precision) -> Path | None:
    """Return the exported file, or ``None`` for weights."""
    if precision == "int8" and (shipped := shipped_engine_file(str(model), precision)) is not None:
        return shipped
    path = Path(model)
    is_file = path.suffix in (".onnx", ".xml") and str(model) not in shipped_names() and not is_hub_name(model)
    return path if is_file else None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # of a finder that hides it
        return False


def _is_usable(engine: EngineName) -> bool:
    return engine == "onnx" or _is_installed(engine)


def _choose(engine: EngineChoice, device: str, precision: Precision, exported: Path | None) -> EngineName:
    """Return the named engine; for ``auto`` the first that can do the request and is installed."""
    reasons: dict[EngineName, str] = {}  # why an engine cannot do it
    if device not in ("auto", "cpu"):
        reasons["openvino"] = reasons["onnx"] = f"which computes on the CPU, and device is {device!r}"
    elif precision == "bf16":
        reasons["onnx"] = "which does not compute in bf16 on CPUs"
    if exported is not None:
        reasons["torch"] = f"which reads weights files, and {exported} is an exported one"
    elif precision == "int8":
        reasons["torch"] = "which does not compute in int8"
    suitable = [name for name in _EXTRAS if name not in reasons]
    if engine != "auto" and engine in reasons:
        others = f"; expected engine {' or '.join(suitable)}, or auto" if suitable else ""
        raise ConfigError(f"engine is {engine!r}, {reasons[engine]}{others}")
    if not suitable:
        raise ConfigError(f"device is {device!r}, and {exported} is a file for CPUs; expected device auto or cpu")
    wanted = [name for name in suitable if engine in ("auto", name)]
    for name in wanted:
        if _is_usable(name):
            return name
    use = "no engine that can do it is installed;" if engine == "auto" else "reading with the engine"
    raise MissingExtraError(wanted[0], _EXTRAS[wanted[0]], f"{use} {wanted[0]}")
