"""Engine with torch, on the CPU and accelerators, also during training."""

import os
from typing import Literal

import torch

from crnn.data.dataset import network_input
from crnn.engines.engine import LogProbs, Mode, Pixels, check_pixels
from crnn.model.crnn import CRNN

_PROCESS = os.getpid()


def is_forked() -> bool:
    """Return true in a fork of the process that loaded torch: several threads would wait for those that it had."""
    return os.getpid() != _PROCESS


class TorchEngine:
    """Log-probabilities by torch (``Engine``); ``bf16`` is autocast. The network is moved to the device."""

    def __init__(
        self,
        network: CRNN,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        channels_last: bool = True,
        mode: Mode = "throughput",
    ) -> None:
        self._mode = mode
        self._device = torch.device(device)
        self._precision = precision
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._network = network.to(self._device).to(memory_format=self._format)  # type: ignore[call-overload]

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return log-probabilities, computed in evaluation mode; see ``Engine``."""
        check_pixels(images, self._network.image_channels)
        was_training, threads = self._network.training, torch.get_num_threads()
        if is_forked() or (self._mode == "throughput" and len(images) == 1):
            torch.set_num_threads(1)  # several wait for each other in every operation, on busy cores long
        self._network.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"),
            ):
                values = network_input(torch.from_numpy(images).to(self._device))  # as bytes, a quarter of the way
                logits = self._network(values.contiguous(memory_format=self._format))
                result: LogProbs = logits.float().log_softmax(-1).cpu().numpy()
        finally:
            self._network.train(was_training)
            torch.set_num_threads(threads)
        return result
