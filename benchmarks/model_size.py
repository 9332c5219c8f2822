"""Parameters and multiply-adds of both backbones at 32 x 100, layer by layer.

python benchmarks/model_size.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crnn.model import CRNN, build_model
from crnn.reader_config import ImageConfig, ModelConfig


def multiply_adds(network: CRNN, width: int) -> dict[str, int]:
    """Multiply-adds of each layer for one picture of ``width`` pixels, counted while it is read."""
    counts: dict[str, int] = {}
    hooks = []

    def count(name: str) -> object:
        def hook(module: nn.Module, _: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            result = output if isinstance(output, Tensor) else output[0]
            if isinstance(module, nn.Conv2d):
                counts[name] = module.weight.numel() * result.shape[-1] * result.shape[-2]
            elif isinstance(module, nn.Linear):
                counts[name] = module.weight.numel() * result.shape[1]
            elif isinstance(module, nn.LSTM):
                weights = sum(p.numel() for n, p in module.named_parameters() if n.startswith("weight"))
                counts[name] = weights * result.shape[1]

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.LSTM):
            hooks.append(module.register_forward_hook(count(name)))  # type: ignore[arg-type]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, network.image_channels, network.height, width))
    for hook in hooks:
        hook.remove()
    return counts


def main() -> None:
    """Print a table per backbone."""
    image = ImageConfig()
    for model in (ModelConfig(backbone="vgg"), ModelConfig(backbone="small")):
        network = build_model(model, image, num_classes=37, seed=0)
        counts = multiply_adds(network, image.image_width)
        total = sum(counts.values())
        parameters = sum(p.numel() for p in network.parameters())
        size = f"{network.height} x {image.image_width}"
        print(f"{model.backbone}: {parameters:,} parameters, {total / 1e6:.1f} M multiply-adds at {size}")
        for name, value in counts.items():
            print(f"  {name:<16}{value / 1e6:8.1f} M  {100 * value / total:5.1f} %")


if __name__ == "__main__":
    main()
