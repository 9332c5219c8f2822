"""The settings of a run: one frozen tree, checked once and never changed afterwards.

Read from TOML by ``crnn.config_file``. The resolved tree is stored in the run folder and in every weights file, and
``model``, ``image`` and ``charset`` are all that a reader needs to rebuild its network.

The ModelZoo's parameters keep their names. Those that follow from other settings (``class_num``, ``input_size``,
``num_step``, ``blank``) may be given and are then checked; a contradiction is an error that says both values.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crnn.charset import Case, Charset, LabelRules, Unicode, Unknown, Whitespace
from crnn.config_section import Section, Share
from crnn.errors import CharsetError
from crnn.synth.settings import CameraConfig, CorpusConfig, FaceConfig, LookConfig, SynthConfig

__all__ = [
    "BACKBONE_CHANNELS",
    "AugmentConfig",
    "CharsetConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "ImageConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "ReaderConfig",
    "TrainConfig",
    "time_steps",
]

BACKBONE_CHANNELS = {"vgg": 512, "small": 256}
"""Depth D of the feature sequence that each backbone gives to the LSTMs (the ModelZoo's ``input_size``)."""

HIDDEN_SIZES = {"vgg": 256, "small": 128}
"""Units per direction of each LSTM layer where ``model.hidden_size`` is not given."""

MIN_IMAGE_WIDTH = 16


def time_steps(width: int) -> int:
    """Number of time steps T that an image of ``width`` pixels has in the network: 24 for 100 pixels.

    Two poolings halve the width and the last convolution, 2 wide and not padded, takes one more column.
    """
    return width // 4 - 1


class ModelConfig(Section):
    """The network."""

    backbone: Literal["vgg", "small"] = "vgg"
    """``vgg``: the seven convolutions of the paper (8.3 M parameters). ``small``: for CPUs (1.4 M)."""

    batch_norm: Literal["all", "paper"] = "all"
    """Batch normalisation after every convolution (ModelZoo) or after the 3rd, 5th and 7th (paper)."""

    hidden_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Units of each LSTM per direction. Default: 256 for ``vgg`` (paper, ModelZoo), 128 for ``small``."""

    use_dropout: bool = False
    """Dropout between the two LSTM layers while training (ModelZoo: on)."""

    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of activations that ``use_dropout`` sets to zero (ModelZoo: 0.1, a keep probability of 0.9)."""

    class_num: int | None = None
    """Number of classes with the blank. Follows from the charset; when given it is checked."""

    input_size: int | None = None
    """Depth of the features that enter the first LSTM. Follows from the backbone; when given it is checked."""

    num_step: int | None = None
    """Time steps of an ``image_width`` wide picture. Follows from the width; when given it is checked."""

    blank: int | None = None
    """Class id of the CTC blank. Always the last class; when given it is checked."""

    @property
    def lstm_size(self) -> int:
        """Units of each LSTM per direction, with the backbone's own where ``hidden_size`` is not given."""
        return self.hidden_size or HIDDEN_SIZES[self.backbone]


class ImageConfig(Section):
    """The array that the network sees."""

    image_height: int = 32
    """Pixels. The backbones are made for 32."""

    image_width: Annotated[int, Field(ge=MIN_IMAGE_WIDTH, le=4096)] = 100
    """Pixels of every picture under ``resize = "squash"`` (paper and ModelZoo: 100, PARSeq: 128)."""

    image_channels: Literal[1, 3] = 1
    """1: grey (paper). 3: red, green, blue (ModelZoo)."""

    resize: Literal["squash", "keep_ratio"] = "squash"
    """``squash`` every picture to ``image_width``, or ``keep_ratio`` and round to a multiple of ``width_step``."""

    width_step: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 16
    """Pixels between the widths that ``keep_ratio`` rounds to. Pictures of one width share a batch, unpadded."""

    min_width: Annotated[int, Field(ge=MIN_IMAGE_WIDTH, le=4096)] = 32
    """Narrowest width in pixels under ``keep_ratio``; narrower pictures are stretched to it."""

    max_width: Annotated[int, Field(ge=MIN_IMAGE_WIDTH, le=4096)] = 512
    """Widest width in pixels under ``keep_ratio``; wider pictures are squashed to it."""

    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How pictures are resized (DTRB, PARSeq: bicubic). Always with antialiasing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_height != 32:
            raise ValueError(f"image_height is {self.image_height}; the backbones are made for 32")
        if self.min_width > self.max_width:
            raise ValueError(f"min_width {self.min_width} is above max_width {self.max_width}")
        return self


class CharsetConfig(Section):
    """What the network can write, and how labels are made to fit it."""

    characters: str = "36"
    """36, 62, 94, or the characters themselves in the order of their class ids (a space counts)."""

    case: Literal["auto", Case] = "auto"
    """``auto``: lower-case labels when the charset has no capitals, upper-case when it has only capitals."""

    unicode: Literal["auto", Unicode] = "auto"
    """Unicode form of labels. ``auto``: ``ascii`` (NFKD, rest removed; PARSeq) for ASCII charsets, else NFC."""

    whitespace: Literal["auto", Whitespace] = "auto"
    """``auto``: removed when the charset has no space (PARSeq), else runs of it become one space."""

    unknown: Unknown = "drop_character"
    """What becomes of characters outside the charset (PARSeq: drop_character, DTRB: drop_sample)."""

    max_text_length: Annotated[int, Field(ge=1)] = 25
    """Longest label in characters; samples with longer ones are skipped and counted (DTRB, PARSeq: 25)."""

    truncate: bool = False
    """Cut longer labels to ``max_text_length`` instead (the ModelZoo does, at 23)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            Charset(self.characters)
        except CharsetError as error:
            raise ValueError(str(error)) from None
        return self

    def charset(self) -> Charset:
        """The charset of these settings."""
        return Charset(self.characters)

    def rules(self) -> LabelRules:
        """The label rules of these settings, with every ``auto`` decided by the characters."""
        characters = self.charset().characters
        case: Case = "keep"
        if self.case != "auto":
            case = self.case
        elif characters == characters.lower() and characters != characters.upper():
            case = "lower"
        elif characters == characters.upper() and characters != characters.lower():
            case = "upper"
        unicode: Unicode = "ascii" if characters.isascii() else "NFC"
        whitespace: Whitespace = "collapse" if " " in characters else "remove"
        return LabelRules(
            case=case,
            unicode=unicode if self.unicode == "auto" else self.unicode,
            whitespace=whitespace if self.whitespace == "auto" else self.whitespace,
            unknown=self.unknown,
            max_length=self.max_text_length,
            truncate=self.truncate,
        )


class DataConfig(Section):
    """Where samples come from."""

    train: tuple[str, ...] = ()
    """LMDB folders and list files to train on, relative to the current folder; ``synth`` is rendered text."""

    ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Share of each batch per source of ``train``. Default: in proportion to the number of samples; with ``synth``
    beside stored sets they must be given."""

    shards: Literal["all", "own"] = "all"
    """``own``: of a set in shards each rank reads its own ones only, the others need not be on its machine."""

    validation: tuple[str, ...] = ()
    """Sets that choose the best weights, evaluated every ``eval.eval_steps``; ``NAME=PATH`` names one."""

    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes per rank that read and augment, or draw words; 0 does it in the training process. Batches do not depend
    on it. Default: 1 on a CPU, which has better things to do; beside an accelerator all cores but two, at most 16."""

    worker_start: Literal["fork", "spawn", "forkserver"] = "fork"
    """How workers start; ``spawn`` where a library in the process does not survive a fork."""

    max_bad_share: Share = 0.01
    """Largest share of unreadable pictures before the run stops (at least ten have to be met)."""

    bucket_batches: Annotated[int, Field(ge=1, le=4096)] = 32
    """Under ``keep_ratio``, batches whose samples are sorted by width together; more means less distortion."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ratios and len(self.ratios) != len(self.train):
            raise ValueError(f"ratios has {len(self.ratios)} numbers for {len(self.train)} sources in train")
        return self


class AugmentConfig(Section):
    """Random changes to stored pictures while training; each strength is the end of a uniform range, 0 is off."""

    probability: Share = 0.0
    """Share of pictures that are changed at all. 0 turns augmentation off."""

    rotate_degrees: Annotated[float, Field(ge=0.0, le=45.0)] = 5.0
    """Largest rotation, either way (Baek et al. 2021 found 15 best for CRNN, with cropping); less for long lines."""

    shear: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Largest horizontal shift per vertical pixel: slant."""

    perspective: Annotated[float, Field(ge=0.0, le=0.5)] = 0.08
    """Largest move of each corner, as a share of the picture's height, or of its width where that is smaller."""

    crop: Annotated[float, Field(ge=0.0, le=0.3)] = 0.06
    """Largest margin cut from or added to each side, as a share of the height, or of the width where it is smaller."""

    stretch: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Largest change of the width before resizing, as a share of it; has an effect under ``keep_ratio``."""

    contrast: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    """Largest relative change of contrast, and of brightness in half ranges, limited so that text stays visible."""

    invert: Share = 0.2
    """Share of changed pictures whose light and dark are exchanged."""

    blur: Annotated[float, Field(ge=0.0, le=5.0)] = 0.8
    """Largest sigma of a Gaussian blur, in pixels of a 32 pixel high picture."""

    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 6.0
    """Largest standard deviation of Gaussian noise, in grey levels of 255."""

    low_resolution: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    """Largest factor by which a 32 pixel high picture is shrunk and enlarged again; smaller ones less; 1 is off."""


class OptimConfig(Section):
    """How the weights move."""

    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """AdamW (MindOCR, PARSeq); SGD with momentum (ModelZoo); or Muon (Jordan et al. 2024) for the matrices inside of
    the network and AdamW for the rest, with the learning rate of AdamW."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak learning rate for the batch as it is; it is not scaled by the number of ranks."""

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of SGD (ModelZoo: 0.95) and Muon (its author: 0.95), and AdamW's beta1."""

    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """AdamW's second moment; shorter than 0.999 because runs are short."""

    nesterov: bool = True
    """Nesterov momentum for SGD (ModelZoo: on) and Muon."""

    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled for AdamW and Muon, added to the gradient for SGD. Never applied to biases and normalisation."""

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
    """Batches per optimiser step."""

    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the running average of the weights, which is then what is evaluated and kept; 0 is off."""


class ObjectiveConfig(Section):
    """What is minimised beside CTC. The network that is read with stays the same; all is off unless it is asked for."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the loss that is the KL divergence of every frame from the uniform distribution, summed over frames, as
    CTC is (Kim et al. 2017, arXiv 1711.02212)."""

    focal_gamma: Annotated[float, Field(ge=0.0, le=8.0)] = 0.0
    """A sample that is read with probability p counts ``(1 - p) ** gamma`` times (Feng et al. 2019)."""

    shortcut_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of CTC from the convolutions, past the LSTMs (Retsinas et al. 2022, arXiv 2404.11339: 0.1)."""

    guide_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a decoder with attention that reads from the convolutions (GTC, Hu et al. 2020, arXiv 2002.01276;
    PP-OCRv3: 1)."""

    consistency_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the difference between two disturbed views of each picture (CR-CTC, Yao et al. 2024, arXiv 2410.05101:
    0.2). Above 0 the network sees each picture twice: half of ``train.batch_size`` costs the same, as in the paper."""

    distillation_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of every frame's own class in the best alignment, summed over frames (DCTC, Zhang et al. 2023,
    arXiv 2308.08806)."""

    blank_bias: Annotated[float, Field(ge=-20.0, le=20.0)] = 0.0
    """Added to the initial bias of the blank, in nats. Above 0 a run starts where CTC leads it first anyway, at blanks
    (after Lin et al. 2017, arXiv 1708.02002, who start at the prior of a rare class): 4 is about the share of blanks in
    the frames of short words. A warm start brings its own."""


class TrainConfig(Section):
    """The loop."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples per step and rank (ModelZoo: 64 per card)."""

    epoch_size: Annotated[int, Field(ge=1)] = 10
    """Passes over the training data (ModelZoo: 10); ``num_steps`` takes its place when given."""

    num_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps of the whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the weights, the order and the augmentation (ModelZoo: 1)."""

    device: str = "auto"
    """``auto`` (an accelerator where there is one), ``cpu``, ``cuda``, ``npu``, or any other device of torch."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``bf16``: autocast. ``auto``: bf16 where the device multiplies it faster than fp32, else fp32."""

    channels_last: bool = True
    """Memory order of pictures and convolutions; faster on most devices, the same results."""

    compile: Literal["auto"] | bool = "auto"
    """Compile the convolutions (torch.compile): less memory traffic, and a minute more at the start. ``auto``: on CUDA,
    for pictures of one width, where a compiler is at hand. On the CPU it made training slower."""

    cuda_graph: bool = False
    """Start the forward and backward pass of a batch as one CUDA graph: pays where the processor is the slower one. One
    rank, one width, no accumulation."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of torch on the CPU. Default: torch's own choice."""

    sync_batch_norm: bool = True
    """Ranks share batch statistics, so that n ranks compute what one rank with the whole batch would."""

    rank_timeout: Annotated[float, Field(ge=1.0)] = 600.0
    """Seconds that a rank waits for another one before it ends with an error. More than rank 0 needs to write a
    checkpoint, and more than one rank needs longer than another to look at its data."""

    warm_start: str | None = None
    """Weights file or run folder to start from. Rows of shared characters are kept when the charset differs."""

    non_finite: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is not finite: ``stop`` ends the run and names the samples; ``skip`` names and counts
    them and goes on, with weights, optimiser and averages as they were. Ten such steps in a row end the run anyway."""

    log_steps: Annotated[int, Field(ge=1)] = 20
    """Steps between two lines of ``metrics.jsonl``."""

    log_format: Literal["crnn", "modelzoo"] = "crnn"
    """``modelzoo`` prints the ModelZoo's lines (``epoch: 1 step: 1, loss is ...``) to stdout."""

    tensorboard: bool = True
    """Write scalars and a few pictured readings for TensorBoard, where it is installed."""


class EvalConfig(Section):
    """How a run is validated."""

    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two validations. Default: as often as checkpoints are saved."""

    protocol: Literal["parseq", "clovaai", "modelzoo"] = "parseq"
    """Rules for labels and readings; see ``crnn evaluate``."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    """Pictures per forward pass. Results do not depend on it."""


class CheckpointConfig(Section):
    """What is kept of a run."""

    save_checkpoint: bool = True
    """Save checkpoints from which ``--resume`` goes on. The best and last weights are always written."""

    save_checkpoint_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps between two checkpoints (ModelZoo: 1000)."""

    keep_checkpoint_max: Annotated[int, Field(ge=1)] = 3
    """Checkpoints that are kept; the oldest goes first (ModelZoo: 30)."""

    save_checkpoint_path: str = "runs/crnn"
    """The run folder: settings, checkpoints, weights, metrics."""


class ReaderConfig(Section):
    """What a weights file carries: enough to rebuild its network and feed it."""

    model: ModelConfig = ModelConfig()
    image: ImageConfig = ImageConfig()
    charset: CharsetConfig = CharsetConfig()

    @model_validator(mode="after")
    def _check_derived(self) -> Self:
        charset = self.charset.charset()
        derived = {
            "class_num": (charset.num_classes, "the charset has that many characters and the blank"),
            "blank": (charset.blank, "the blank is the last class"),
            "input_size": (BACKBONE_CHANNELS[self.model.backbone], f"backbone {self.model.backbone} gives that depth"),
            "num_step": (time_steps(self.image.image_width), f"image_width is {self.image.image_width}"),
        }
        for key, (expected, why) in derived.items():
            given = getattr(self.model, key)
            if given is not None and given != expected:
                raise ValueError(f"model.{key} is {given} but must be {expected}: {why}. Leave it out or correct it")
        return self


class Config(ReaderConfig):
    """All settings of a training run."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    synth: SynthConfig = SynthConfig()
    corpus: CorpusConfig = CorpusConfig()
    faces: FaceConfig = FaceConfig()
    look: LookConfig = LookConfig()
    camera: CameraConfig = CameraConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def reader(self) -> ReaderConfig:
        """The part that a weights file carries."""
        return ReaderConfig(model=self.model, image=self.image, charset=self.charset)
