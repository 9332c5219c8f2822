"""Compose images from coverage masks, batched: colours, fills, borders, shadows, surroundings.

Random numbers are drawn before the device starts, so effects run on chosen images only and nothing waits for the
device. Each image depends on its draws and masks only. Shapes: N images, C channels, H height, W width; n of N have
an effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.config.synth import StyleConfig
from crnn.distributed import on_device
from crnn.synth.filters import smooth_noise
from crnn.synth.geometry import SIDES, Geometry, text_coordinates
from crnn.synth.masks import averaged, dilated, letter_gap, lookup, shifted
from crnn.synth.rng import SampleRandom
from crnn.synth.textures import TextureBank

Floats = npt.NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])  # Weights of red, green and blue in grey (ITU-R BT.601), as Pillow converts


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of N images, each ``(N, C)`` float32 in [0, 1]."""

    contrast: Floats  # ``(N,)`` float64: difference in grey of text and background
    background: Tensor  # Behind everything
    text: Tensor  # The letters
    outline: Tensor  # Borders of letters; away from the text's grey
    side: Tensor  # The sides of letters that have depth
    shadow: Tensor  # Their shadow
    other: Tensor  # Anything else: lines, words of another colour
    second: Tensor  # The other letters of words in two tones; between the text and its background
    front: Tensor  # Things in front of the letters; nearer to the background's grey than to theirs

    @classmethod
    def draw(cls, random: SampleRandom, style: StyleConfig, channels: int, device: torch.device) -> Palette:
        """Draw random colours."""
        low, high = style.contrast_least, style.contrast_most
        faint = random.chance("low contrast", style.low_contrast_share)
        contrast = random.uniform("contrast", low, np.where(faint, low + (high - low) / 3, high))
        # Paper white and lamp black are more frequent than the greys between.
        place = random.uniform("darkest")
        place = np.where(random.chance("extreme", 0.4), np.rint(place), place)
        dark = (1.0 - contrast) * place
        lighter = random.chance("light text", 0.5)
        text = np.where(lighter, dark + contrast, dark)
        background = np.where(lighter, dark, dark + contrast)
        printed = random.chance("printed", style.print_share)
        paper, ink = 1.0 - 0.3 * random.uniform("paper") ** 2, 0.5 * random.uniform("ink") ** 1.5
        inverse = random.chance("printed inverse", 0.06)
        background = np.where(printed, np.where(inverse, ink, paper), background)
        text = np.where(printed, np.where(inverse, paper, ink), text)
        contrast = np.where(printed, paper - ink, contrast)
        toward = background - text
        outline = np.where(
            random.chance("outline beyond", 0.4),
            background + toward * random.uniform("outline far", 0.2, 1.0),
            text + toward * random.uniform("outline near", 0.35, 0.8),
        )
        side = text + toward * random.uniform("side", 0.35, 0.75)
        side = np.where(
            random.chance("side dark", 0.4), np.minimum(background, text) * random.uniform("side level"), side
        )
        # A shadow as dark as dark letters would be read with them.
        shadow = np.where(lighter, background * random.uniform("shadow level", 0.0, 0.7), text + 0.6 * toward)
        levels = {
            "background": background,
            "text": text,
            "outline": outline,
            "side": side,
            "shadow": shadow,
            # About as far from the background as the text: beside far stronger things cameras and readers lose it.
            "other": background + random.signed("other level", 1.2) * contrast,
            "second": text + toward * random.uniform("second level", 0.15, 0.6),
            # A pole as dark as dark letters would be read as one of them.
            "front": background + random.uniform("front level", -0.4, 0.8) * toward,
        }
        grey = random.chance("grey", 0.3)
        return cls(
            contrast,
            **{
                name: on_device(
                    _tinted(random, "ground" if name == "background" else name, level.clip(0.0, 1.0), grey, channels),
                    device,
                )
                for name, level in levels.items()
            },
        )


def _tinted(
    random: SampleRandom, name: str, level: Floats, grey: npt.NDArray[np.bool_], channels: int
) -> npt.NDArray[np.float32]:
    """Return colours of a grey level, of any hue and at most as far from grey as the range allows."""
    if channels == 1:
        return level[:, None].astype(np.float32)
    hue = random.uniform(f"{name} hue", 0.0, 2.0 * np.pi)
    direction = np.cos(hue[:, None] + np.array([0.0, 2.0, 4.0]) * np.pi / 3.0)
    # Along it, the grey level stays. Not as a product of matrices: those of one row round differently.
    direction -= (direction * _LUMA).sum(axis=1, keepdims=True)
    room = np.where(direction > 0.0, 1.0 - level[:, None], level[:, None]) / np.maximum(np.abs(direction), 1e-6)
    amount = room.min(axis=1) * random.uniform(f"{name} colour") * ~grey
    colours: npt.NDArray[np.float64] = (level[:, None] + amount[:, None] * direction).clip(0.0, 1.0)
    return colours.astype(np.float32)


Rows = npt.NDArray[np.int64]

Neighbors = Callable[[Rows, int], tuple[Tensor, Floats]]
"""(rows, place) -> masks ``(n, Hc, Wc)`` uint8 and ratios ``(n,)`` of the words beside these samples."""

_GROUND_PAD = 0.12  # Least space between a word and its neighbour or a line, in text heights, to be read apart


_SCENE_EFFECTS = frozenset(  # Absent from printed documents
    (
        *("arc", "wave", "perspective", "tilt", "slant", "split", "ghost", "shadow", "extrusion", "outline", "hollow"),
        *("relief", "tone", "occlusion", "blend", "ground gradient", "text gradient", "text texture"),
    )
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Finished scenes, before a camera sees them."""

    images: Tensor  # ``(N, C, H, W)`` float32 in [0, 1]
    geometry: Geometry
    coverage: Tensor  # ``(N, H, W)`` float32, by the text


def compose(
    masks: Tensor,
    ratios: Floats,
    neighbors: Neighbors,
    random: SampleRandom,
    style: StyleConfig,
    textures: TextureBank,
    shape: tuple[int, int],
    channels: int,
    trace: Callable[[str, Tensor], None] | None = None,
    fit: tuple[float, float] | None = None,
) -> Scene:
    """Compose images of words.

    Args:
        masks: ``(N, Hc, Wc)`` uint8: the words.
        ratios: ``(N,)`` width over height of their ink.
        neighbors: Source of other words, for crops that show parts of them.
        random: Of the N samples.
        style: Shares and strengths.
        textures: For backgrounds and fills.
        shape: H and W.
        channels: C, 1 or 3.
        trace: Called with the name of each stage and its images.
        fit: As for ``Geometry.draw``.
    """
    random = random.without(_SCENE_EFFECTS, random.chance("printed", style.print_share))
    show = trace or (lambda _stage, _images: None)
    plan = _NeighborPlan.draw(random, style)
    geometry = Geometry.draw(random, ratios, style, shape, plan.room, fit)
    u, v = text_coordinates(geometry, masks.device)
    painter = _Painter(random, style, textures, geometry, u, v, Palette.draw(random, style, channels, masks.device))
    coverage = painter.weighted(lookup(masks, u, v, geometry.ratio, geometry.text_height, geometry.text_width))
    coverage = painter.dotted(painter.faded(coverage))
    show("shape", coverage[:, None])
    painter.background(neighbors)
    show("ground", painter.images)
    painter.add_neighbors(neighbors, plan)
    painter.lines()
    show("beside it", painter.images)
    painter.shadows(coverage)
    painter.outlines(coverage)
    show("shadow, border", painter.images)
    painter.text(coverage)
    painter.second_tone(masks, coverage)
    show("letters", painter.images)
    painter.occlusions()
    painter.blend()
    return Scene(painter.images.clamp_(0.0, 1.0), geometry, coverage)


@dataclass(frozen=True, slots=True)
class _NeighborPlan:
    """Up to two other words in a crop, at sides 0 to 3."""

    rows: tuple[Rows, Rows]  # Per place (first, second) the samples that have it
    sides: npt.NDArray[np.int64]  # ``(N, 2)``
    gaps: Floats  # ``(N, 2)`` space between the words, in text heights
    room: Floats  # ``(N, 4)`` enlargement of the crop, in text heights

    @classmethod
    def draw(cls, random: SampleRandom, style: StyleConfig) -> _NeighborPlan:
        first = random.chance("neighbour", style.neighbor_share)
        second = first & random.chance("neighbour second", style.second_neighbor_share)
        side = random.choice("neighbour side", (0.3, 0.3, 0.2, 0.2))
        other = (side + 1 + random.integers("neighbour second side", SIDES - 1)) % SIDES
        sides = np.stack([side, other], axis=1)
        # A space away, and less than a letter of it: whole letters nearby are read with the word.
        gaps = np.stack([random.uniform("neighbour gap", 0.25, 0.7), random.uniform("second gap", 0.25, 0.7)], axis=1)
        seen = np.stack([random.uniform("neighbour seen", 0.0, 0.35), random.uniform("second seen", 0.0, 0.35)], axis=1)
        room = np.zeros((len(random), SIDES))
        for place, has in enumerate((first, second)):
            rows = np.flatnonzero(has)
            # Lines above and below are usually nearer than words beside.
            gaps[rows, place] *= np.where(sides[rows, place] >= 2, 0.5, 1.0)
            room[rows, sides[rows, place]] = gaps[rows, place] + seen[rows, place]
        return cls((np.flatnonzero(first), np.flatnonzero(second)), sides, gaps, room)


class _Painter:
    """Paint images from the back to the front."""

    def __init__(
        self,
        random: SampleRandom,
        style: StyleConfig,
        textures: TextureBank,
        geometry: Geometry,
        u: Tensor,
        v: Tensor,
        palette: Palette,
    ) -> None:
        self.random, self.style, self.textures, self.geometry = random, style, textures, geometry
        self.u, self.v, self.palette = u, v, palette
        self.device = u.device
        self.images = torch.empty(0)

    # from the back

    def background(self, neighbors: Neighbors) -> None:
        """Paint one colour, then gradient, texture, a second area, faint words."""
        height, width = self.geometry.shape
        level = self.palette.background[:, :, None, None]
        self.images = level.expand(-1, -1, height, width).clone()
        self._add(*self._gradient("ground", self.style.gradient_share))
        self._add(*self._texture("ground", self.style.texture_share))
        self._split()
        self._ghosts(neighbors)

    def add_neighbors(self, neighbors: Neighbors, plan: _NeighborPlan) -> None:
        """Paint parts of other words, usually in the colour of the text."""
        for place, rows in enumerate(plan.rows):
            if not len(rows):
                continue
            at, ratio = self._index(rows), self.geometry.ratio[rows]
            side, gap = plan.sides[rows, place], plan.gaps[rows, place]
            masks, other = neighbors(rows, place)
            along = self.random.rows(rows).signed(f"neighbour {place} along", 0.5) * ratio
            du = np.select([side == 0, side == 1], [-(ratio + other) / 2 - gap, (ratio + other) / 2 + gap], along)
            dv = np.select([side == 2, side == 3], [-1.0 - gap, 1.0 + gap], 0.0)
            u = self.u.index_select(0, at) - self._column(du)
            v = self.v.index_select(0, at) - self._column(dv)
            height = self.geometry.text_height[rows]
            width = self.geometry.text_width[rows] * other / ratio
            coverage = lookup(masks, u, v, other, height, width)
            same = self._flags(self.random.rows(rows).chance(f"neighbour {place} colour", 0.8))
            colour = torch.where(same, self.palette.text.index_select(0, at), self.palette.other.index_select(0, at))
            self._cover(at, coverage, colour)

    def lines(self) -> None:
        """Paint rules and frames: lines through the whole crop, beside the text."""
        rows = np.flatnonzero(self.random.chance("frame", self.style.frame_share))
        if not len(rows):
            return
        at, random, ratio = self._index(rows), self.random.rows(rows), self.geometry.ratio[rows]
        kind = random.choice("frame kind", (0.3, 0.25, 0.1, 0.1, 0.25))  # below, above, left, right, all around
        gap = random.uniform("frame gap", _GROUND_PAD, 0.35)
        u, v = self.u.index_select(0, at), self.v.index_select(0, at)
        # Distance outside the text's box, towards the side where the line is; far away where there is none.
        vertical, across = self._column(0.5 + gap), self._column(ratio / 2 + gap)
        distances = torch.stack([v - vertical, -v - vertical, -u - across, u - across, torch.empty_like(u)])
        distances[4] = torch.maximum(v.abs() - vertical, u.abs() - across)
        chosen = distances.gather(0, on_device(kind, self.device)[None, :, None, None].expand(1, *u.shape))[0]
        half = self._column(random.uniform("frame width", 0.015, 0.08))
        soft = self._column(1.0 / self.geometry.text_height[rows])
        filled = self._flags(random.chance("frame filled", 0.3))[..., None]  # all behind the line: the edge of a sign
        coverage = torch.where(filled, chosen + half, half - chosen.abs()).div(soft).add(0.5).clamp(0.0, 1.0)
        same = self._flags(random.chance("frame colour", 0.5))
        colour = torch.where(same, self.palette.text.index_select(0, at), self.palette.other.index_select(0, at))
        self._cover(at, coverage, colour)

    def shadows(self, coverage: Tensor) -> None:
        """Paint shadows and depth of the letters."""
        rows = np.flatnonzero(self.random.chance("shadow", self.style.shadow_share))
        if len(rows):
            at, random = self._index(rows), self.random.rows(rows)
            right, down = self._offsets(random, "shadow", self.style.shadow)
            shadow = shifted(coverage.index_select(0, at), right, down)
            soft = self._column(random.uniform("shadow soft"))
            shadow = shadow + soft * (averaged(averaged(shadow, 2), 1) - shadow)
            opacity = self._column(random.uniform("shadow opacity", 0.3, 0.9))
            self._cover(at, shadow * opacity, self.palette.shadow.index_select(0, at))
        rows = np.flatnonzero(self.random.chance("extrusion", self.style.extrusion_share))
        if len(rows):
            at, random = self._index(rows), self.random.rows(rows)
            right, down = self._offsets(random, "extrusion", self.style.shadow)
            front = coverage.index_select(0, at)
            depth = front
            for part in (1.0 / 3.0, 2.0 / 3.0, 1.0):
                moved = shifted(front, np.rint(right * part).astype(np.int64), np.rint(down * part).astype(np.int64))
                depth = torch.maximum(depth, moved)
            self._cover(at, depth, self.palette.side.index_select(0, at))

    def outlines(self, coverage: Tensor) -> None:
        """Paint borders around the letters."""
        rows = np.flatnonzero(self._outlined() | self._hollow())
        if len(rows):
            at = self._index(rows)
            widths = self._column(self.random.rows(rows).uniform("outline width", 0.7, max(0.7, self.style.outline)))
            colour = torch.where(
                self._flags(self._hollow()[rows]),
                self.palette.text.index_select(0, at),
                self.palette.outline.index_select(0, at),
            )
            self._cover(at, dilated(coverage.index_select(0, at), widths, self.style.outline), colour)

    def text(self, coverage: Tensor) -> None:
        """Paint the letters, with gradient, texture and relief."""
        hollow = self._flags(self._hollow())
        colour = torch.where(hollow, self.palette.background, self.palette.text)[:, :, None, None]
        self.images += coverage[:, None] * (colour - self.images)
        for rows, change in (
            self._gradient("text", self.style.gradient_share),
            self._texture("text", self.style.fill_texture_share),
            self._relief(coverage),
        ):
            if len(rows):
                self._add(rows, change * coverage.index_select(0, self._index(rows)))

    def second_tone(self, masks: Tensor, coverage: Tensor) -> None:
        """Paint the first or last letters of some words in another tone, as in names of two parts."""
        rows = np.flatnonzero(self.random.chance("tone", self.style.tone_share) & ~self._hollow())
        if not len(rows):
            return
        at, random = self._index(rows), self.random.rows(rows)
        begins = letter_gap(
            masks.index_select(0, at), self.geometry.ratio[rows], random.uniform("tone place", 0.3, 0.7)
        )
        soft = self._column(1.0 / self.geometry.text_height[rows])
        last = (self.u.index_select(0, at) - begins).div(soft).add(0.5).clamp(0.0, 1.0)
        chosen = torch.where(self._flags(random.chance("tone last", 0.5))[..., None], last, 1.0 - last)
        change = (self.palette.second - self.palette.text).index_select(0, at)[:, :, None, None]
        self.images.index_add_(0, at, change * (chosen * coverage.index_select(0, at))[:, None])

    def occlusions(self) -> None:
        """Paint poles, wires and branches in front of the text."""
        rows = np.flatnonzero(self.random.chance("occlusion", self.style.occlusion_share))
        if not len(rows):
            return
        at, random, ratio = self._index(rows), self.random.rows(rows), self.geometry.ratio[rows]
        lean = random.normal("occlusion lean", 0.0, 0.35)
        u = self.u.index_select(0, at) - self._column(random.signed("occlusion place", 0.5) * ratio)
        distance = (u * self._column(np.cos(lean)) + self.v.index_select(0, at) * self._column(np.sin(lean))).abs_()
        half = self._column(random.log_uniform("occlusion width", 0.02, 0.15))
        soft = self._column(1.0 / self.geometry.text_height[rows])
        self._cover(at, (half - distance).div(soft).add(0.5).clamp(0.0, 1.0), self.palette.front.index_select(0, at))

    def blend(self) -> None:
        """Blend light and dirt over text and background alike."""
        rows = np.flatnonzero(self.random.chance("blend", self.style.blend_share))
        if len(rows):
            at = self._index(rows)
            strength = self._column(self.random.rows(rows).uniform("blend strength", 0.1, 1.0) * self.style.blend)
            field = self._texture_field("blend", rows) * strength * 0.5
            self.images.index_copy_(0, at, self.images.index_select(0, at) * (1.0 + field[:, None]))

    def weighted(self, coverage: Tensor) -> Tensor:
        """Make strokes bolder or thinner."""
        rows = np.flatnonzero(self.random.chance("weight", self.style.weight_share))
        if not len(rows):
            return coverage
        change = self.random.rows(rows).uniform("weight change", -0.4, 1.0) * self.style.weight
        for some, sign in ((change > 0.0, 1.0), (change <= 0.0, -1.0)):
            at = self._index(rows[some])
            if len(at):
                part = coverage.index_select(0, at)
                part = part if sign > 0.0 else 1.0 - part
                part = dilated(part, self._column(np.abs(change[some])), self.style.weight)
                coverage.index_copy_(0, at, part if sign > 0.0 else 1.0 - part)
        return coverage

    def faded(self, coverage: Tensor) -> Tensor:
        """Make ink paler in places."""
        rows = np.flatnonzero(self.random.chance("fade", self.style.fade_share))
        if not len(rows):
            return coverage
        at, random = self._index(rows), self.random.rows(rows)
        height, width = self.geometry.shape
        # Streaks along the line or blotches, a few letters wide.
        grid = (3, max(2, width // 24))
        noise = smooth_noise(on_device(random.seeds("fade field"), self.device), grid, (height, width))
        strength = self._column(random.uniform("fade strength", 0.2, 0.75))
        ink = 1.0 - strength * (0.5 + noise).clamp_(0.0, 1.0)
        coverage.index_copy_(0, at, coverage.index_select(0, at) * ink)
        return coverage

    def dotted(self, coverage: Tensor) -> Tensor:
        """Make letters of dots, in rows and columns."""
        rows = np.flatnonzero(self.random.chance("dots", self.style.dots_share))
        if not len(rows):
            return coverage
        at, random = self._index(rows), self.random.rows(rows)
        turns = self._column(2.0 * np.pi * random.uniform("dots number", 6.5, 9.5))
        field = torch.cos(self.u.index_select(0, at) * turns) + torch.cos(self.v.index_select(0, at) * turns)
        size = self._column(random.uniform("dots size", 0.2, 1.2))
        coverage.index_copy_(0, at, coverage.index_select(0, at) * (field + size).clamp_(0.0, 1.0))
        return coverage

    # parts

    def _gradient(self, of: str, share: float) -> tuple[Rows, Tensor]:
        rows = np.flatnonzero(self.random.chance(f"{of} gradient", share))
        random = self.random.rows(rows)
        at = self._index(rows)
        angle = random.uniform(f"{of} gradient angle", 0.0, 2.0 * np.pi)
        strength = (
            random.uniform(f"{of} gradient strength", 0.2, 1.0) * self.style.gradient * self.palette.contrast[rows]
        )
        u = self.u.index_select(0, at) * self._column(np.cos(angle) / self.geometry.ratio[rows])
        v = self.v.index_select(0, at) * self._column(np.sin(angle))
        return rows, (u + v).clamp_(-0.7, 0.7) * self._column(strength)

    def _texture(self, of: str, share: float) -> tuple[Rows, Tensor]:
        rows = np.flatnonzero(self.random.chance(f"{of} texture", share))
        strength = self.random.rows(rows).uniform(f"{of} texture strength", 0.1, 1.0) * self.style.texture
        return rows, self._texture_field(f"{of} texture", rows) * self._column(strength * self.palette.contrast[rows])

    def _texture_field(self, name: str, rows: Rows) -> Tensor:
        random = self.random.rows(rows)
        return self.textures.sample(
            on_device(random.integers(f"{name} tile", len(self.textures)), self.device),
            np.stack([random.uniform(f"{name} top"), random.uniform(f"{name} left")], axis=1),
            random.log_uniform(f"{name} scale", 0.35, 2.5),
            random.uniform(f"{name} angle", 0.0, 2.0 * np.pi),
            random.log_uniform(f"{name} aspect", 0.5, 2.0),
            self.geometry.shape,
        )

    def _relief(self, coverage: Tensor) -> tuple[Rows, Tensor]:
        """Return light on the edges towards it and shade on the others; the reverse for letters cut in."""
        rows = np.flatnonzero(self.random.chance("relief", self.style.relief_share))
        random = self.random.rows(rows)
        part = coverage.index_select(0, self._index(rows))
        right, down = self._offsets(random, "relief", 1.5)
        edges = shifted(part, right, down) - shifted(part, -right, -down)
        strength = random.uniform("relief strength", 0.15, 0.6) * self.palette.contrast[rows]
        return rows, edges * self._column(strength * np.where(random.chance("relief cut in", 0.5), 1.0, -1.0))

    def _split(self) -> None:
        """Paint a second area of the background, behind a straight edge."""
        rows = np.flatnonzero(self.random.chance("split", self.style.split_share))
        if not len(rows):
            return
        at, random, ratio = self._index(rows), self.random.rows(rows), self.geometry.ratio[rows]
        angle = random.uniform("split angle", 0.0, 2.0 * np.pi)
        through = random.chance("split through the text", 0.3)
        reach = np.abs(np.cos(angle)) * ratio / 2 + np.abs(np.sin(angle)) / 2
        place = reach * np.where(through, random.uniform("split place", 0.0, 0.9), random.uniform("place", 1.0, 1.3))
        distance = (
            self.u.index_select(0, at) * self._column(np.cos(angle))
            + self.v.index_select(0, at) * self._column(np.sin(angle))
            - self._column(place)
        )
        soft = self._column(1.0 / self.geometry.text_height[rows])
        strength = random.signed("split strength", 1.0) * np.where(through, 0.3, 1.0) * self.palette.contrast[rows]
        self._add(rows, distance.div(soft).add(0.5).clamp(0.0, 1.0) * self._column(strength))

    def _ghosts(self, neighbors: Neighbors) -> None:
        """Paint faint words of another size across the background."""
        rows = np.flatnonzero(self.random.chance("ghost", self.style.ghost_share))
        if not len(rows):
            return
        at, random = self._index(rows), self.random.rows(rows)
        scale = random.log_uniform("ghost scale", 0.7, 3.0)
        u = (self.u.index_select(0, at) - self._column(random.signed("ghost across", 1.0))) * self._column(1.0 / scale)
        v = (self.v.index_select(0, at) - self._column(random.signed("ghost down", 0.7))) * self._column(1.0 / scale)
        masks, ratio = neighbors(rows, 1)
        height = self.geometry.text_height[rows] * scale
        width = self.geometry.text_width[rows] * scale * ratio / self.geometry.ratio[rows]
        coverage = lookup(masks, u, v, ratio, height, width)
        self._add(rows, coverage * self._column(random.signed("ghost strength", 0.25) * self.palette.contrast[rows]))

    def _outlined(self) -> npt.NDArray[np.bool_]:
        return self.random.chance("outline", self.style.outline_share)

    def _hollow(self) -> npt.NDArray[np.bool_]:
        return self.random.chance("hollow", self.style.hollow_share)

    def _offsets(
        self, random: SampleRandom, of: str, strength: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return whole pixels right and down, in any direction, at least one; less where letters are small."""
        angle = random.uniform(f"{of} direction", 0.0, 2.0 * np.pi)
        length = random.uniform(f"{of} length", 1.0, max(1.0, strength))
        return np.rint(length * np.cos(angle)).astype(np.int64), np.rint(length * np.sin(angle)).astype(np.int64)

    # painting

    def _add(self, rows: Rows, change: Tensor) -> None:
        if len(rows):
            self.images.index_add_(0, self._index(rows), change[:, None].expand(-1, self.images.shape[1], -1, -1))

    def _cover(self, at: Tensor, coverage: Tensor, colour: Tensor) -> None:
        below = self.images.index_select(0, at)
        self.images.index_copy_(0, at, below + coverage[:, None] * (colour[:, :, None, None] - below))

    def _index(self, rows: Rows) -> Tensor:
        return on_device(rows, self.device)

    def _column(self, values: Floats) -> Tensor:
        return on_device(np.asarray(values, dtype=np.float32), self.device)[:, None, None]

    def _flags(self, values: npt.NDArray[np.bool_]) -> Tensor:
        return on_device(values, self.device)[:, None]
