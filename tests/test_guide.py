"""The decoder that guides: its loss, what it may see, and that the features learn from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crnn.training.guide import AttentionGuide

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, DEPTH = 5, 64


def guide() -> AttentionGuide:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AttentionGuide(DEPTH, CLASSES)


def sample(count: int = 3, steps: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    features = torch.randn(count, steps, DEPTH, generator=random)
    return features, torch.randint(0, CLASSES - 1, (count, 4), generator=random), torch.tensor([4, 2, 0])[:count]


def test_samples_do_not_depend_on_each_other_nor_on_what_is_behind_their_ends() -> None:
    module, (features, targets, lengths) = guide(), sample()
    alone = sum(
        module(features[n : n + 1], targets[n : n + 1, : lengths[n]], lengths[n : n + 1]) for n in range(len(features))
    )
    torch.testing.assert_close(module(features, targets, lengths), alone)
    others = torch.where(torch.arange(4) < lengths[:, None], targets, (targets + 1) % (CLASSES - 1))
    assert not torch.equal(others, targets)
    torch.testing.assert_close(module(features, others, lengths), alone)


def test_a_character_is_not_seen_before_it_is_asked_for() -> None:
    module, (features, targets, lengths) = guide(), sample(1)
    seen: list[Tensor] = []
    module.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    loss = module(features, targets, lengths)
    changed = targets.clone()
    changed[0, 1] = (changed[0, 1] + 1) % (CLASSES - 1)
    module(features, changed, lengths)
    assert torch.equal(seen[0][:, :2], seen[1][:, :2])  # start, first character
    assert (seen[0][:, 2:] != seen[1][:, 2:]).any(dim=2).all()
    wanted = torch.cat([targets[0], torch.tensor([CLASSES - 1])])
    log_probs = seen[0][0].log_softmax(-1)
    torch.testing.assert_close(loss, -sum(log_probs[place, k] for place, k in enumerate(wanted)))


def test_the_features_learn_to_hold_the_text() -> None:
    module, (features, targets, lengths) = guide(), sample()
    features.requires_grad_()
    optimizer = torch.optim.Adam([features, *module.parameters()], lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = module(features, targets, lengths)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_the_loss_is_float32_under_autocast() -> None:
    module, (features, targets, lengths) = guide(), sample()
    exact = module(features, targets, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(features.bfloat16(), targets, lengths)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.0)
