"""Disturbed views: letters stay where they are, and what is hidden is not seen."""

from __future__ import annotations

import pytest
import torch

from crnn.training.views import disturbed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_views_follow_torch_s_generator() -> None:
    images = torch.rand(4, 1, 32, 100) * 2 - 1
    torch.manual_seed(3)
    one, other = disturbed(images), disturbed(images)
    torch.manual_seed(3)
    assert torch.equal(disturbed(images), one)
    assert not torch.equal(one, other)
    assert one.shape == images.shape
    assert one.dtype == torch.float32


def test_pictures_change_each_in_its_own_way_and_stay_readable() -> None:
    torch.manual_seed(4)
    stripes = torch.where(torch.arange(100) % 10 < 5, -0.8, 0.8).expand(64, 1, 32, 100).contiguous()
    found = disturbed(stripes).mean(dim=(1, 2))  # noise is averaged out
    ink, paper = stripes[0, 0, 0] < 0, stripes[0, 0, 0] > 0
    contrast = found[:, paper].median(dim=1).values - found[:, ink].median(dim=1).values
    assert contrast.min() > 0.5 * 1.6
    assert contrast.max() < 1.2 * 1.6
    assert contrast.std() > 0.05
    brightness = (found[:, paper].median(dim=1).values + found[:, ink].median(dim=1).values) / 2
    assert 0.05 < brightness.abs().max() < 0.2


def test_a_few_columns_are_hidden_behind_the_mean() -> None:
    torch.manual_seed(5)
    stripes = torch.where(torch.arange(100) % 2 < 1, -1.0, 1.0).expand(200, 3, 32, 100).contiguous()
    found = disturbed(stripes).mean(dim=(1, 2))
    middle = (found.amax(dim=1, keepdim=True) + found.amin(dim=1, keepdim=True)) / 2
    hidden = (found - middle).abs() < 0.3
    share = hidden.float().mean(dim=1)
    assert 0.03 < share.mean() < 0.12
    assert share.max() <= 0.18
    starts = (hidden[:, 1:] & ~hidden[:, :-1]).sum(dim=1) + hidden[:, 0].long()
    assert starts.max() == 2
    assert hidden.any(dim=0).float().mean() > 0.9  # anywhere


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_order_in_memory_stays(channels_last: bool) -> None:
    images = torch.zeros(2, 3, 32, 50)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    assert disturbed(images).stride() == images.stride()
