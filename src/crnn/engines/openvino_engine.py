"""The network in OpenVINO, on the CPU. The one place that imports it."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from crnn.engines.engine import LogProbs, Mode, Pixels, Precision, check_pixels, cpu_threads, in_parts
from crnn.errors import CheckpointError, MissingExtraError

_TYPES: dict[Precision, tuple[str, ...]] = {"fp32": ("f32",), "bf16": ("bf16",), "int8": ("bf16", "f32")}
"""What is computed in where the graph does not say int8; of several, the first that the processor has (bf16 makes int8
almost twice as fast as f32 does, for the LSTMs). Left to itself, OpenVINO takes bf16 for all, where there is any."""

_IMPORTING = threading.Lock()


class OpenVinoEngine:
    """Log-probabilities by OpenVINO (``crnn.engines.engine.Engine``); one batch at a time.

    Args:
        model: A graph as ``crnn.engines.onnx_graph`` builds it, serialised, or the file that holds one.
        channels: Channels C of its images.
        precision: ``fp32``; ``bf16``; ``int8``, where the graph is quantised.
        threads: Default: ``OMP_NUM_THREADS``, else OpenVINO's own choice.
        mode: Under ``throughput`` the images of a batch are shared out over streams, each with its threads.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: It cannot run the graph.
        ConfigError: ``threads`` is below 1.
    """

    name = "openvino"

    def __init__(
        self,
        model: bytes | Path,
        *,
        channels: int,
        precision: Precision = "fp32",
        threads: int | None = None,
        mode: Mode = "throughput",
    ) -> None:
        threads = cpu_threads(threads)
        self._openvino = import_openvino()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": mode.upper(),
            # Pinned threads are good for a machine of one's own; beside other work they wait for a busy processor.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = _core()
            options["INFERENCE_PRECISION_HINT"] = _type(core, precision)
            compiled = core.compile_model(core.read_model(model), "CPU", options)
            requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        except RuntimeError as error:
            where = "" if isinstance(model, bytes) else f"{model}: "
            why = [line for line in str(error).splitlines() if line][-1]
            raise CheckpointError(f"{where}OpenVINO cannot run this graph: {why}") from error
        self._requests = [compiled.create_infer_request() for _ in range(max(1, requests))]
        self._channels = channels
        self._busy = threading.Lock()

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return log-probabilities, as ``Engine`` says."""
        check_pixels(images, self._channels)
        parts = [np.ascontiguousarray(part) for part in in_parts(images, len(self._requests))]
        with self._busy:
            started = self._requests[: len(parts)]
            for request, part in zip(started, parts, strict=True):
                request.start_async({0: self._openvino.Tensor(part, shared_memory=True)})
            for request in started:
                request.wait()
            # What a request gives is overwritten by its next run.
            return np.concatenate([request.get_output_tensor(0).data for request in started])


def _type(core: Any, precision: Precision) -> str:
    """Return the type to compute in, of those that the precision allows."""
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return next((name for name in _TYPES[precision] if name != "bf16" or has_bf16), _TYPES[precision][-1])


@functools.cache
def _core() -> Any:
    """Return the one core of the process, never let go.

    OpenVINO gives the thread that loads its CPU part a stack for signals (tiles of AMX need room). If that part is
    unloaded again from another thread, the stack is freed while it is still set, and the next signal, Ctrl-C
    included, ends the process by a segmentation fault.
    """
    return import_openvino().Core()


def import_openvino() -> Any:
    """Import ``openvino`` without its telemetry.

    ``import openvino`` counts itself with its vendor and leaves files in the user's home for it, unless the package
    ``openvino_telemetry`` is missing. So for the moment of the import it is.

    Raises:
        MissingExtraError: It is not installed.
    """
    with _IMPORTING:
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        hidden = {
            name: module for name, module in sys.modules.items() if name.partition(".")[0] == "openvino_telemetry"
        }
        for name in hidden:
            del sys.modules[name]
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what the import system takes for missing
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "openvino", "reading with the engine openvino") from None
        finally:
            del sys.modules["openvino_telemetry"]
            sys.modules.update(hidden)
    return openvino
