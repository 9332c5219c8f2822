"""The colours of a word and what is around it: a grey level each, tinted where pictures have three channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.synth.draws import Draws
from crnn.synth.look_settings import LookConfig
from crnn.upload import on_device

__all__ = ["Palette"]

Floats = npt.NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow converts."""


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of N pictures, ``(N, C)`` float32 in [0, 1] each.

    Attributes:
        contrast: ``(N,)`` float64: difference in grey of text and ground.
        ground: Behind everything.
        text: The letters.
        outline: Borders of letters; away from the text's grey.
        side: The sides of letters that have depth.
        shadow: Their shadow.
        other: Anything else: lines, words of another colour.
        second: The other letters of words in two tones; between the text and its ground.
        front: What is in front of the letters; nearer to the ground's grey than to theirs.
    """

    contrast: Floats
    ground: Tensor
    text: Tensor
    outline: Tensor
    side: Tensor
    shadow: Tensor
    other: Tensor
    second: Tensor
    front: Tensor

    @classmethod
    def draw(cls, draws: Draws, look: LookConfig, channels: int, device: torch.device) -> Palette:
        """Random colours."""
        low, high = look.contrast_least, look.contrast_most
        faint = draws.chance("low contrast", look.low_contrast_share)
        contrast = draws.uniform("contrast", low, np.where(faint, low + (high - low) / 3, high))
        # Paper white and lamp black are more frequent than the greys between.
        place = draws.uniform("darkest")
        place = np.where(draws.chance("extreme", 0.4), np.rint(place), place)
        dark = (1.0 - contrast) * place
        lighter = draws.chance("light text", 0.5)
        text = np.where(lighter, dark + contrast, dark)
        ground = np.where(lighter, dark, dark + contrast)
        printed = draws.chance("printed", look.print_share)
        paper, ink = 1.0 - 0.3 * draws.uniform("paper") ** 2, 0.5 * draws.uniform("ink") ** 1.5
        inverse = draws.chance("printed inverse", 0.06)
        ground = np.where(printed, np.where(inverse, ink, paper), ground)
        text = np.where(printed, np.where(inverse, paper, ink), text)
        contrast = np.where(printed, paper - ink, contrast)
        toward = ground - text
        outline = np.where(
            draws.chance("outline beyond", 0.4),
            ground + toward * draws.uniform("outline far", 0.2, 1.0),
            text + toward * draws.uniform("outline near", 0.35, 0.8),
        )
        side = text + toward * draws.uniform("side", 0.35, 0.75)
        side = np.where(draws.chance("side dark", 0.4), np.minimum(ground, text) * draws.uniform("side level"), side)
        # A shadow as dark as dark letters would be read with them.
        shadow = np.where(lighter, ground * draws.uniform("shadow level", 0.0, 0.7), text + 0.6 * toward)
        levels = {
            "ground": ground,
            "text": text,
            "outline": outline,
            "side": side,
            "shadow": shadow,
            # About as far from the ground as the text: what stands out far more makes cameras and readers lose it.
            "other": ground + draws.signed("other level", 1.2) * contrast,
            "second": text + toward * draws.uniform("second level", 0.15, 0.6),
            # A pole as dark as dark letters would be read as one of them.
            "front": ground + draws.uniform("front level", -0.4, 0.8) * toward,
        }
        grey = draws.chance("grey", 0.3)
        return cls(
            contrast,
            **{
                name: on_device(_tinted(draws, name, level.clip(0.0, 1.0), grey, channels), device)
                for name, level in levels.items()
            },
        )


def _tinted(
    draws: Draws, name: str, level: Floats, grey: npt.NDArray[np.bool_], channels: int
) -> npt.NDArray[np.float32]:
    """A colour of this grey level: any hue, as far from grey as the range allows, at most."""
    if channels == 1:
        return level[:, None].astype(np.float32)
    hue = draws.uniform(f"{name} hue", 0.0, 2.0 * np.pi)
    direction = np.cos(hue[:, None] + np.array([0.0, 2.0, 4.0]) * np.pi / 3.0)
    # Along it, the grey level stays. Not as a product of matrices: those of one row round differently.
    direction -= (direction * _LUMA).sum(axis=1, keepdims=True)
    room = np.where(direction > 0.0, 1.0 - level[:, None], level[:, None]) / np.maximum(np.abs(direction), 1e-6)
    amount = room.min(axis=1) * draws.uniform(f"{name} colour") * ~grey
    colours: npt.NDArray[np.float64] = (level[:, None] + amount[:, None] * direction).clip(0.0, 1.0)
    return colours.astype(np.float32)
