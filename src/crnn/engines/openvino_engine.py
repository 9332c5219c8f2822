"""Engine with OpenVINO, on the CPU; the only module that imports it."""

import functools
import sys
import threading
from typing import Any

import numpy as np

from crnn.engines.engine import LogProbs, Mode, Pixels, Precision, check_pixels, cpu_threads, is_forked
from crnn.errors import CheckpointError, MissingExtraError

_IMPORTING = threading.Lock()


class OpenVinoEngine:
    """Log-probabilities by OpenVINO (``Engine``) from a serialised graph; ``CheckpointError`` if it cannot run.

    ``throughput`` shares out the images of a batch over streams of threads. One batch is computed at a time.
    """

    def __init__(
        self,
        model: bytes,
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
        if is_forked():
            # OpenVINO keeps the streams of engines that are gone, for the next, and in a fork they have no threads.
            options["NUM_STREAMS"] = 0  # computes in the caller's thread
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = _core()
            # For all that is not int8 in the graph; OpenVINO's own default is bf16 wherever it exists. It makes int8
            # almost twice as fast as f32 does, for the LSTMs.
            has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            use_bf16 = precision == "bf16" or (precision == "int8" and has_bf16)
            options["INFERENCE_PRECISION_HINT"] = "bf16" if use_bf16 else "f32"
            compiled = core.compile_model(core.read_model(model), "CPU", options)
            requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        except RuntimeError as error:
            why = [line for line in str(error).splitlines() if line][-1]
            raise CheckpointError(f"OpenVINO cannot run this graph: {why}") from error
        self._requests = [compiled.create_infer_request() for _ in range(max(1, requests))]
        self._channels = channels
        self._busy = threading.Lock()

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return log-probabilities; see ``Engine``."""
        check_pixels(images, self._channels)
        parts = [np.ascontiguousarray(part) for part in np.array_split(images, min(len(self._requests), len(images)))]
        with self._busy:
            started = self._requests[: len(parts)]
            for request, part in zip(started, parts, strict=True):
                request.start_async({0: self._openvino.Tensor(part, shared_memory=True)})
            for request in started:
                request.wait()
            # The next run of a request overwrites its output.
            return np.concatenate([request.get_output_tensor(0).data for request in started])


@functools.cache
def _core() -> Any:
    """Return the one core of the process, never released.

    OpenVINO gives the thread that loads its CPU part a signal stack (for AMX tiles). Unloading from another thread
    frees the stack while it is set, and the next signal, even Ctrl-C, ends the process by a segmentation fault.
    """
    return import_openvino().Core()


def import_openvino() -> Any:
    """Import ``openvino`` without its telemetry.

    It reports its import to the vendor and leaves files in the user's home, unless ``openvino_telemetry`` is missing;
    so that package is hidden during the import.
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
            raise MissingExtraError("openvino", "read", "reading with the engine openvino") from None
        finally:
            del sys.modules["openvino_telemetry"]
            sys.modules.update(hidden)
    return openvino
