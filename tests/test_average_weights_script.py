"""tools/average_weights.py: the mean by hand, and errors."""

import runpy
from pathlib import Path

import pytest
import torch

from crnn.decoding.confidence import Calibration, ConfidenceCurve
from crnn.errors import CheckpointError, ConfigError
from crnn.model.checkpoint import load_weights, save_weights
from crnn.model.crnn import build_model
from crnn.model.weights import save_calibration

script = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "average_weights.py"))
average_weights, main = script["average_weights"], script["main"]

pytestmark = pytest.mark.usefixtures("one_thread")


def write(path, config, *, seed=0, scale=1.0, **info):
    """Weights of a new network, every number of them times ``scale``."""
    network = build_model(config.model, config.image, config.charset.charset().num_classes, seed=seed)
    state = {k: v * scale if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_weights(path, state, config, info)
    return path


def test_the_mean_by_hand(tmp_path, small_config):
    config = small_config()
    files = [write(tmp_path / f"{k}.safetensors", config, scale=s, step=k) for k, s in enumerate((1.0, 2.0, 6.0))]
    out = average_weights(files, tmp_path / "mean.safetensors")
    first, mean = load_weights(files[0]), load_weights(out)
    assert mean.config == first.config
    assert mean.tensors.keys() == first.tensors.keys()
    for name, tensor in first.tensors.items():
        expected = tensor * 3.0 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(mean.tensors[name], expected, rtol=1e-6, atol=1e-7)
    assert mean.info["step"] == 2
    assert mean.info["averaged"] == [{"step": step, "samples": None} for step in range(3)]


def test_the_mean_of_weights_and_themselves_has_no_calibration(tmp_path, small_config):
    one = write(tmp_path / "one.safetensors", small_config())
    calibration = Calibration(ConfidenceCurve(2.0, 0.5, 30), None, ("a",))
    other = save_calibration(one, calibration, tmp_path / "other.safetensors")
    mean = load_weights(average_weights([one, other], tmp_path / "mean.safetensors"))
    assert mean.calibration is None
    for name, tensor in load_weights(one).tensors.items():
        assert torch.equal(mean.tensors[name], tensor)


def test_widths_may_be_others_in_training_than_in_reading(tmp_path, small_config):
    image = {"resize": "keep_ratio", "max_width": 320}
    files = [
        write(tmp_path / f"{width}.safetensors", small_config(image={**image, "min_width": width}), scale=scale)
        for width, scale in ((48, 1.0), (80, 4.0))
    ]
    mean = load_weights(average_weights([files[1], files[0], files[0]], tmp_path / "mean.safetensors"))
    assert mean.config.image.min_width == 48
    name, tensor = next((n, t) for n, t in load_weights(files[0]).tensors.items() if t.ndim > 1)
    torch.testing.assert_close(mean.tensors[name], 2.0 * tensor)


def test_what_has_no_mean_is_refused(tmp_path, small_config):
    config = small_config()
    one = write(tmp_path / "one.safetensors", config)
    stranger = write(tmp_path / "stranger.safetensors", config, seed=1)
    wide = write(tmp_path / "wide.safetensors", small_config(model={"hidden_size": 24}))
    upper = write(tmp_path / "upper.safetensors", small_config(charset={"max_text_length": 9}))
    out = tmp_path / "mean.safetensors"
    for other, said in (
        (stranger, r"different trainings \(cosine -?0\.\d\d, at least 0\.3 is expected\)"),
        (wide, "other settings of model"),
        (upper, "other settings of charset"),
        (tmp_path / "nothing", "is no weights file, run folder or shipped name"),
    ):
        with pytest.raises(CheckpointError, match=said):
            average_weights([one, other], out)
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        average_weights([one, one], tmp_path / "mean.onnx")
    assert not out.exists()


def test_the_command(tmp_path, small_config, capsys):
    one = write(tmp_path / "one.safetensors", small_config())
    out = tmp_path / "mean.safetensors"
    assert main([str(one), str(one), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: the mean of 2 weights\n"
    assert main([str(one), str(out)]) == 2
    assert capsys.readouterr().err.startswith("average_weights: 1 weights are given")
