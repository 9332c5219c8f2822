"""What several tests share: drawn words, small sets of them, images of all kinds, log-probabilities."""

import io
import itertools
import math
import os
import random
import signal
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from crnn.config.model import CharsetConfig, ImageConfig, ReaderConfig
from crnn.config.run import parse_config
from crnn.data.formats.records import Box, Reader, Record, Skipped
from crnn.errors import ImageError
from crnn.image import load_image
from crnn.recognizer import Recognizer
from crnn.synth.font_check import shipped_folder

# The same examples on every machine and in every run: a test that fails, fails for everyone.
hypothesis.settings.register_profile("crnn", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("crnn")


# What tests start imports ONNX Runtime in many ways; none of them tells its vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


# Started in the background of a script, or under nohup, this process has been told to ignore them, and those that it
# starts would be, too: tests of Ctrl-C and of closed terminals would then test that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def constant(value):
    """Return a fixture of something that no test changes; as a decorator, of the function."""
    return pytest.fixture(scope="session")(lambda: value)


def pytest_addoption(parser):
    """Our own flags."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew; look at the difference")


def draw_word(text, size=None, *, kind="PNG"):
    """``text`` in black on white, as an encoded image; about 12 pixels a character where no size is given."""
    width, height = size or (max(16, 12 * len(text) + 8), 32)
    image = Image.new("L", (width, height), 255)
    ImageDraw.Draw(image).text((4, 4), text, fill=0, font=ImageFont.load_default(min(20, height)))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_list(folder, labels):
    """A list file of drawn words: ``images/N.png<TAB>label``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, label in enumerate(labels, start=1):
        (folder / "images" / f"{number}.png").write_bytes(draw_word(label))
        lines.append(f"images/{number}.png\t{label}\n")
    path = folder / "labels.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def random_labels(count, seed=0, characters="abcdefghij", lengths=(1, 4)):
    """Words of random characters, the same for the same seed."""
    rng = random.Random(seed)
    return ["".join(rng.choices(characters, k=rng.randint(*lengths))) for _ in range(count)]


@pytest.fixture
def word_list(tmp_path):
    """A function that makes a list file of ``count`` drawn words in a folder of its own."""

    def make(count=64, name="words", seed=0, labels=None):
        return write_list(tmp_path / name, labels if labels is not None else random_labels(count, seed))

    return make


image_of = constant(draw_word)


@pytest.fixture
def small_config(tmp_path):
    """A function that makes settings of a run of a dozen steps that takes about a second.

    ``data`` are the training sets, ``folder`` is the run folder's name; sections are given as mappings.
    """

    def make(*data, folder="run", **sections):
        values = {
            "model": {"backbone": "small", "hidden_size": 16},
            "image": {"image_width": 64},
            "charset": {"characters": "abcdefghij"},
            "data": {"train": [str(path) for path in data], "workers": 0},
            "train": {
                "batch_size": 8, "num_steps": 12, "device": "cpu", "precision": "fp32", "threads": 1, "log_steps": 1,
                "tensorboard": False,
            },
            "checkpoint": {"save_checkpoint_path": str(tmp_path / folder)},
        }  # fmt: skip
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}
        return parse_config(values)

    return make


@pytest.fixture(scope="session", autouse=True)
def own_font_cache(tmp_path_factory):
    """What is remembered of fonts stays with the tests: the user's cache is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


SYNTH_WORDS = ["Harbour", "bakery", "NORTH", "street", "O'Neil", "co-op", "Zürich", "quick", "taxi", "exit", "jam"]


@pytest.fixture
def synth_config(tmp_path, small_config):
    """``small_config`` with rendered text to train on: some fonts, a dozen words, few textures, a small pool."""
    (tmp_path / "some_words.txt").write_text("\n".join(SYNTH_WORDS), encoding="utf-8")

    def make(*data, folder="run", **sections):
        values = {
            "charset": {"characters": "36"},
            "data": {"train": [str(path) for path in data] or ["synth"]},
            "synth": {"pool_size": 128},
            "corpus": {"words": [str(tmp_path / "some_words.txt")]},
            "fonts": {
                "folders": [str(shipped_folder() / name) for name in ("open-sans", "anton", "bangers", "pacifico")]
            },
            "style": {"texture_tiles": 4},
        }
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}
        return small_config(folder=folder, **values)

    return make


@pytest.fixture
def one_thread():
    """torch computes with one thread, so that nothing depends on the machine; afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------------
# Readers: one without a network, whose every number is known, and a trained one


ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyz0123456789"


@constant
def barcode(text, characters=ALPHANUMERIC, scale=1):
    """``text`` as grey bars on white, 32 pixels high, in a PNG: what ``BarcodeEngine`` reads without an error.

    Character i fills the pixels [16 i + 6, 16 i + 14), which are those of the time steps 4 i + 1 and 4 i + 2.
    """
    pixels = np.full((32, 16 * len(text) + 16), 255, dtype=np.uint8)
    for i, character in enumerate(text):
        pixels[:, 16 * i + 6 : 16 * i + 14] = characters.index(character) * (240 // len(characters))
    return encode(Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)))


class BarcodeEngine:
    """Reads ``barcode``: a step has probability 0.9 for what it sees, and the rest for all else alike.

    With ``doubt``, two characters, a step that sees the first has 0.6 for it and 0.3 for the second.
    """

    def __init__(self, characters, doubt=""):
        self.num_classes, self.grey = len(characters) + 1, 240 // len(characters)
        self.doubt = [characters.index(c) for c in doubt]
        self.shapes: list[tuple[int, ...]] = []

    def log_probs(self, images):
        self.shapes.append(images.shape)
        levels = images[:, 0, 16, 4::4][:, : images.shape[3] // 4 - 1].astype(np.float64)
        classes = np.minimum(np.rint(levels / self.grey).astype(int), self.num_classes - 1)
        probabilities = np.full((*classes.shape, self.num_classes), 0.1 / (self.num_classes - 1))
        np.put_along_axis(probabilities, classes[..., None], 0.9, axis=2)
        if self.doubt:
            seen = classes == self.doubt[0]
            probabilities[seen] = 0.1 / (self.num_classes - 2)
            probabilities[seen, self.doubt[0]], probabilities[seen, self.doubt[1]] = 0.6, 0.3
        return np.log(probabilities).astype(np.float32)


@pytest.fixture(scope="session")
def barcode_reader():
    """A function that makes a recogniser of barcodes; its engine is the attribute ``_engine``."""

    def make(characters=ALPHANUMERIC, image=None, doubt="", **options):
        config = ReaderConfig(
            image=ImageConfig(**{"resize": "keep_ratio", **(image or {})}), charset=CharsetConfig(characters=characters)
        )
        return Recognizer(BarcodeEngine(characters, doubt), config, **options)

    return make


class TrainedRun(NamedTuple):
    """A run folder, the list file that it was trained on, and the words there."""

    folder: Path
    words: Path
    labels: list[str]


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A small network that learned a dozen words by heart, in some seconds. Nobody writes into its folders."""
    import torch

    from crnn.training.loop import train

    root = tmp_path_factory.mktemp("trained")
    labels = ["cat", "dog", "ten", "42", "tree", "bird", "2024", "coat", "net", "bed", "acid", "card"]
    words = write_list(root / "words", labels)
    values = {
        "model": {"backbone": "small", "hidden_size": 32},
        "image": {"image_width": 48},
        "data": {"train": [str(words)], "validation": [str(words)], "workers": 0},
        "optim": {"learning_rate": 6e-3, "momentum": 0.7, "warmup": 0.1},
        "train": {
            "batch_size": 12, "num_steps": 260, "device": "cpu", "precision": "fp32", "threads": 1,
            "tensorboard": False,
        },
        "eval": {"eval_steps": 260},
        "checkpoint": {"save_checkpoint_path": str(root / "run"), "save_checkpoint_steps": 260},
    }  # fmt: skip
    threads = torch.get_num_threads()
    try:
        report = train(parse_config(values))
    finally:
        torch.set_num_threads(threads)
    assert report.best_accuracy == 1.0
    return TrainedRun(root / "run", words, labels)


# ---------------------------------------------------------------------------------------------------------------------
# Images of all kinds


def encode(image, form="PNG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


encode_image = constant(encode)


@constant
def noise(height, width, channels=3, seed=0):
    """Return random pixels ``(H, W, C)``, or ``(H, W)`` for one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@constant
def smooth_image(width=40, height=24):
    """Return an image that JPEG and WebP keep well, different in every corner."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((np.stack([x, y, (1 - x) * (1 - y)], axis=-1) * 255).astype(np.uint8))


def make_png_chunk(kind, body):
    """One part of a PNG file, with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


png_chunk = constant(make_png_chunk)


@constant
def png_by_hand(width, height, depth=8, color=0, body=b"", extra=b""):
    """Return a PNG that Pillow does not write; ``body`` are the rows, ``extra`` the chunks before them."""
    header = make_png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = make_png_chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + make_png_chunk(b"IEND", b"")


@constant
def reason_of(source, channels=1):
    """Return the reason for which ``load_image`` refuses an image."""
    with pytest.raises(ImageError) as caught:
        load_image(source, channels)
    return caught.value.reason


# ---------------------------------------------------------------------------------------------------------------------
# Sets to convert


class GivenReader(Reader):
    """A reader of what the test gives it."""

    def __init__(self, root, items):
        self.root = root
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


@pytest.fixture
def mixed_words(tmp_path):
    """40 samples: 32 whole images with two lexicons, 5 words of a scene, and 3 of no use."""
    root = tmp_path / "set"
    (root / "a folder").mkdir(parents=True)
    scene = Image.new("RGB", (200, 100), "white")
    ImageDraw.Draw(scene).text((20, 20), "Hello there", fill="black")
    scene.save(root / "scene.png")
    items = []
    for number in range(32):
        path = f"a folder/wörd {number}.jpg"
        (root / path).write_bytes(draw_word(str(number), kind="JPEG"))
        items.append(Record(path, f"wörd{number}", path, lexicon=("one", "two"), large_lexicon=("one", "two", "three")))
    items[10:10] = [Record(f"scene.png#{n}", f"s{n}", "scene.png", Box(10 * n, 10, 40, 20)) for n in range(1, 6)]
    items.insert(12, Skipped("nobody", "no_label"))
    items.insert(20, Record("scene.png#6", "far", "scene.png", Box(500, 0, 10, 10)))
    items.insert(30, Record("gone.png", "gone", "gone.png"))
    return GivenReader(root, items)


given_reader = constant(GivenReader)


@constant
def records_of(folder):
    """Return all records of an LMDB folder."""
    import lmdb

    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


# ---------------------------------------------------------------------------------------------------------------------
# Log-probabilities, (N, T, V) or (T, V); the blank is the last class


@st.composite
def draw_small_log_probs(draw):
    """From small whole weights, so that zeros (-inf) and exact ties are frequent."""
    num_samples, num_steps, num_classes = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.integers(2, 4))
    step = st.lists(st.integers(0, 4), min_size=num_classes, max_size=num_classes).filter(any)
    steps = draw(st.lists(step, min_size=num_samples * num_steps, max_size=num_samples * num_steps))
    weights = np.array(steps, dtype=np.float64).reshape(num_samples, num_steps, num_classes)
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum(axis=2, keepdims=True))


small_log_probs = constant(draw_small_log_probs())


@constant
def random_log_probs(seed, num_samples, num_steps, num_classes, sharpness=1.0, dtype=np.float64):
    """Draw normal logits; the sharper, the less probable most texts."""
    logits = sharpness * np.random.default_rng(seed).normal(size=(num_samples, num_steps, num_classes))
    return log_softmax(logits).astype(dtype)


def log_softmax(logits):
    logits = logits - logits.max(axis=2, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))


@constant
def peaked_log_probs(seed, num_samples=8, num_steps=24, num_classes=37, dtype=np.float32):
    """Draw what looks like a trained network: mostly blanks, one class of each step far above."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_samples, num_steps, num_classes))
    peaks = rng.integers(0, num_classes, (num_samples, num_steps, 1))
    peaks[rng.random(peaks.shape) < 0.5] = num_classes - 1
    np.put_along_axis(logits, peaks, rng.uniform(3.0, 9.0, peaks.shape), axis=2)
    return log_softmax(logits).astype(dtype)


@constant
def path_sums(log_probs):
    """For each text that ``(T, V)`` can show: its probability, and that of its best path."""
    num_steps, num_classes = log_probs.shape
    parts = {}
    for path in itertools.product(range(num_classes), repeat=num_steps):
        probability = math.prod(math.exp(log_probs[t, k]) for t, k in enumerate(path))
        text = tuple(k for k, _ in itertools.groupby(path) if k != num_classes - 1)
        parts.setdefault(text, []).append(probability)
    return {text: (math.fsum(found), max(found)) for text, found in parts.items()}
