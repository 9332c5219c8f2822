"""``crnn import``: another project's weights as a weights file."""

import shlex
from typing import Annotated, Any, Literal

import typer

from crnn.config.model import ReaderConfig
from crnn.terminal import require_torch, show

_BASE = "crnn-vgg"  # preset of the command that is proposed
_OF_RATIO = ("width_step", "min_width", "max_width", "width_scale")  # settings without effect under squash


def import_weights(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    out: Annotated[str, typer.Argument(metavar="OUT.safetensors")],
    source: Annotated[
        Literal["auto", "clovaai", "meijieru", "parseq", "mmocr", "mindspore", "mindocr"], typer.Option("--from")
    ] = "auto",
    characters: str | None = None,
    width: int | None = None,
    resize: Literal["squash", "keep_ratio"] | None = None,
) -> int:
    """Write another project's CRNN as a weights file: to read with, evaluate, export, and train on.

    FILE is PyTorch's .pth, .pt or .ckpt, MindSpore's .ckpt, or safetensors. Networks that are not the paper's are
    refused, with the reason. In Python: ``crnn.interop.import_weights.import_weights``.

    Args:
        file: The file of weights; nothing in it is unpickled but tensors.
        out: The weights file to write.
        source: The project; auto: by the names of the tensors.
        characters: Characters in the order of its class ids, without the blank, or 36, 62, 94, 95; default: the
            project's own, where the number of classes leaves no doubt.
        width: Width in pixels of its images; default: the project's usual one, 100 or 128.
        resize: keep_ratio for a network that learned from images whose ratio was kept; default: the project's way.
    """
    require_torch("importing", "train")
    from crnn.interop.import_weights import import_weights as run

    done = run(file, out, source=source, characters=characters, width=width, resize=resize)
    model, image, charset = done.config.model, done.config.image, done.config.charset
    size = f"{image.image_width} x 32" if image.resize == "squash" else "32 pixels high, ratios kept"
    show(
        f"{done.path}: {done.source}, licence of the project's own weights: {done.licence}",
        f"  network: {model.backbone}, batch_norm {model.batch_norm}, pooling {model.pooling}, neck {model.neck}, "
        f"rnn2 {model.rnn2}, hidden_size {model.lstm_size}",
        f"  images: {'grey' if image.image_channels == 1 else 'RGB'}, {size}, {image.interpolation}, "
        f"(x - {image.mean:g}) / {image.std:g}",
        f"  {charset.charset().blank} characters: {charset.charset().characters}",
        f"  changed: {'; '.join(done.changes) or 'nothing but names'}",
        f"next: crnn evaluate {shlex.quote(str(done.path))} DATA, where wrong characters or preprocessing show at once",
        f"to train on: crnn train {_BASE} --train.warm_start {shlex.quote(str(done.path))} --data.train DATA "
        f"--optim.learning_rate 1e-4 {' '.join(training_flags(done.config))}",
    )
    return 0


def training_flags(config: ReaderConfig) -> list[str]:
    """Return the flags that give a training the network, images and characters of weights."""
    from crnn.config.run import load_config

    preset = load_config(_BASE)
    skipped = _OF_RATIO if config.image.resize == "squash" else ("image_width",)
    flags = []
    for section, given, default in (("model", config.model, preset.model), ("image", config.image, preset.image)):
        for key, value in given.model_dump(exclude_none=True).items():
            if key not in skipped and value != getattr(default, key):
                flags += [f"--{section}.{key}", _text(value)]
    return [*flags, "--charset.characters", shlex.quote(config.charset.characters), "--charset.language", "none"]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
