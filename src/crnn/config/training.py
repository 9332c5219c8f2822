"""Settings of training: data, augmentation, objective, optimizer, loop, validation and checkpoints."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crnn.config.section import Section, Share


class DataConfig(Section):
    """Sources of samples."""

    removed: ClassVar[Mapping[str, Any]] = {"shards": "all"}

    train: tuple[str, ...] = ()
    """LMDB folders and list files to train on, relative to the current folder; ``synth`` is rendered text."""

    ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Share of each batch per source of ``train``. Default: in proportion to the number of samples; required with
    ``synth`` beside stored sets. Under ``keep_ratio`` batches are wholly rendered or stored: ``synth`` has that share
    of the batches."""

    validation: tuple[str, ...] = ()
    """Sets by which the best weights are chosen, evaluated every ``eval.eval_steps``; ``NAME=PATH`` names one."""

    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes per rank that read and augment, or draw words; 0: the training process does. Batches do not depend on
    it. Default: 1 on a CPU; beside an accelerator all cores but two, at most 16."""

    worker_start: Literal["fork", "spawn", "forkserver"] = "fork"
    """Start method of workers; ``spawn`` where a library in the process does not survive a fork."""

    max_bad_share: Share = 0.01
    """Largest share of unreadable images before the run stops (after at least ten), of a validation set, too."""

    max_lost_share: Share = 0.5
    """Largest share of a source's labels left out or losing characters; more usually means a wrong charset."""

    bucket_batches: Annotated[int, Field(ge=1, le=4096)] = 32
    """Batches whose samples are sorted by width together under ``keep_ratio``; more means less distortion."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ratios and len(self.ratios) != len(self.train):
            raise ValueError(f"ratios has {len(self.ratios)} numbers for {len(self.train)} sources in train")
        return self


class AugmentConfig(Section):
    """Random changes to stored images in training; each strength is the end of a uniform range, 0 is off."""

    probability: Share = 0.0
    """Share of images that are changed at all. 0 turns augmentation off."""

    rotate_degrees: Annotated[float, Field(ge=0.0, le=45.0)] = 5.0
    """Largest rotation, either way (Baek et al. 2021 found 15 best for CRNN, with cropping); less for long lines."""

    shear: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Largest horizontal shift per vertical pixel: slant."""

    perspective: Annotated[float, Field(ge=0.0, le=0.5)] = 0.08
    """Largest move of each corner, as a share of the image's height, or of its width where that is smaller."""

    crop: Annotated[float, Field(ge=0.0, le=0.3)] = 0.06
    """Largest margin cut from or added to each side, as a share of the height, or of the width where it is smaller."""

    stretch: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Largest change of the width before resizing, as a share of it; has an effect under ``keep_ratio``."""

    contrast: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    """Largest relative change of contrast, and of brightness in half ranges, limited so that text stays visible."""

    invert: Share = 0.2
    """Share of changed images whose light and dark are exchanged."""

    blur: Annotated[float, Field(ge=0.0, le=5.0)] = 0.8
    """Largest sigma of a Gaussian blur, in pixels of a 32 pixel high image."""

    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 6.0
    """Largest standard deviation of Gaussian noise, in grey levels of 255."""

    low_resolution: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    """Largest factor by which a 32 pixel high image is shrunk and enlarged again; smaller ones less; 1 is off."""


class OptimConfig(Section):
    """Optimizer and schedule."""

    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """AdamW (MindOCR, PARSeq); SGD with momentum (ModelZoo); or Muon (Jordan et al. 2024) for the inner matrices and
    AdamW for the rest, at AdamW's learning rate."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak learning rate; not scaled by the number of ranks."""

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of SGD (ModelZoo: 0.95) and Muon (its author: 0.95), and AdamW's beta1."""

    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """AdamW's second moment; shorter than 0.999 because runs are short."""

    nesterov: bool = True
    """Nesterov momentum for SGD (ModelZoo: on) and Muon."""

    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled for AdamW and Muon, added to the gradient for SGD. Never applied to biases and normalization."""

    schedule: Literal["cosine", "one_cycle", "linear", "constant", "cosine_epoch"] = "one_cycle"
    """``cosine``, ``one_cycle`` (linear warm-up, then cosine) and ``linear`` (the same warm-up, then a line) per step;
    ``cosine_epoch``: the ModelZoo's steps."""

    warmup: Share = 0.075
    """Share of the run in which ``one_cycle`` and ``linear`` climb to the peak (PARSeq: 0.075)."""

    final_learning_rate: Annotated[float, Field(ge=0.0)] = 0.0
    """Learning rate at the end of the cosines and of the line."""

    clip_norm: Annotated[float, Field(ge=0.0)] = 5.0
    """Largest norm of the whole gradient (DTRB: 5, ModelZoo: 10, PARSeq: 20); 0 never clips."""

    accumulate_steps: Annotated[int, Field(ge=1)] = 1
    """Batches per optimizer step."""

    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the running average of the weights, which is then evaluated and kept; 0 is off."""


class ObjectiveConfig(Section):
    """CTC, its starting point, and a teacher."""

    removed: ClassVar[Mapping[str, Any]] = {
        "label_smoothing": 0.0, "focal_gamma": 0.0, "shortcut_weight": 0.0, "guide_weight": 0.0,
        "consistency_weight": 0.0, "distillation_weight": 0.0,
    }  # fmt: skip

    blank_bias: Annotated[float, Field(ge=-20.0, le=20.0)] = 0.0
    """Addition to the initial bias of the blank, in nats; no effect on a warm start. Above 0 a run starts at blanks,
    where CTC leads it first anyway (after Lin et al. 2017, arXiv 1708.02002); 4 is about the share of blanks in the
    frames of short words."""

    teacher: str | None = None
    """Weights file, run folder or name of a network that reads the training images, too: half of the loss is that of
    its likeliest texts (knowledge distillation). For a small network that learns from a better one. A step takes twice
    as long with ``crnn-vgg`` beside ``crnn-small``, on a CPU."""


class TrainConfig(Section):
    """Training loop."""

    removed: ClassVar[Mapping[str, Any]] = {"cuda_graph": False, "non_finite": "stop"}

    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples per step and rank (ModelZoo: 64 per card)."""

    epoch_size: Annotated[int, Field(ge=1)] = 10
    """Passes over the training data (ModelZoo: 10); ``num_steps`` overrides it."""

    num_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps of the whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the weights, the order and the augmentation (ModelZoo: 1)."""

    device: str = "auto"
    """``auto`` (an accelerator where there is one), ``cpu``, ``cuda``, ``npu``, or any other device of torch."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``bf16``: autocast. ``auto``: bf16 where the device multiplies it faster than fp32, else fp32."""

    channels_last: bool = True
    """Memory order of images and convolutions; faster on most devices, the same results."""

    compile: Literal["auto"] | bool = "auto"
    """Compile the convolutions (torch.compile): less memory traffic, a minute more at the start. ``auto``: on CUDA, for
    images of one width, where a compiler is at hand. On the CPU it made training slower."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of torch on the CPU. Default: torch's own choice."""

    sync_batch_norm: bool = True
    """Share batch statistics among ranks, so that n ranks compute the same as one with the whole batch."""

    rank_timeout: Annotated[float, Field(ge=1.0)] = 600.0
    """Seconds that a rank waits for another before it ends with an error. Must exceed the time to write a checkpoint
    and the difference between ranks in scanning their data."""

    warm_start: str | None = None
    """Weights file or run folder to start from. Where the charset differs, rows of shared characters are kept."""

    log_steps: Annotated[int, Field(ge=1)] = 20
    """Steps between two lines of ``metrics.jsonl``."""

    log_format: Literal["crnn", "modelzoo"] = "crnn"
    """``modelzoo`` prints the ModelZoo's lines (``epoch: 1 step: 1, loss is ...``) to stdout."""

    tensorboard: bool = True
    """Write scalars and a few readings with their images for TensorBoard, where it is installed."""


ProtocolName = Literal["parseq", "clovaai", "modelzoo", "lines"]  # of an evaluation


class EvalConfig(Section):
    """Validation."""

    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two validations. Default: as often as checkpoints are saved."""

    protocol: ProtocolName = "parseq"
    """Rules for labels and readings; see ``crnn evaluate``."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images per forward pass. Results do not depend on it."""


class CheckpointConfig(Section):
    """Checkpoints and the run folder."""

    save_checkpoint: bool = True
    """Save checkpoints for ``--resume``. The best and last weights are always written."""

    save_checkpoint_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps between two checkpoints (ModelZoo: 1000)."""

    keep_checkpoint_max: Annotated[int, Field(ge=1)] = 3
    """Number of checkpoints kept; the oldest goes first (ModelZoo: 30)."""

    save_checkpoint_path: str = "runs/crnn"
    """Run folder: settings, checkpoints, weights, metrics."""
