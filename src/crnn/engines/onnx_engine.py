"""Engine with ONNX Runtime, on the CPU; the only module that imports it."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from crnn.engines.engine import LogProbs, Mode, Pixels, check_pixels, cpu_threads
from crnn.errors import CheckpointError
from crnn.parallel import usable_cores


class OnnxEngine:
    """Log-probabilities by ONNX Runtime (``Engine``) from a serialised graph; ``CheckpointError`` if it cannot run.

    ``throughput`` shares out the images of a batch over the threads: by default one for each processor.
    """

    def __init__(self, model: bytes, *, channels: int, threads: int | None = None, mode: Mode = "throughput") -> None:
        threads = cpu_threads(threads) or usable_cores()
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # only errors: its warnings are for those who write graphs
        # With one thread a run computes in the thread that calls it, and several may call at once.
        options.intra_op_num_threads = 1 if mode == "throughput" else threads
        options.inter_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class but this one
            raise CheckpointError(f"ONNX Runtime cannot run this graph: {str(error).splitlines()[0]}") from error
        (given,) = self._session.get_inputs()
        self._input = given.name
        self._channels = channels
        self._workers = threads if mode == "throughput" else 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crnn-onnx")  # starts them when they are needed

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return log-probabilities; see ``Engine``."""
        check_pixels(images, self._channels)
        parts = np.array_split(images, min(self._workers, len(images)))
        if len(parts) == 1:
            return self._run(images)
        others = [self._pool.submit(self._run, part) for part in parts[1:]]
        return np.concatenate([self._run(parts[0]), *(other.result() for other in others)])

    def _run(self, images: Pixels) -> LogProbs:
        result: LogProbs = self._session.run(None, {self._input: images})[0]
        return result


def import_onnxruntime() -> Any:
    """Import ``onnxruntime`` without its telemetry, unless the user's environment says otherwise."""
    # Releases (1.32 on Linux) report every import to their vendor and leave an id in the user's cache without this.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
