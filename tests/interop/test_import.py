"""Other projects' weights: networks of their layouts, written here in plain torch, give the same after the import."""

import json
import string

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crnn.cli import main
from crnn.data.dataset import network_input
from crnn.engines.loading import open_model
from crnn.errors import CheckpointError, ConfigError
from crnn.interop.import_weights import import_weights
from crnn.model.checkpoint import build_network, load_weights
from crnn.model.weights import read_weights

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS_LOWER = string.digits + string.ascii_lowercase
HIDDEN = 24
CHANNELS = (64, 128, 256, 256, 512, 512, 512)


class BidirectionalLSTM(nn.Module):
    def __init__(self, inputs, hidden, outputs, linear):
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.add_module(linear, nn.Linear(2 * hidden, outputs))
        self.linear_name = linear

    def forward(self, x):
        return self.get_submodule(self.linear_name)(self.rnn(x)[0])


def sequence_of(features):
    return features.squeeze(2).transpose(1, 2)


class Clovaai(nn.Module):
    """None-VGG-BiLSTM-CTC."""

    def __init__(self, channels=1, classes=37, width=512):
        super().__init__()
        a, b, c, d = width // 8, width // 4, width // 2, width
        relu, pool = nn.ReLU, nn.MaxPool2d
        self.FeatureExtraction = nn.Module()
        self.FeatureExtraction.ConvNet = nn.Sequential(
            nn.Conv2d(channels, a, 3, 1, 1), relu(), pool(2, 2),
            nn.Conv2d(a, b, 3, 1, 1), relu(), pool(2, 2),
            nn.Conv2d(b, c, 3, 1, 1), relu(), nn.Conv2d(c, c, 3, 1, 1), relu(), pool((2, 1), (2, 1)),
            nn.Conv2d(c, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d), relu(),
            nn.Conv2d(d, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d), relu(), pool((2, 1), (2, 1)),
            nn.Conv2d(d, d, 2, 1, 0), relu(),
        )  # fmt: skip
        self.SequenceModeling = nn.Sequential(
            BidirectionalLSTM(d, HIDDEN, HIDDEN, "linear"), BidirectionalLSTM(HIDDEN, HIDDEN, HIDDEN, "linear")
        )
        self.Prediction = nn.Linear(HIDDEN, classes)

    def forward(self, x):
        return self.Prediction(self.SequenceModeling(sequence_of(self.FeatureExtraction.ConvNet(x))))


class Paper(nn.Module):
    """meijieru's network, and those that followed it: PARSeq's, MMOCR's."""

    def __init__(self, channels=1, classes=37, linear="embedding", biases=True):
        super().__init__()
        self.cnn = nn.Sequential()
        depth = channels
        for i, width in enumerate(CHANNELS):
            kernel, padding = (2, 0) if i == 6 else (3, 1)
            normalized = i in (2, 4, 6)
            conv = nn.Conv2d(depth, width, kernel, 1, padding, bias=biases or not normalized)
            self.cnn.add_module(f"conv{i}", conv)
            if normalized:
                self.cnn.add_module(f"batchnorm{i}", nn.BatchNorm2d(width))
            self.cnn.add_module(f"relu{i}", nn.ReLU())
            if i in (0, 1):
                self.cnn.add_module(f"pooling{i}", nn.MaxPool2d(2, 2))
            elif i in (3, 5):
                self.cnn.add_module(f"pooling{i}", nn.MaxPool2d((2, 2), (2, 1), (0, 1)))
            depth = width
        self.rnn = nn.Sequential(
            BidirectionalLSTM(512, HIDDEN, HIDDEN, linear), BidirectionalLSTM(HIDDEN, HIDDEN, classes, linear)
        )

    def forward(self, x):
        return self.rnn(sequence_of(self.cnn(x)))


class MindSporeConvs(nn.Module):
    """The ModelZoo's convolutions without biases, or MindOCR's with them and fewer normalizations."""

    def __init__(self, normalized, biases):
        super().__init__()
        depth = 3
        for i, width in enumerate(CHANNELS, start=1):
            block = nn.Module()
            kernel, padding = (2, 0) if i == 7 else (3, 1)
            block.conv = nn.Conv2d(depth, width, kernel, 1, padding, bias=biases)
            if i in normalized:
                block.bn = nn.BatchNorm2d(width, eps=1e-4)
            self.add_module(f"conv{i}", block)
            depth = width

    def forward(self, x):
        for i in range(1, 8):
            block = self.get_submodule(f"conv{i}")
            x = block.conv(x)
            x = (block.bn(x) if hasattr(block, "bn") else x).relu()
            if i in (1, 2, 4, 6):
                x = nn.functional.max_pool2d(x, (2, 2) if i < 3 else (2, 1))
        return sequence_of(x)


class ModelZooV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.vgg = MindSporeConvs(range(1, 8), biases=False)
        self.vgg.bn1 = nn.BatchNorm2d(512)  # there, and unused
        self.rnn = nn.Sequential(
            BidirectionalLSTM(512, HIDDEN, HIDDEN, "embedding"), BidirectionalLSTM(HIDDEN, HIDDEN, 37, "embedding")
        )

    def forward(self, x):
        return self.rnn(self.vgg(x))


class ModelZooV1(nn.Module):
    """DynamicRNN: ``[x, h] @ w + b``, gates in the order input, cell, forget, output."""

    def __init__(self):
        super().__init__()
        self.vgg = MindSporeConvs(range(1, 8), biases=False)
        self.vgg.bn1 = nn.BatchNorm2d(512)
        for name, inputs in (("1", 512), ("1_bw", 512), ("2", 2 * HIDDEN), ("2_bw", 2 * HIDDEN)):
            self.register_parameter(f"w{name}", nn.Parameter(torch.randn(inputs + HIDDEN, 4 * HIDDEN) / 8))
            self.register_parameter(f"b{name}", nn.Parameter(torch.randn(4 * HIDDEN) / 4))
        self.fc = nn.Linear(HIDDEN, 37)

    def run(self, x, name):
        weight, bias = getattr(self, f"w{name}"), getattr(self, f"b{name}")
        h = c = x.new_zeros(len(x), HIDDEN)
        out = []
        for t in range(x.shape[1]):
            i, g, f, o = (torch.cat([x[:, t], h], 1) @ weight + bias).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out, 1)

    def forward(self, x):
        x = self.vgg(x)
        both = torch.cat([self.run(x, "1"), self.run(x.flip(1), "1_bw").flip(1)], 2)
        return self.fc(self.run(both, "2"))


class MindOCR(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = MindSporeConvs((3, 5, 7), biases=True)
        self.neck = nn.Module()
        self.neck.seq_encoder = nn.LSTM(512, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Module()
        self.head.dense1 = nn.Linear(2 * HIDDEN, 37)

    def forward(self, x):
        return self.head.dense1(self.neck.seq_encoder(self.backbone(x))[0])


def lively(network, seed=0, scale=0.2):
    """The network in evaluation mode with random numbers everywhere, so that outputs differ from image to image."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, scale):
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    normal(module.bias, 0.2)
            elif isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                for tensor in (module.bias, module.running_mean):
                    normal(tensor, 0.3)
            elif isinstance(module, nn.LSTM | nn.Linear):
                for parameter in module.parameters():
                    normal(parameter, scale)
        for name, parameter in network.named_parameters(recurse=False):  # DynamicRNN's
            normal(parameter, 0.05 if name.startswith("w1") else scale)
    return network.eval()


def pixels_of(channels, width=100, count=3):
    return np.random.default_rng(width).integers(0, 256, (count, channels, 32, width), dtype=np.uint8)


def expected(network, pixels, *, mean=127.5, bgr=False, blank_first=False):
    x = (torch.from_numpy(pixels).double() - mean) / mean
    with torch.inference_mode():
        found = network.double()(x.flip(1) if bgr else x).log_softmax(-1).numpy()
    return np.roll(found, -1, axis=2) if blank_first else found


def mindspore_names(state):
    """A state with the names that MindSpore has for it."""
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    found = {}
    for name, tensor in state.items():
        module, _, last = name.rpartition(".")
        if last != "num_batches_tracked":
            is_norm = f"{module}.running_mean" in state
            found[f"{module}.{names[last]}" if is_norm else name] = tensor.numpy()
    return found


def without_counters(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def mmocr_names(state):
    return {
        ("backbone." if n.startswith("cnn") else "decoder.decoder.") + n.removeprefix("rnn."): t
        for n, t in state.items()
    }


OLD = {"_use_new_zipfile_serialization": False}
PARSEQ = DIGITS_LOWER + string.ascii_uppercase + string.punctuation


def cases():
    """Name, network, how its file is made, how it sees images, and settings that the import finds."""
    yield (
        "clovaai", Clovaai, lambda n, p, _: torch.save(prefixed("module.", n.state_dict()), p, **OLD),
        {"blank_first": True}, {"batch_norm": "dtrb", "pooling": "modelzoo", "neck": "linear", "rnn2": "both"},
        DIGITS_LOWER,
    )  # fmt: skip
    yield (
        "clovaai-rgb-94", lambda: Clovaai(3, 95), lambda n, p, _: torch.save(n.state_dict(), p),
        {"blank_first": True}, {"batch_norm": "dtrb"}, PARSEQ,
    )  # fmt: skip
    yield (
        "meijieru", Paper, lambda n, p, _: torch.save(without_counters(n.state_dict()), p, **OLD),
        {"blank_first": True}, {"batch_norm": "paper", "pooling": "paper", "neck": "linear", "rnn2": "both"},
        DIGITS_LOWER,
    )  # fmt: skip
    yield (
        "parseq", lambda: Paper(3, 95, "linear", False),
        lambda n, p, _: torch.save(prefixed("model.", n.state_dict()), p),
        {"blank_first": True}, {"batch_norm": "paper", "pooling": "paper"}, PARSEQ,
    )  # fmt: skip
    yield (
        "mmocr", Paper,
        lambda n, p, _: torch.save({"meta": {"epoch": 5}, "state_dict": mmocr_names(n.state_dict())}, p),
        {"mean": 127.0}, {"batch_norm": "paper", "pooling": "paper"}, DIGITS_LOWER,
    )  # fmt: skip
    yield (
        "mindspore-v2", ModelZooV2,
        lambda n, p, make: p.write_bytes(make(mindspore_names(n.state_dict()), crc=True)),
        {"bgr": True}, {"batch_norm": "all", "pooling": "modelzoo"}, string.ascii_lowercase + string.digits,
    )  # fmt: skip
    yield (
        "mindspore-v1", ModelZooV1,
        lambda n, p, make: p.write_bytes(make(with_optimizer(prefixed("network.", mindspore_names(n.state_dict()))))),
        {"bgr": True}, {"neck": "none", "rnn2": "forward"}, string.ascii_lowercase + string.digits,
    )  # fmt: skip
    yield (
        "mindocr", MindOCR, lambda n, p, make: p.write_bytes(make(mindspore_names(n.state_dict()))),
        {"mean": 127.0}, {"neck": "none", "rnn2": "both", "batch_norm": "paper"}, DIGITS_LOWER,
    )  # fmt: skip
    yield (
        "mindocr-safetensors", MindOCR, lambda n, p, _: save_ms(mindspore_names(n.state_dict()), p),
        {"mean": 127.0}, {"neck": "none"}, DIGITS_LOWER,
    )  # fmt: skip


def with_optimizer(arrays):
    moments = {f"moments.{name.removeprefix('network.')}": np.zeros_like(array) for name, array in arrays.items()}
    return {**arrays, **moments, "learning_rate": np.float32(1), "global_step": np.array(3, np.int32)}


def save_ms(arrays, path):
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    save_file(tensors, path, metadata={"format": "ms"})


@pytest.mark.slow
@pytest.mark.parametrize("case", [*cases()], ids=lambda case: case[0])
def test_a_network_gives_the_same_after_the_import(case, tmp_path, make_checkpoint, record_property):
    name, make, save, seen, model, characters = case
    torch.manual_seed(0)
    network = lively(make())
    save(network, tmp_path / "theirs", make_checkpoint)
    done = import_weights(tmp_path / "theirs", tmp_path / "ours.safetensors")
    assert done.config.model.model_dump().items() >= model.items()
    assert done.config.charset.charset().characters == characters
    channels = done.config.image.image_channels
    engines = {e: open_model(done.path, engine=e, threads=1)[0] for e in ("torch", "onnx", "openvino")}
    ours = build_network(load_weights(done.path)).double()
    for width in (100, 61, 8):
        pixels = pixels_of(channels, width)
        wanted = expected(network, pixels, **seen)
        with torch.inference_mode():
            values = network_input(torch.from_numpy(pixels), done.config.image).double()
            exact = float(np.abs(ours(values).log_softmax(-1).numpy() - wanted).max())
        differences = {"float64": exact} | {
            e: float(np.abs(engine.log_probs(pixels) - wanted).max()) for e, engine in engines.items()
        }
        record_property(f"{name}, {width}", differences)
        assert exact <= 1e-6, differences  # the weights alone; the rest is what sums in float32 lose
        assert max(differences.values()) <= 1e-4, differences
    spread = np.exp(expected(network, pixels_of(channels), **seen))
    assert spread.std(axis=(0, 1)).max() > 0.001  # outputs depend on the image, a hundred times what is allowed


def test_what_is_told_and_kept(tmp_path, capsys):
    path, out = tmp_path / "crnn.pth", tmp_path / "ours.safetensors"
    torch.save(lively(Clovaai()).state_dict(), path)
    assert main(["import", str(path), str(out), "--from", "clovaai", "--width", "200"]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: clovaai DTRB None-VGG-BiLSTM-CTC" in printed
    assert f"36 characters: {DIGITS_LOWER}" in printed
    assert "grey, 200 x 32, bicubic" in printed
    assert f"next: crnn evaluate {out} DATA" in printed
    weights = read_weights(out)
    assert weights.config.image.image_width == 200
    imported = weights.info["imported"]
    assert imported["source"] == "clovaai DTRB None-VGG-BiLSTM-CTC"
    assert imported["licence"] == "Apache-2.0"
    assert len(imported["sha256"]) == 64
    assert imported["changes"] == [
        "the last two linear layers joined", "the blank from the first class to the last"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meijieru", "mindspore-v1"])
def test_it_is_evaluated_exported_and_trained_on(name, tmp_path, make_checkpoint, word_list, capsys):
    case = next(case for case in cases() if case[0] == name)
    torch.manual_seed(0)
    case[2](lively(case[1](), scale=0.1), tmp_path / "theirs", make_checkpoint)
    out, words, run = tmp_path / "ours.safetensors", word_list(24), tmp_path / "run"
    assert main(["import", str(tmp_path / "theirs"), str(out)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert main(["evaluate", str(out), str(words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["export", str(out), str(tmp_path / "ours.onnx"), "--precision", "int8", "--data", str(words)]) == 0
    capsys.readouterr()
    (image,) = (words.parent / "images").glob("1.png")
    assert main(["read", str(image), "--model", str(tmp_path / "ours.onnx"), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert main(["read", str(image), "--model", str(out), "--engine", "torch", "--json", "--lexicon", str(words)]) == 0
    assert len(read["characters"]) == len(read["text"])
    flags = line.partition(": crnn ")[2].replace("--data.train DATA", f"--data.train {words}").split()
    flags += ["--train.num_steps", "2", "--train.batch_size", "4", "--train.device", "cpu", "--data.workers", "0"]
    flags += [
        "--checkpoint.save_checkpoint_path",
        str(run),
        "--optim.learning_rate",
        "1e-9",
        "--train.tensorboard",
        "false",
    ]
    flags = [
        flag
        for n, flag in enumerate(flags)
        if "1e-4" not in flag and flags[n : n + 2] != ["--optim.learning_rate", "1e-4"]
    ]
    assert main(flags) == 0, capsys.readouterr().err
    before, after = read_weights(out), read_weights(run)
    assert after.config.model == before.config.model
    assert after.config.image.image_width == before.config.image.image_width
    for tensor in before.tensors:
        if tensor.endswith(("weight", "bias")):
            np.testing.assert_allclose(after.tensors[tensor], before.tensors[tensor], atol=1e-6)


# ---- characters


def test_characters_are_those_of_the_file_or_must_be_given(tmp_path):
    path, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(lively(Clovaai(classes=12)).state_dict(), path)
    with pytest.raises(ConfigError, match=r"with 12 classes may have any characters.*its 11 characters.*--characters"):
        import_weights(path, out)
    with pytest.raises(ConfigError, match=r"--characters has 36 characters, and the file 12 classes; expected 11"):
        import_weights(path, out, characters="36")
    assert not out.exists()
    assert import_weights(path, out, characters="0123456789-").config.charset.characters == "0123456789-"


def test_a_lightning_checkpoint_says_its_characters_and_size(tmp_path):
    path, out = tmp_path / "theirs.ckpt", tmp_path / "ours.safetensors"
    facts = {"charset_train": "cab0", "img_size": [32, 160], "leaky_relu": False, "lr": 1e-3}
    state = prefixed("model.", lively(Paper(3, 5, "linear", False)).state_dict())
    torch.save({"state_dict": state, "hyper_parameters": facts, "epoch": 3, "optimizer_states": [{"state": {}}]}, path)
    config = import_weights(path, out).config
    assert (config.charset.characters, config.image.image_width, config.image.image_channels) == ("cab0", 160, 3)
    torch.save({"state_dict": state, "hyper_parameters": {**facts, "leaky_relu": True}}, path)
    with pytest.raises(CheckpointError, match="leaky_relu"):
        import_weights(path, out)


def test_parameters_of_half_precision_are_read_and_what_holds_no_values_is_not(tmp_path):
    path, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    network = lively(Clovaai()).half()
    torch.save({"model": dict(network.named_parameters()) | dict(network.named_buffers())}, path)
    import_weights(path, out)
    assert read_weights(out).tensors["head.weight"].dtype == np.float32
    state = network.state_dict()
    for other in (torch.empty(37, HIDDEN, device="meta"), torch.eye(37).to_sparse()):
        torch.save({**state, "Prediction.weight": other}, path)
        with pytest.raises(CheckpointError, match=r"has no Prediction.weight|cannot be read as tensors alone"):
            import_weights(path, out)


def test_a_charset_keeps_its_name(tmp_path):
    path, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(lively(Clovaai(classes=37)).state_dict(), path)
    with pytest.raises(ConfigError, match="--width 200 does nothing where ratios are kept"):
        import_weights(path, out, width=200, resize="keep_ratio")
    config = import_weights(path, out, characters="36", resize="keep_ratio").config
    assert (config.charset.characters, config.image.resize) == ("36", "keep_ratio")


# ---- refused


def state_of(change):
    state = lively(Clovaai()).state_dict()
    change(state)
    return state


def replace(name, tensor):
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (replace("Transformation.GridGenerator.P_hat", torch.ones(2)), "a rectification .TPS."),
        (replace("FeatureExtraction.ConvNet.conv0_1.weight", torch.ones(2)), "a ResNet as its backbone"),
        (replace("Prediction.attention_cell.i2h.weight", torch.ones(2)), "an attention decoder"),
        (replace("features.3.block.1.se.fc1.weight", torch.ones(2)), "squeeze-and-excitation"),
        (replace("layer1.0.conv1.weight", torch.ones(2)), "residual blocks"),
        (replace("extra.weight", torch.ones(2)), "1 tensors that clovaai .* has not: extra.weight"),
        (lambda s: s.pop("Prediction.bias"), "has no Prediction.bias"),
        (replace("Prediction.weight", torch.ones(37, 3)), "expected the shapes of clovaai"),
        (replace("SequenceModeling.0.rnn.weight_ih_l0", torch.ones(4, 4)), "do not fit the network"),
        (replace("Prediction.bias", torch.tensor(0.5)), "expected the shapes of clovaai"),
        (replace("FeatureExtraction.ConvNet.3.weight", torch.tensor(0.5)), "expected the shapes of clovaai"),
        (replace("Prediction.bias", torch.full((37,), torch.nan)), "head.bias has nan, inf"),
        (lambda s: s["FeatureExtraction.ConvNet.12.running_var"].neg_(), "a variance below 0"),
        (lambda s: [s.pop(n) for n in list(s) if "ConvNet.12." in n], r"normalization follows the convolutions \(6,\)"),
        (lambda s: [s.pop(n) for n in list(s) if "Sequence" in n], "are not named as those of clovaai, meijieru"),
    ],
)  # fmt: skip
def test_other_networks_are_refused_with_the_reason(change, why, tmp_path):
    torch.save(state_of(change), tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=why) as caught:
        import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "theirs.pth") in str(caught.value)
    assert not (tmp_path / "ours.safetensors").exists()


def test_easyocrs_second_generation_is_refused(tmp_path):
    torch.save(prefixed("module.", Clovaai(classes=97, width=256).state_dict()), tmp_path / "g2.pth")
    with pytest.raises(CheckpointError, match=r"EasyOCR's second generation.*64 pixels high"):
        import_weights(tmp_path / "g2.pth", tmp_path / "ours.safetensors")


class Foreign:
    pass


@pytest.mark.parametrize("old", [False, True])
def test_nothing_but_tensors_is_unpickled(old, tmp_path):
    state = {"state_dict": Clovaai().state_dict(), "trainer": Foreign()}
    torch.save(state, tmp_path / "theirs.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match=r"cannot be read as tensors alone .*Save its state_dict by itself"):
        import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x89HDF\r\n\x1a\n", "a file of Keras"), (b"PK\x03\x04", "cannot be read as tensors alone"),
        (b"\x80\x02}q\x00.", "cannot be read as tensors alone"), (b"", "is encrypted, or no file of MindSpore"),
        (b"\xff" * 8 + b"{", "is encrypted, or no file of MindSpore"),
        (b"\x09" + bytes(7) + b"{", "no whole safetensors file"), (b"\x02" + bytes(7) + b"{}", "no tensors by name"),
    ],
)  # fmt: skip
def test_other_files_are_refused(data, why, tmp_path):
    (tmp_path / "theirs").write_bytes(data)
    with pytest.raises(CheckpointError, match=why) as caught:
        import_weights(tmp_path / "theirs", tmp_path / "ours.safetensors")
    assert "\n" not in str(caught.value)


def test_a_tensor_that_repeats_a_few_bytes_spends_no_memory(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):  # expanded ones are none
        import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


def test_a_state_that_holds_itself_ends(tmp_path):
    state = {}
    state["state_dict"] = state
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")


def test_the_file_that_is_imported_stays(tmp_path):
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(b"theirs")
    with pytest.raises(ConfigError, match="is read by this command; expected another file to write"):
        import_weights(path, tmp_path / "." / "theirs.safetensors")
    with pytest.raises(ConfigError, match="OUT is empty"):
        import_weights(path, "")
    assert path.read_bytes() == b"theirs"


def test_wrong_usage_is_exit_status_2(tmp_path, capsys):
    assert main(["import", str(tmp_path / "none.pth"), str(tmp_path / "x.safetensors")]) == 2
    assert "none.pth: cannot be read" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none.pth"), str(tmp_path / "x.pth")]) == 2
    assert "ends in .safetensors" in capsys.readouterr().err


def test_a_dynamic_rnn_of_other_shapes_is_refused(tmp_path, make_checkpoint):
    torch.manual_seed(0)
    arrays = mindspore_names(lively(ModelZooV1()).state_dict())
    (tmp_path / "v1.ckpt").write_bytes(make_checkpoint({**arrays, "b1": np.zeros(5, np.float32)}))
    with pytest.raises(CheckpointError, match="expected the shapes of MindSpore ModelZoo CRNN V1"):
        import_weights(tmp_path / "v1.ckpt", tmp_path / "ours.safetensors")
