"""Engine with torch, on the CPU and accelerators, also during training."""

from typing import Literal

import torch

from crnn.data.dataset import network_input
from crnn.engines.engine import LogProbs, Mode, Pixels, check_pixels, is_forked
from crnn.model.crnn import CRNN


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
        self._mode, self._threads = mode, torch.get_num_threads()
        self._device = torch.device(device)
        self._precision = precision
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._network = network.to(self._device).to(memory_format=self._format)  # type: ignore[call-overload]

    def log_probs(self, images: Pixels) -> LogProbs:
        """Return log-probabilities, computed in evaluation mode; see ``Engine``."""
        check_pixels(images, self._network.image_channels)
        was_training = self._network.training
        # Several threads wait for each other in every operation, on busy cores long; in a fork, for ones that are not.
        one_thread = is_forked() or (self._mode == "throughput" and len(images) == 1)
        if one_thread:
            torch.set_num_threads(1)
        self._network.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"),
            ):
                values = network_input(
                    torch.from_numpy(images).to(self._device), self._network.image
                )  # as bytes, a quarter of the way
                logits = self._network(values.contiguous(memory_format=self._format))
                result: LogProbs = logits.float().log_softmax(-1).cpu().numpy()
        finally:
            self._network.train(was_training)
            if one_thread:  # not what was before, which another thread may have set to 1
                torch.set_num_threads(self._threads)
        return result
