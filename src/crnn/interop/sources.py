"""Layouts of CRNNs that other projects publish, and their tensors turned into those of ``crnn.model.crnn``.

What is changed changes no output but by rounding: a bias before batch normalization goes into the mean, another epsilon
into the variance; two linear layers with nothing between become one (in float64); the blank becomes the last class; a
first convolution for BGR becomes one for RGB. Read in: meijieru/crnn.pytorch (MIT), ``models/crnn.py``; clovaai/
deep-text-recognition-benchmark (Apache-2.0), ``model.py``, ``modules/``; baudm/parseq (Apache-2.0), ``strhub/models/
crnn``; open-mmlab/mmocr (Apache-2.0), ``configs/textrecog/crnn``; mindspore-ai/models (Apache-2.0), ``official/cv/
CRNN``; mindspore-lab/mindocr (Apache-2.0), ``configs/rec/crnn``.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crnn.config.model import HIDDEN_SIZES
from crnn.errors import CheckpointError
from crnn.model.backbones import BACKBONES, BATCH_NORM

Arrays = dict[str, npt.NDArray[Any]]

_MAX_JOINED = 1 << 26  # values of joined layers
_EPSILON = 1e-5  # of our batch normalization, torch's default
_DIGITS_LOWER = string.digits + string.ascii_lowercase
_PARSEQ = _DIGITS_LOWER + string.ascii_uppercase + string.punctuation  # and DTRB's --sensitive


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A project's CRNN: where its tensors are, and what its images and classes are.

    ``convolutions`` and ``norms`` name seven modules each, of which some norms may be missing; ``rnn1`` and ``rnn2``
    are names of LSTM tensors, with braces for the part and the direction; of ``heads`` one comes after the other.
    """

    name: str
    title: str
    licence: str
    marks: tuple[str, ...]  # tensors that tell it from the others
    convolutions: tuple[str, ...]
    norms: tuple[str, ...]
    rnn1: str
    rnn2: str
    neck: str | None
    heads: tuple[str, ...]
    characters: Mapping[int, str]  # by number of classes, where that leaves no doubt
    blank_first: bool = True
    bgr: bool = False
    epsilon: float = _EPSILON
    pooling: str = "modelzoo"
    image: Mapping[str, Any] = field(default_factory=dict)  # settings of ``ImageConfig``
    unused: tuple[str, ...] = ()  # beginnings of names of tensors that its network never reads


def _numbered(pattern: str, numbers: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)) -> tuple[str, ...]:
    return tuple(pattern.format(number) for number in numbers)


_CLOVAAI = (0, 3, 6, 8, 11, 14, 18)  # convolutions in its ``Sequential``
_ONES = (1, 2, 3, 4, 5, 6, 7)
_BILINEAR, _MEAN_127 = {"interpolation": "bilinear"}, {"mean": 127.0, "std": 127.0}
_MODELZOO: dict[str, Any] = {
    "name": "mindspore", "licence": "Apache-2.0",
    "convolutions": _numbered("vgg.conv{}.conv", _ONES), "norms": _numbered("vgg.conv{}.bn", _ONES),
    "characters": {37: string.ascii_lowercase + string.digits}, "blank_first": False, "bgr": True, "epsilon": 1e-4,
    "image": _BILINEAR,
}  # fmt: skip

SOURCES = (
    Source(
        name="clovaai", title="clovaai DTRB None-VGG-BiLSTM-CTC", licence="Apache-2.0",
        marks=("FeatureExtraction.ConvNet.0.weight", "SequenceModeling.0.linear.weight"),
        convolutions=_numbered("FeatureExtraction.ConvNet.{}", _CLOVAAI),
        norms=_numbered("FeatureExtraction.ConvNet.{}", tuple(number + 1 for number in _CLOVAAI)),
        rnn1="SequenceModeling.0.rnn.{}_l0{}", rnn2="SequenceModeling.1.rnn.{}_l0{}",
        neck="SequenceModeling.0.linear", heads=("SequenceModeling.1.linear", "Prediction"),
        characters={37: _DIGITS_LOWER, 95: _PARSEQ},
    ),
    Source(
        name="meijieru", title="meijieru/crnn.pytorch", licence="MIT",
        marks=("cnn.conv0.weight", "rnn.0.embedding.weight"),
        convolutions=_numbered("cnn.conv{}"), norms=_numbered("cnn.batchnorm{}"),
        rnn1="rnn.0.rnn.{}_l0{}", rnn2="rnn.1.rnn.{}_l0{}", neck="rnn.0.embedding", heads=("rnn.1.embedding",),
        characters={37: _DIGITS_LOWER}, pooling="paper", image=_BILINEAR,
    ),
    Source(
        name="parseq", title="PARSeq's crnn", licence="Apache-2.0 (the network's code MIT)",
        marks=("cnn.conv0.weight", "rnn.0.linear.weight"),
        convolutions=_numbered("cnn.conv{}"), norms=_numbered("cnn.batchnorm{}"),
        rnn1="rnn.0.rnn.{}_l0{}", rnn2="rnn.1.rnn.{}_l0{}", neck="rnn.0.linear", heads=("rnn.1.linear",),
        characters={37: _DIGITS_LOWER, 63: _PARSEQ[:62], 95: _PARSEQ}, pooling="paper", image={"image_width": 128},
    ),
    Source(
        name="mmocr", title="MMOCR CRNN mini-vgg", licence="Apache-2.0",
        marks=("backbone.cnn.conv0.weight", "decoder.decoder.0.embedding.weight"),
        convolutions=_numbered("backbone.cnn.conv{}"), norms=_numbered("backbone.cnn.batchnorm{}"),
        rnn1="decoder.decoder.0.rnn.{}_l0{}", rnn2="decoder.decoder.1.rnn.{}_l0{}",
        neck="decoder.decoder.0.embedding", heads=("decoder.decoder.1.embedding",),
        characters={37: _DIGITS_LOWER}, blank_first=False, bgr=True, pooling="paper",
        image={"resize": "keep_ratio", **_BILINEAR, **_MEAN_127},
    ),
    Source(
        title="MindSpore ModelZoo CRNN V2", marks=("vgg.conv1.conv.weight", "rnn.0.embedding.weight"),
        rnn1="rnn.0.rnn.{}_l0{}", rnn2="rnn.1.rnn.{}_l0{}", neck="rnn.0.embedding", heads=("rnn.1.embedding",),
        unused=("vgg.bn1.",), **_MODELZOO,
    ),
    Source(
        title="MindSpore ModelZoo CRNN V1", marks=("vgg.conv1.conv.weight", "w1"),
        rnn1="rnn1.{}_l0{}", rnn2="rnn2.{}_l0{}", neck=None, heads=("fc",),
        unused=("vgg.bn1.", "w2_bw", "b2_bw"), **_MODELZOO,
    ),
    Source(
        name="mindocr", title="MindOCR crnn_vgg7", licence="Apache-2.0",
        marks=("backbone.conv1.conv.weight", "neck.seq_encoder.weight_ih_l0"),
        convolutions=_numbered("backbone.conv{}.conv", _ONES), norms=_numbered("backbone.conv{}.bn", _ONES),
        rnn1="neck.seq_encoder.{}_l0{}", rnn2="neck.seq_encoder.{}_l1{}", neck=None, heads=("head.dense1",),
        characters={37: _DIGITS_LOWER}, blank_first=False, epsilon=1e-4, image={**_BILINEAR, **_MEAN_127},
    ),
)  # fmt: skip

_PREFIXES = ("module.", "model.", "network.", "_backbone.", "_orig_mod.")
_OPTIMIZER = re.compile(
    r"(moments?|accum|stat|moment[12]|momentum|learning_rate|global_step|beta[12]_power|epoch_num|step_num|scale_sense"
    r"|current_iterator_step|last_overflow_iterator_step)(\.|$)"
)
_MINDSPORE_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

# Names in networks that are known and not read.
_REFUSED = (
    (r"Transformation\.", "a rectification (TPS) in front of the network"),
    (r"stn|.*localization", "a rectification (STN) in front of the network"),
    (r"Prediction\.attention_cell", "an attention decoder in place of CTC"),
    (r"FeatureExtraction\.ConvNet\.(conv0_1|layer\d)", "a ResNet as its backbone"),
    (r"FeatureExtraction\.ConvNet\.\d+\.wgf_u", "an RCNN as its backbone"),
    (r"feat_extractor\.", "docTR's layers: a backbone of 13 convolutions or a MobileNet, and images padded in black"),
    (r".*(\.se\.|\.se_module|depthwise|_se\.)", "squeeze-and-excitation or depthwise convolutions (MobileNet)"),
    (r".*(layers?\d*|blocks?\d*)\.\d+\.", "residual blocks (ResNet) or others that are not the paper's"),
    (
        r"rnn\.\d\.rnn\.weight$",
        "LSTM weights in one flat tensor, as MindSpore wrote them before 1.6; save them anew there",
    ),
)


def named_plainly(arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return the tensors of a network by torch's names, without common prefixes and states of optimizers."""
    found = {name: array for name, array in arrays.items() if not _OPTIMIZER.match(name)}
    while found and (prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in found)), None)):
        found = {name[len(prefix) :]: array for name, array in found.items()}
    named: Arrays = {}
    for name, array in found.items():
        module, dot, last = name.rpartition(".")
        named[f"{module}{dot}{_MINDSPORE_NAMES.get(last, last)}"] = array
    return named


def _from_dynamic_rnn(arrays: Arrays) -> Arrays:
    """Turn the weights of MindSpore's ``DynamicRNN``, ``(inputs + hidden, 4 * hidden)``, into those of an LSTM."""
    for new, old in (("rnn1.{}_l0", "{}1"), ("rnn1.{}_l0_reverse", "{}1_bw"), ("rnn2.{}_l0", "{}2")):
        if {old.format("w"), old.format("b")} <= arrays.keys():
            weight, bias = arrays.pop(old.format("w")), arrays.pop(old.format("b"))
            hidden = bias.size // 4
            # Gates are input, cell, forget, output there; torch has forget before cell.
            weight, bias = (
                a.reshape(*a.shape[:-1], 4, hidden)[..., [0, 2, 1, 3], :].reshape(a.shape) for a in (weight, bias)
            )
            arrays |= {
                new.format("weight_ih"): weight[:-hidden].T, new.format("weight_hh"): weight[-hidden:].T,
                new.format("bias_ih"): bias, new.format("bias_hh"): np.zeros_like(bias),
            }  # fmt: skip
    return arrays


def recognized(arrays: Arrays, wanted: str, path: str) -> Source:
    """Return the source of tensors, by their names; ``CheckpointError`` says what the others are."""
    for pattern, what in _REFUSED:
        if (found := next((name for name in arrays if re.match(pattern, name)), None)) is not None:
            raise CheckpointError(f"{path}: has {what} ({found}); expected the paper's network, it cannot be imported")
    for source in SOURCES:
        if wanted in ("auto", source.name) and all(mark in arrays for mark in source.marks):
            return source
    names = ", ".join(dict.fromkeys(source.name for source in SOURCES)) if wanted == "auto" else f"--from {wanted}"
    raise CheckpointError(
        f"{path}: its {len(arrays)} tensors are not named as those of {names}; the first are {', '.join([*arrays][:4])}"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """Tensors by our names, float32, the settings of the network that they are of, and what was changed."""

    tensors: Arrays
    model: dict[str, Any]
    image_channels: int
    num_classes: int
    changes: tuple[str, ...]


def converted(source: Source, arrays: Arrays, path: str) -> Converted:
    """Turn the tensors of a source into ours; ``CheckpointError`` names those that are missing or left over."""
    left = {name: array.astype(np.float64) for name, array in arrays.items()}
    try:
        found = _converted(source, _from_dynamic_rnn(left))
    except KeyError as error:
        raise CheckpointError(f"{path}: has no {error.args[0]}; expected the whole network of {source.title}") from None
    except (ValueError, IndexError, TypeError) as error:  # of numpy, on arrays of other dimensions
        raise CheckpointError(f"{path}: {error}; expected the shapes of {source.title}") from None
    if surplus := [name for name in left if not name.startswith(source.unused)]:
        raise CheckpointError(
            f"{path}: has {len(surplus)} tensors that {source.title} has not: {', '.join(surplus[:4])}"
        )
    for name, tensor in found.tensors.items():
        if not np.isfinite(tensor).all() or (name.endswith("running_var") and tensor.min(initial=0) < 0):
            raise CheckpointError(f"{path}: {name} has nan, inf or a variance below 0; it is damaged, or never learned")
    return found


def _converted(source: Source, left: Arrays) -> Converted:
    """Turn tensors, each of which is taken out of ``left``."""
    tensors: Arrays = {}
    changes: dict[str, None] = {}
    for name in (*source.convolutions, *source.heads):  # numpy would repeat one number
        if (bias := left.get(f"{name}.bias")) is not None and bias.shape != left[f"{name}.weight"].shape[:1]:
            raise ValueError(f"{name}.bias has shape {bias.shape}")
    kernels = [left.pop(f"{name}.weight") for name in source.convolutions]
    widths, ours = [len(kernel) for kernel in kernels], [layer.channels for layer in BACKBONES["vgg"]]
    if widths != ours:
        hint = "; EasyOCR's second generation reads images 64 pixels high, and cannot be imported" * (widths[0] == 32)
        raise ValueError(f"its convolutions have {widths} channels, ours {ours}{hint}")
    numbers = tuple(n for n, norm in enumerate(source.norms, start=1) if f"{norm}.running_var" in left)
    batch_norm = next((name for name, which in BATCH_NORM.items() if which == numbers), None)
    if batch_norm is None:
        raise ValueError(f"batch normalization follows the convolutions {numbers}, ours {[*BATCH_NORM.values()]}")
    if source.bgr and kernels[0].shape[1] == 3:
        kernels[0] = kernels[0][:, ::-1]
        changes["first convolution from BGR to RGB"] = None
    for number, kernel in enumerate(kernels, start=1):
        tensors[f"backbone.conv{number}.weight"] = kernel
        conv, norm = source.convolutions[number - 1], source.norms[number - 1]
        if number not in numbers:
            tensors[f"backbone.conv{number}.bias"] = left.pop(f"{conv}.bias")
            continue
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"backbone.norm{number}.{part}"] = left.pop(f"{norm}.{part}")
        tensors[f"backbone.norm{number}.num_batches_tracked"] = np.zeros((), np.int64)
        if (bias := left.pop(f"{conv}.bias", None)) is not None:
            tensors[f"backbone.norm{number}.running_mean"] -= bias
            changes["biases before batch normalization into its mean"] = None
        if source.epsilon != _EPSILON:
            tensors[f"backbone.norm{number}.running_var"] += source.epsilon - _EPSILON
            changes[f"epsilon {source.epsilon:g} of batch normalization into its variance"] = None
    for ours_name, theirs in (("rnn1", source.rnn1), ("rnn2", source.rnn2)):
        for direction in ("", "_reverse"):
            if direction and ours_name == "rnn2" and theirs.format("weight_ih", direction) not in left:
                continue  # forwards only
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                tensors[f"{ours_name}.{part}_l0{direction}"] = left.pop(theirs.format(part, direction))
    if source.neck is not None:
        tensors |= {f"neck.{part}": left.pop(f"{source.neck}.{part}") for part in ("weight", "bias")}
    weight, bias = (left.pop(f"{source.heads[0]}.{part}") for part in ("weight", "bias"))
    for name in source.heads[1:]:
        matrix = left.pop(f"{name}.weight")
        if matrix.shape[0] * weight.shape[-1] > _MAX_JOINED:
            raise ValueError(f"{name}.weight has shape {matrix.shape}")
        weight, bias = matrix @ weight, matrix @ bias + left.pop(f"{name}.bias")
        changes["the last two linear layers joined"] = None
    if source.blank_first:
        weight, bias = np.roll(weight, -1, axis=0), np.roll(bias, -1, axis=0)
        changes["the blank from the first class to the last"] = None
    tensors |= {"head.weight": weight, "head.bias": bias}
    hidden = tensors["rnn1.weight_hh_l0"].shape[1]
    model = {
        "batch_norm": batch_norm, "pooling": source.pooling, "neck": "none" if source.neck is None else "linear",
        "rnn2": "both" if "rnn2.weight_hh_l0_reverse" in tensors else "forward",
    }  # fmt: skip
    model |= {} if hidden == HIDDEN_SIZES["vgg"] else {"hidden_size": hidden}
    floats = {n: t if t.dtype == np.int64 else np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}
    return Converted(floats, model, kernels[0].shape[1], len(bias), tuple(changes))
