"""The network: its shapes, its size, and that it learns. Shape letters as in ``crnn.model.crnn``."""

import pytest
import torch
from torch import nn

from crnn.config.model import BACKBONE_CHANNELS, ImageConfig, ModelConfig, time_steps
from crnn.errors import DataError
from crnn.model.backbones import BACKBONES
from crnn.model.crnn import CRNN, build_model

NUM_CLASSES = 37
pytestmark = pytest.mark.usefixtures("one_thread")
both_backbones = pytest.mark.parametrize("backbone", ["vgg", "small"])


def network_of(seed=0, channels=1, **settings) -> CRNN:
    return build_model(ModelConfig(**settings), ImageConfig(image_channels=channels), NUM_CLASSES, seed=seed)


def random_images(count=2, width=100, channels=1, seed=0):
    return torch.rand(count, channels, 32, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- shapes


@both_backbones
@pytest.mark.parametrize("pooling", ["modelzoo", "paper"])
@pytest.mark.parametrize("width", [8, 11, 16, 17, 99, 100, 102, 299])
def test_every_width_has_the_time_steps_that_the_settings_say(backbone, width, pooling):
    network = network_of(backbone=backbone, hidden_size=8, pooling=pooling).eval()
    with torch.inference_mode():
        logits = network(random_images(3, width))
    assert logits.shape == (3, time_steps(width, pooling), NUM_CLASSES)
    assert logits.isfinite().all()


def test_the_rows_are_those_of_the_paper_with_the_modelzoos_pooling():
    shapes = []
    features = torch.empty(1, 1, 32, 100, device="meta")
    for name, module in network_of(backbone="vgg").to("meta").backbone.named_children():
        features = module(features)
        if name.startswith("relu"):
            shapes.append(tuple(features.shape[1:]))
    assert shapes == [
        (64, 16, 50), (128, 8, 25), (256, 8, 25), (256, 4, 25), (512, 4, 25), (512, 2, 25), (512, 1, 24),
    ]  # fmt: skip
    assert BACKBONES.keys() == BACKBONE_CHANNELS.keys()


@both_backbones
@pytest.mark.parametrize(("pooling", "first"), [("modelzoo", 4), ("paper", 0)])
def test_a_time_step_sees_the_columns_around_its_place(backbone, pooling, first):
    """Around 4 (t + 1); with the paper's pooling, padded at both ends, around 4 t. A nan shows who sees its column."""
    network = network_of(backbone=backbone, pooling=pooling, hidden_size=8).eval()
    images = torch.zeros(128, 1, 32, 128)
    images[range(128), :, :, range(128)] = torch.nan
    with torch.inference_mode():
        sees = network.backbone(images)[:, 0, 0].isnan()  # (column, step)
    for t in (14, 16, 17):
        columns = sees[:, t].nonzero().flatten()
        assert columns.min() > 0
        assert columns.max() < 127
        assert (columns.min() + columns.max() + 1) / 2 == first + 4 * t


def test_the_neck_and_one_direction_may_be_left_out():
    for neck, rnn2 in (("linear", "forward"), ("none", "both"), ("none", "forward")):
        network = network_of(backbone="small", hidden_size=8, neck=neck, rnn2=rnn2)
        assert network.rnn2.input_size == (8 if neck == "linear" else 16)
        assert network.head.in_features == (16 if rnn2 == "both" else 8)
        assert any(name.startswith("neck") for name in network.state_dict()) == (neck == "linear")
        assert network(random_images()).shape == (2, 24, NUM_CLASSES)


@both_backbones
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour(backbone, channels):
    network = network_of(backbone=backbone, channels=channels, hidden_size=8)
    assert network(random_images(channels=channels)).shape == (2, 24, NUM_CLASSES)
    assert network.image_channels == channels
    with pytest.raises(DataError, match=rf"expected \(N, {channels}, 32, W >= 8\)"):
        network(random_images(channels=4 - channels))


@pytest.mark.parametrize("shape", [(2, 1, 31, 100), (2, 1, 32, 7), (1, 32, 100), (32, 100), (2, 1, 100, 32)])
def test_images_of_other_shapes_are_refused(shape):
    network = network_of(backbone="small", hidden_size=8)
    with pytest.raises(DataError, match=r"images have shape .*; expected \(N, 1, 32, W >= 8\)") as caught:
        network(torch.zeros(shape))
    assert str(shape) in str(caught.value)


# ---- size


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "channels", "parameters"),
    [
        ({"backbone": "vgg"}, 1, 8_330_981),
        ({"backbone": "vgg"}, 3, 8_332_133),
        ({"backbone": "vgg", "batch_norm": "paper"}, 1, 8_330_021),
        ({"backbone": "small"}, 1, 1_374_789),
        ({"backbone": "small"}, 3, 1_375_813),
        ({"backbone": "small", "batch_norm": "paper"}, 1, 1_374_453),
    ],
)
def test_number_of_parameters(settings, channels, parameters):
    assert count(network_of(channels=channels, **settings)) == parameters


# ---- normalisation, dropout, weights


@both_backbones
def test_normalisation_follows_every_convolution_or_those_of_the_paper(backbone):
    for batch_norm, expected in (("all", [1, 2, 3, 4, 5, 6, 7]), ("paper", [3, 5, 7]), ("dtrb", [5, 6])):
        network = network_of(backbone=backbone, batch_norm=batch_norm)
        names = [name for name, _ in network.backbone.named_children()]
        assert [int(name[4:]) for name in names if name.startswith("norm")] == expected
        for number in range(1, 8):
            conv = network.backbone.get_submodule(f"conv{number}")
            assert (conv.bias is None) == (number in expected)
            follower = names[names.index(f"conv{number}") + 1]
            assert (follower == f"norm{number}") == (number in expected)


def test_dropout_has_an_effect_while_training_and_none_otherwise():
    images = random_images()
    for use_dropout in (False, True):
        network = network_of(backbone="small", hidden_size=16, use_dropout=use_dropout, dropout=0.5)
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 0.0  # so that running statistics stay, and dropout is the only difference
        assert network.dropout.p == (0.5 if use_dropout else 0.0)
        torch.manual_seed(0)
        first, second = network(images), network(images)
        assert torch.equal(first, second) == (not use_dropout)
        network.eval()
        assert torch.equal(network(images), network(images))


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, second, other = (network_of(seed, backbone="small") for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)
    assert not torch.equal(first.rnn1.weight_hh_l0, other.rnn1.weight_hh_l0)


@both_backbones
def test_a_network_gives_the_same_twice_and_each_image_is_read_alone(backbone):
    network = network_of(backbone=backbone, hidden_size=16).eval()
    images = random_images(4, 64)
    with torch.inference_mode():
        together = network(images)
        assert torch.equal(together, network(images))
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)  # other sizes, other order of sums


def test_both_lstms_read_in_both_directions():
    """The first time step knows the last column: the ModelZoo's V1 never calls its second backward LSTM."""
    network = network_of(backbone="small", hidden_size=16).eval()
    images = random_images(1, 100).requires_grad_()
    for part in (network.rnn1, network.rnn2):
        sequence = torch.rand(1, 24, part.input_size, generator=torch.Generator().manual_seed(0), requires_grad=True)
        out, _ = part(sequence)
        (first,) = torch.autograd.grad(out[0, 0].sum(), sequence, retain_graph=True)
        (last,) = torch.autograd.grad(out[0, -1].sum(), sequence)
        assert first[0, -1].abs().sum() > 0
        assert last[0, 0].abs().sum() > 0
    logits = network(images)
    (seen_first,) = torch.autograd.grad(logits[0, 0].sum(), images, retain_graph=True)
    (seen_last,) = torch.autograd.grad(logits[0, -1].sum(), images)
    # Each step sees all of the image, and most of all the columns where it is.
    assert seen_first[..., :16].abs().sum() > seen_first[..., -16:].abs().sum() > 0
    assert seen_last[..., -16:].abs().sum() > seen_last[..., :16].abs().sum() > 0


@both_backbones
@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": "paper", "pooling": "paper"}, {"batch_norm": "dtrb", "neck": "none"},
                {"neck": "none", "rnn2": "forward"}, {"rnn2": "forward"}],
)  # fmt: skip
def test_every_weight_takes_part(backbone, options):
    network = network_of(backbone=backbone, hidden_size=16, **options)
    network(random_images(2, 40)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
