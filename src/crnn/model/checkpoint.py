"""Weights files and checkpoints, written and read with torch. Nothing is pickled: safetensors and JSON.

A *weights file* (``crnn.model.weights``) rebuilds its network alone; a *checkpoint* (``crnn.training.run_folder``) also
continues a run. Both are written atomically, so that an existing file is whole, and carry a SHA-256 against changes.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from crnn.charset import Charset
from crnn.config.model import ReaderConfig
from crnn.errors import CheckpointError
from crnn.files import atomic_write
from crnn.model.crnn import CRNN, build_model
from crnn.model.weights import (
    FORMAT_VERSION,
    WEIGHTS_FORMAT,
    Weights,
    read_tensor_file,
    read_weights_with,
    tensor_digest,
)


def build_network(weights: Weights[Tensor]) -> CRNN:
    """Return the network with these weights, on the CPU, in evaluation mode."""
    config = weights.config
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=0)
    expected = network.state_dict()
    wrong = [n for n in expected if n not in weights.tensors or weights.tensors[n].shape != expected[n].shape]
    wrong += [n for n in weights.tensors if n not in expected]
    if wrong:
        raise CheckpointError(
            f"weights {weights.path}: tensors do not fit the network of its settings: {', '.join(wrong[:3])}"
        )
    network.load_state_dict(weights.tensors)
    return network.eval()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata as one safetensors file with a checksum, atomically."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    texts["sha256"] = tensor_digest(save_safetensors(held), texts)
    atomic_write(path, save_safetensors(held, metadata=texts), CheckpointError)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a file from ``write_tensors``."""
    return read_tensor_file(path, load_safetensors)


def save_weights(path: Path, state: Mapping[str, Tensor], config: ReaderConfig, info: Mapping[str, Any]) -> None:
    """Write a weights file, atomically; of ``config`` only model, image and charset are kept.

    ``info`` has JSON-able facts for people: step, accuracy, settings of the run.
    """
    metadata = {
        "format": WEIGHTS_FORMAT,
        "format_version": FORMAT_VERSION,
        "crnn_version": version("crnn"),
        "config": config.reader().model_dump(mode="json", exclude_none=True),
        "characters": config.charset.charset().characters,
        "info": dict(info),
    }
    write_tensors(path, state, metadata)


def load_weights(source: str | Path) -> Weights[Tensor]:
    """Read a weights file, or the best weights of a run folder.

    Raises:
        CheckpointError: Missing, truncated, damaged, foreign, or from a newer version.
    """
    return read_weights_with(load_safetensors, source)


def warm_start(network: CRNN, charset: Charset, weights: Weights[Tensor]) -> str:
    """Copy weights into a network with another charset, and so another last layer, in place.

    The last layer keeps the rows of common characters and of the blank. A new character starts with the row of the one
    that the old label rules made of it, its other case or base letter (``A`` and ``Ä`` with that of ``a``), since
    images of it were read as that; the rest start new. All other layers must fit. A line on the rows is returned.
    """
    state = build_network(weights).state_dict()
    own = network.state_dict()
    old_charset = weights.config.charset.charset()
    # Each character that a reader with the old settings could name, with its old form.
    rules = replace(weights.config.charset.rules(), max_length=None)
    forms = {c: c if c in old_charset else rules.form(c) for c in charset.characters}
    sources = {c: form for c, form in forms.items() if len(form) == 1 and form in old_charset}
    to_rows = torch.tensor([*map(charset.characters.index, sources), charset.blank])
    from_rows = torch.tensor([*map(old_charset.characters.index, sources.values()), old_charset.blank])
    head = ("head.weight", "head.bias")
    wrong = [n for n in own if n not in head and (n not in state or state[n].shape != own[n].shape)]
    wrong += [n for n in state if n not in own]
    model, image = weights.config.model, weights.config.image
    fault = ""
    if wrong:
        there, here = (tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else None for tensors in (state, own))
        fault = f"its network is another one ({wrong[0]} has shape {there}, here {here})"
    elif (model.pooling, image.mean, image.std) != (network.pooling, network.image.mean, network.image.std):
        fault = "its pooling, mean or std are others"
    if fault:
        raise CheckpointError(
            f"cannot start from {weights.path}: {fault}; there: backbone {model.backbone}, batch_norm "
            f"{model.batch_norm}, hidden_size {model.lstm_size}, neck {model.neck}, rnn2 {model.rnn2}, pooling "
            f"{model.pooling}, image_channels {image.image_channels}, mean {image.mean:g}, std {image.std:g}"
        )
    for name in head:
        state[name] = own[name].clone().index_copy(0, to_rows, state[name][from_rows])
    network.load_state_dict(state)
    shared = sum(c == source for c, source in sources.items())
    changes = {
        "begun as their other case or base letter": [c for c, source in sources.items() if c != source],
        "new": [c for c in charset.characters if c not in sources],
        "left behind": [c for c in old_charset.characters if c not in sources.values()],
    }
    told = "".join(f", {what}: {''.join(characters)!r}" for what, characters in changes.items() if characters)
    return f"warm start from {weights.path}: {shared} characters and the blank kept{told}"
