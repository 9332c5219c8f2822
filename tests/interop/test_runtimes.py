"""Exports for other runtimes: the graphs in ONNX Runtime, and, where they are installed, the runtimes themselves."""

import importlib.util
import json
import math
import os
import re
import sys
import tarfile
import types
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import crnn.engines.onnx_graph
import crnn.interop.runtimes
from crnn.config.model import CharsetConfig, ImageConfig, ModelConfig, ReaderConfig
from crnn.engines.loading import open_model
from crnn.errors import ConfigError, DataError, ExportMismatchError
from crnn.export import rendered_images
from crnn.image import resize
from crnn.interop.runtimes import export_for
from crnn.model.checkpoint import save_weights
from crnn.model.crnn import build_model
from crnn.recognizer import load

pytestmark = pytest.mark.usefixtures("one_thread")

LINES = ImageConfig(resize="keep_ratio", min_width=48, max_width=160)
KINDS = {
    "squash": ImageConfig(image_width=68),
    "lines": LINES,
    "narrow letters": LINES.model_copy(update={"width_step": 32, "width_scale": 0.7}),
    "imported": LINES.model_copy(update={"mean": 127.0, "std": 120.0}),
    "color": LINES.model_copy(update={"image_channels": 3, "interpolation": "bilinear"}),
}


@pytest.fixture
def random_weights(tmp_path_factory):
    """A function that saves a network of random weights, whose texts would change with anything."""

    def make(image, characters="abcde", **model):
        config = ReaderConfig(
            image=image,
            model=ModelConfig(**{"backbone": "small", "hidden_size": 16, **model}),
            charset=CharsetConfig(characters=characters),
        )
        network = build_model(config.model, config.image, len(characters) + 1, seed=3)
        with torch.no_grad():
            network.head.weight *= 40  # else it would give nearly the same at every step
        path = tmp_path_factory.mktemp("weights") / "any.safetensors"
        save_weights(path, network.state_dict(), config, {})
        return path

    return make


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def padded(images, value, widest=0):
    """Images (H, W, 3) in [-1, 1] in one batch (N, 3, 32, W), each followed by columns of ``value``."""
    widest = max(widest, *(image.shape[1] for image in images))
    batch = np.full((len(images), 3, 32, widest), value, np.float32)
    for place, image in enumerate(images):
        batch[place, :, :, : image.shape[1]] = image.transpose(2, 0, 1) / np.float32(127.5) - 1
    return batch


def crops(noise, widths=(17, 50, 71, 98, 133, 230)):
    return [np.maximum(noise(32, width, seed=width), 1) for width in widths]


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        *((kind, {}) for kind in KINDS),
        ("lines", {"backbone": "vgg"}),
        ("imported", {"neck": "none", "rnn2": "forward", "batch_norm": "dtrb"}),
    ],
)
def test_padding_changes_nothing(kind, model, random_weights, noise, tmp_path):
    weights = random_weights(KINDS[kind], **model)
    engine, config, _ = open_model(weights, engine="onnx")
    images = crops(noise)
    expected = []
    for image in images:
        given = (
            image if config.image.image_channels == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]
        )
        expected.append(engine.log_probs(resize(given, config.image)[None])[0])
    for runtime, out, value, first in (("rapidocr", "any.onnx", 0.0, True), ("onnxtr", "any", -1.0, False)):
        export_for(runtime, weights, tmp_path / out, **({} if first else {"width": 240}))
        run = session(tmp_path / out if first else tmp_path / out / "model.onnx")
        feed = [image[:, :, ::-1] for image in images] if first else images
        (together,) = run.run(None, {"x": padded(feed, value, 240)})
        scores = np.log(together) if first else together
        scores = np.roll(scores, -1, axis=2) if first else scores
        for n, wanted in enumerate(expected):
            steps = len(wanted)
            found = scores[n, :steps] - np.log(np.exp(scores[n, :steps]).sum(1, keepdims=True))
            # A pixel of the resized image may be rounded to its neighbor.
            np.testing.assert_allclose(found, wanted, atol=5e-3)
            assert (scores[n, steps:].argmax(1) == len("abcde")).all()
            (alone,) = run.run(None, {"x": padded([feed[n]], value, 0 if first else 240)})
            np.testing.assert_allclose(alone[0, :steps], together[n, :steps], atol=1e-5)
            assert alone.shape[1] == steps


def test_networks_that_a_runtime_does_not_provide_for_are_refused(random_weights, tmp_path):
    weights = random_weights(LINES, pooling="paper")
    with pytest.raises(
        ConfigError,
        match=r"--for rapidocr: these weights have pooling 'paper', as .*; expected 'modelzoo', or --for opencv",
    ):
        export_for("rapidocr", weights, tmp_path / "a.onnx")
    assert export_for("opencv", weights, tmp_path / "o").equal
    with pytest.raises(ConfigError, match="--for easyocr: these weights have neck 'none'"):
        export_for("easyocr", random_weights(LINES, neck="none"), tmp_path / "words")


def test_an_image_without_anything_is_read(random_weights, tmp_path):
    export_for("rapidocr", random_weights(LINES), tmp_path / "any.onnx")
    (found,) = session(tmp_path / "any.onnx").run(None, {"x": np.zeros((2, 3, 32, 64), np.float32)})
    assert np.isfinite(found).all()


def test_the_files_of_each_runtime(random_weights, tmp_path):
    weights = random_weights(LINES, "ab ")
    names = {}
    for runtime, out in [("rapidocr", "a.onnx"), ("paddleocr", "p"), ("paddleocr", "p.tar"), ("opencv", "o"),
                         ("onnxtr", "t"), ("easyocr", "words")]:  # fmt: skip
        report = export_for(runtime, weights, tmp_path / out)
        assert report.equal == report.images
        names[out] = sorted(report.files)
        assert out in ("a.onnx", "p.tar") or names[out] == sorted(file.name for file in (tmp_path / out).iterdir())
    assert session(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map["character"].splitlines() == ["a", "b", " "]
    with tarfile.open(tmp_path / "p.tar") as archive:
        assert sorted(archive.getnames()) == names["p"] == ["inference.onnx", "inference.yml"]
        assert archive.extractfile("inference.yml").read() == (tmp_path / "p" / "inference.yml").read_bytes()
    settings = json.loads((tmp_path / "p" / "inference.yml").read_text())
    assert settings["PostProcess"]["character_dict"] == ["a", "b", " "]
    run = session(tmp_path / "o" / "model.onnx")
    assert (run.get_inputs()[0].shape, run.get_outputs()[0].shape) == ([1, 1, 32, 128], [31, 1, 4])
    assert (tmp_path / "o" / "vocabulary.txt").read_text() == "a\nb\n \n"
    settings = json.loads((tmp_path / "t" / "config.json").read_text())
    assert (settings["vocab"], settings["input_shape"]) == ("ab ", [3, 32, 256])
    assert names["words"] == ["words.pth", "words.py", "words.yaml"]
    assert not re.search(r"^\s*(import|from) crnn", (tmp_path / "words" / "words.py").read_text(), re.MULTILINE)
    state = torch.load(tmp_path / "words" / "words.pth", weights_only=True)
    assert all(key.startswith("module.") for key in state)


def test_a_squashing_network_has_its_width_in_opencv(random_weights, tmp_path):
    weights = random_weights(KINDS["squash"])
    export_for("opencv", weights, tmp_path / "o")
    assert session(tmp_path / "o" / "model.onnx").get_inputs()[0].shape == [1, 1, 32, 68]
    export_for("onnxtr", weights, tmp_path / "t")  # which keeps the ratio; the graph squashes
    assert json.loads((tmp_path / "t" / "config.json").read_text())["input_shape"] == [3, 32, 256]


def test_a_width_of_choice(random_weights, tmp_path):
    weights = random_weights(LINES)
    export_for("opencv", weights, tmp_path / "o", width=200)
    assert session(tmp_path / "o" / "model.onnx").get_inputs()[0].shape == [1, 1, 32, 200]
    export_for("onnxtr", weights, tmp_path / "t", width=400)
    assert json.loads((tmp_path / "t" / "config.json").read_text())["input_shape"] == [3, 32, 400]


@pytest.mark.parametrize(
    ("runtime", "out", "width", "message"),
    [
        ("tesseract", "a", None, "runtime is 'tesseract'; expected one of: rapidocr"),
        ("rapidocr", "a", None, r"OUT .*: expected a file OUT\.onnx for rapidocr"),
        ("opencv", "a.onnx", None, "expected a folder, without a suffix for opencv"),
        ("paddleocr", "a.zip", None, r"a folder, without a suffix or OUT\.tar for paddleocr"),
        ("easyocr", "my-words", None, "letters, digits and _"),
        ("rapidocr", "a.onnx", 100, "--width is 100 for rapidocr; expected"),
        ("opencv", "a", 8, "expected 16 to 4096"),
        ("opencv", "none/a", None, "expected a file in a folder that exists"),
    ],
)
def test_what_is_refused(runtime, out, width, message, random_weights, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export_for(runtime, random_weights(LINES), tmp_path / out, width=width)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(random_weights, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(DataError, match="exists already; expected a new or empty folder"):
        export_for("opencv", random_weights(LINES), tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes"]


@pytest.mark.parametrize("runtime", ["rapidocr", "opencv"])
def test_characters_that_end_lines_are_refused(runtime, random_weights, tmp_path):
    weights = random_weights(LINES, "ab\u2028c")
    with pytest.raises(ConfigError, match=r"a line for each character, and '\\u2028' ends lines; train without it"):
        export_for(runtime, weights, tmp_path / ("a.onnx" if runtime == "rapidocr" else "a"))
    export_for("onnxtr", weights, tmp_path / "t")  # a string has no lines


def test_a_network_that_reads_otherwise_is_not_written(random_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(crnn.interop.runtimes, "_blank_first", lambda weights: weights)
    for runtime, out in (("rapidocr", "a.onnx"), ("opencv", "o"), ("easyocr", "words")):
        with pytest.raises(ExportMismatchError, match=r"not written, .* of 24 drawn words differ"):
            export_for(runtime, random_weights(LINES), tmp_path / out)
    assert not list(tmp_path.iterdir())


# ---- in the runtimes themselves ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that returns the export of shipped weights for a runtime, made once."""
    made = {}

    def get(model, runtime, **options):
        key = (model, runtime, *options.values())
        if key not in made:
            name = re.sub(r"\W", "_", "_".join(map(str, key))) + (".onnx" if runtime == "rapidocr" else "")
            made[key] = tmp_path_factory.mktemp("exported") / name
            export_for(runtime, model, made[key], **options)
        return made[key]

    return get


MODELS = ["crnn-small", "crnn-vgg"]


@pytest.fixture(scope="module")
def words():
    """Rendered words and lines as (H, W, 3), 32 pixels high, whose last column is unlike any padding."""
    config = ReaderConfig(image=ImageConfig(resize="keep_ratio", max_width=240))
    batches = rendered_images(config, 20)
    images = [np.repeat(pixels.transpose(1, 2, 0)[:, :-1], 3, axis=2) for batch in batches for pixels in batch]
    images = [image for image in images if image.shape[1] > 40]  # EasyOCR turns the ratio of tall ones around
    for image in images:
        image[:, -1] ^= 16
    assert len({image.shape for image in images}) > 4
    return images


def texts(model, images):
    images = [np.asarray(Image.fromarray(image).convert("L")) for image in images]  # no runtime looks at colors again
    return [reading.text for reading in load(model, lm="none", engine="onnx", threads=1).read(images)]


def real_crops(count):
    folder = os.environ.get("CRNN_CROPS")
    files = sorted(path for path in Path(folder or "none").rglob("*") if path.suffix in (".png", ".jpg"))
    if len(files) < count:
        pytest.skip(f"CRNN_CROPS names no folder with {count} real crops")
    return [np.asarray(Image.open(path).convert("RGB")) for path in files[:: len(files) // count][:count]]


def rapidocr(path, images, batch=6):
    pytest.importorskip("rapidocr", reason="rapidocr is not installed: make test-interop")
    from rapidocr import RapidOCR
    from rapidocr.ch_ppocr_rec.typings import TextRecInput

    settings = {
        "Rec.model_path": str(path), "Rec.rec_img_shape": [3, 32, 320], "Rec.rec_batch_num": batch,
        "Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    }  # fmt: skip
    bgr = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
    return list(RapidOCR(params=settings)._load_rec_model()(TextRecInput(img=bgr)).txts)


def onnxtr(folder, images, batch=6):
    pytest.importorskip("onnxtr", reason="onnxtr is not installed: make test-interop")
    import huggingface_hub  # noqa: F401 - its own warnings come with the first import
    from onnxtr.models import EngineConfig, recognition_predictor
    from onnxtr.models.factory import hub

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with pytest.MonkeyPatch.context() as patch:  # a folder in the place of a repository
        patch.setattr(hub, "hf_hub_download", lambda repository, filename: str(Path(repository) / filename))
        model = hub.from_hub(str(folder), engine_cfg=EngineConfig(session_options=options))
    return [text for text, _ in recognition_predictor(model, batch_size=batch)(images)]


def opencv(folder, images, width=128):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed: make test-interop")
    model = cv2.dnn.TextRecognitionModel(cv2.dnn.readNetFromONNX(str(folder / "model.onnx")))
    model.setDecodeType("CTC-greedy")
    model.setVocabulary((folder / "vocabulary.txt").read_text("utf-8").split("\n")[:-1])
    model.setInputParams(1 / 127.5, (width, 32), (127.5, 127.5, 127.5))
    return [model.recognize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in images]


class ToTensor:
    """All that EasyOCR's recognition takes from torchvision, whose builds are bound to those of torch."""

    def __call__(self, image):
        return torch.from_numpy(np.array(image, dtype=np.float32)[None] / 255)


def easyocr_reader(folder):
    if importlib.util.find_spec("easyocr") is None or importlib.util.find_spec("cv2") is None:
        pytest.skip("easyocr is not installed: make test-interop")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("torchvision") is None:
            transforms = types.ModuleType("torchvision.transforms")
            transforms.ToTensor = ToTensor
            vision = types.ModuleType("torchvision")
            vision.transforms = transforms
            patch.setitem(sys.modules, "torchvision", vision)
            patch.setitem(sys.modules, "torchvision.transforms", transforms)
        patch.syspath_prepend(str(folder))
        import easyocr

        return easyocr.Reader(
            ["en"], gpu=False, recog_network=folder.name, model_storage_directory=str(folder),
            user_network_directory=str(folder), detector=False, download_enabled=False, quantize=False, verbose=False,
        )  # fmt: skip


def easyocr(folder, images):
    reader = easyocr_reader(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [reader.recognize(image[:, :, 0].copy(), detail=0, contrast_ths=0.0)[0] for image in images]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runtime", [rapidocr, onnxtr, easyocr], ids=lambda f: f.__name__)
def test_rendered_words_in_the_runtime(runtime, model, exported, words):
    found = runtime(exported(model, runtime.__name__), words)
    assert found == texts(model, words)
    assert len(set(found)) > 8


@pytest.mark.parametrize("runtime", [rapidocr, onnxtr], ids=lambda f: f.__name__)
def test_the_batch_does_not_matter(runtime, exported, words):
    folder = exported("crnn-small", runtime.__name__)
    assert runtime(folder, words, 1) == runtime(folder, words)


@pytest.mark.parametrize("model", MODELS)
def test_rendered_words_in_opencv(model, exported, words):
    found = opencv(exported(model, "opencv"), words)
    resized = [np.asarray(Image.fromarray(image).resize((128, 32), Image.Resampling.BILINEAR)) for image in words]
    engine, config, _ = open_model(model, engine="onnx")
    charset = config.charset.charset()
    from crnn.decoding.ctc import decode_greedy

    pixels = np.stack([image[None, :, :, 0] for image in resized])
    wanted = [charset.decode(text.ids) for text in decode_greedy(engine.log_probs(pixels))]
    # Pillow smooths what it makes smaller, OpenCV does not.
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) >= len(words) - 2


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("runtime", "least"), [(rapidocr, 0.95), (onnxtr, 0.95), (easyocr, 0.9), (opencv, 0.85)], ids=str
)
def test_real_crops_in_the_runtime(runtime, least, model, exported):
    images = real_crops(400)
    found = runtime(exported(model, runtime.__name__), images)
    equal = sum(a == b for a, b in zip(found, texts(model, images), strict=True))
    assert equal >= math.floor(least * len(images))


def test_the_graph_of_paddleocr_is_that_of_rapidocr(exported):
    """PaddleOCR pads as RapidOCR does; it was tried by hand, for its packages are large."""
    content = (exported("crnn-small", "paddleocr") / "inference.onnx").read_bytes()
    assert content in exported("crnn-small", "rapidocr").read_bytes()
