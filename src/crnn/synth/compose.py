"""Compose images from coverage masks, batched: colors, fills, borders, shadows, surroundings.

Samples are chosen on the CPU, so effects run on n of N images only and nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crnn.config.synth import StyleConfig
from crnn.distributed import on_device
from crnn.synth.filters import Flags, Floats, Integers, Part, averaged, dilated, shifted, smooth_noise
from crnn.synth.geometry import SIDES, Geometry, letter_gap, lookup, text_coordinates
from crnn.synth.rng import SampleRandom
from crnn.synth.textures import TextureBank

_LUMA = np.array([0.299, 0.587, 0.114])  # Weights of red, green and blue in grey (ITU-R BT.601), as Pillow converts


@dataclass(frozen=True, slots=True)
class Palette:
    """Colors of N images, each ``(N, C)`` float32 in [0, 1]."""

    contrast: Floats  # ``(N,)`` float64: difference in grey of text and background
    on_wall: Flags  # ``(N,)`` letters that stand on a wall in daylight
    background: Tensor  # Behind everything
    text: Tensor  # The letters
    outline: Tensor  # Borders of letters; away from the text's grey
    side: Tensor  # The sides of letters that have depth
    shadow: Tensor  # Their shadow
    other: Tensor  # Anything else: lines, words of another color
    second: Tensor  # The other letters of words in two tones; between the text and its background
    front: Tensor  # Things in front of the letters; nearer to the background's grey than to theirs

    @classmethod
    def draw(cls, random: SampleRandom, style: StyleConfig, channels: int, device: torch.device) -> Palette:
        """Draw random colors."""
        low, high = style.contrast_least, style.contrast_most
        faint = random.chance("low contrast", style.low_contrast_share)
        contrast = random.uniform("contrast", low, np.where(faint, low + (high - low) / 3, high))
        # Paper white and lamp black are more frequent than the greys between.
        place = random.uniform("darkest")
        place = np.where(random.chance("extreme", 0.4), np.rint(place), place)
        dark = (1.0 - contrast) * place
        lighter = random.chance("light text", 0.5)
        text, background = np.where(lighter, [dark + contrast, dark], [dark, dark + contrast])
        paper, ink = 1.0 - 0.3 * random.uniform("paper") ** 2, 0.5 * random.uniform("ink") ** 1.5
        document = np.where(random.chance("printed inverse", 0.06), [paper, ink], [ink, paper])
        # Sides and shadows of letters on a wall are darker than letters and wall, which leave room for that.
        on_wall = random.chance("wall", style.wall_share)
        text, background = np.where(on_wall, 0.25 + 0.75 * np.array([text, background]), [text, background])
        contrast = np.where(on_wall, 0.75 * contrast, contrast)
        printed = random.chance("printed", style.print_share)
        text, background = np.where(printed, document, [text, background])
        contrast = np.where(printed, paper - ink, contrast)
        toward = background - text
        outline = np.where(
            random.chance("outline beyond", 0.4),
            background + toward * random.uniform("outline far", 0.2, 1.0),
            text + toward * random.uniform("outline near", 0.35, 0.8),
        )
        side = np.where(
            random.chance("side dark", 0.4),
            np.minimum(background, text) * random.uniform("side level"),
            text + toward * random.uniform("side", 0.35, 0.75),
        )
        side = np.where(on_wall, np.minimum(background, text) * random.uniform("side level", 0.0, 0.8), side)
        # A shadow as dark as dark letters would be read with them.
        shadow = np.where(lighter, background * random.uniform("shadow level", 0.0, 0.7), text + 0.6 * toward)
        # About as far from the background as the text: beside far stronger things cameras and readers lose it.
        other = background + random.signed("other level", 1.2) * contrast
        second = text + toward * random.uniform("second level", 0.15, 0.6)
        # A pole as dark as dark letters would be read as one of them.
        front = background + random.uniform("front level", -0.4, 0.8) * toward
        names = ("ground", "text", "outline", "side", "shadow", "other", "second", "front")
        levels = (background, text, outline, side, shadow, other, second, front)
        grey = random.chance("grey", 0.3)
        colors = (_tinted(random, *color, grey, channels) for color in zip(names, levels, strict=True))
        return cls(contrast, on_wall, *(on_device(color, device) for color in colors))


def _tinted(random: SampleRandom, name: str, level: Floats, grey: Flags, channels: int) -> npt.NDArray[np.float32]:
    """Return colors of a grey level, of any hue and at most as far from grey as the range allows."""
    level = level.clip(0.0, 1.0)[:, None]
    if channels == 1:
        return level.astype(np.float32)
    hue = random.uniform(f"{name} hue", 0.0, 2.0 * np.pi)
    direction = np.cos(hue[:, None] + np.array([0.0, 2.0, 4.0]) * np.pi / 3.0)
    # Along it, the grey level stays. Not as a product of matrices: those of one row round differently.
    direction -= (direction * _LUMA).sum(axis=1, keepdims=True)
    room = np.where(direction > 0.0, 1.0 - level, level) / np.maximum(np.abs(direction), 1e-6)
    amount = room.min(axis=1) * random.uniform(f"{name} colour") * ~grey
    return np.asarray((level + amount[:, None] * direction).clip(0.0, 1.0), dtype=np.float32)


# (rows, place) -> masks ``(n, Hc, Wc)`` uint8 and ratios ``(n,)`` of the words beside these samples
Neighbors = Callable[[Integers, int], tuple[Tensor, Floats]]

Trace = Callable[[str, Tensor], None]  # Called with the name of each stage and its images

_SCENE_EFFECTS = frozenset(  # Absent from printed documents
    (
        *("arc", "wave", "perspective", "tilt", "slant", "split", "ghost", "shadow", "extrusion", "outline", "hollow"),
        *("wall", "relief", "tone", "occlusion", "blend", "ground gradient", "text gradient", "text texture"),
    )
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Finished scenes, before a camera sees them."""

    images: Tensor  # ``(N, C, H, W)`` float32 in [0, 1]
    geometry: Geometry
    coverage: Tensor  # ``(N, H, W)`` float32, by the text


def compose(
    masks: Tensor,  # ``(N, Hc, Wc)`` uint8
    ratios: Floats,  # ``(N,)`` width over height of their ink
    lines: Flags,  # ``(N,)`` texts with spaces
    neighbors: Neighbors,
    random: SampleRandom,
    style: StyleConfig,
    textures: TextureBank,
    shape: tuple[int, int],  # H, W
    channels: int,  # C, 1 or 3
    trace: Trace = lambda *_: None,
    fit: tuple[float, float] | None = None,  # As for ``Geometry.draw``
) -> Scene:
    """Compose images of N words and of the words beside them."""
    printed = random.chance("printed", style.print_share)
    random = random.without(_SCENE_EFFECTS, printed)
    chosen, sides, gaps, room = _plan_neighbors(random, style, lines | printed)
    geometry = Geometry.draw(random, ratios, style, shape, room, fit, lines)
    painter = _Painter(random, style, textures, geometry, masks, neighbors, channels)
    trace("shape", painter.coverage[:, None])
    painter.background()
    painter.apply("split", style.split_share, painter.split)
    painter.apply("ghost", style.ghost_share, painter.ghosts)
    trace("ground", painter.images)
    painter.neighbors(chosen, sides, gaps)
    painter.apply("frame", style.frame_share, painter.lines)
    trace("beside it", painter.images)
    painter.apply("shadow", style.shadow_share, painter.shadows)
    painter.extrusions()
    painter.outlines()
    trace("shadow, border", painter.images)
    painter.text()
    painter.second_tone()
    trace("letters", painter.images)
    painter.apply("occlusion", style.occlusion_share, painter.occlusions)
    painter.apply("blend", style.blend_share, painter.blend)
    return Scene(painter.images.clamp_(0.0, 1.0), geometry, painter.coverage)


def _plan_neighbors(random: SampleRandom, style: StyleConfig, lines: Flags) -> tuple[Flags, Integers, Floats, Floats]:
    """Draw up to two other words in a crop: (N, 2) chosen, sides and gaps; (N, 4) room, both in text heights."""
    first = random.chance("neighbour", style.neighbor_share)
    chosen = np.stack([first, first & random.chance("neighbour second", style.second_neighbor_share)], axis=1)
    side = random.choice("neighbour side", (0.3, 0.3, 0.2, 0.2))
    other = (side + 1 + random.integers("neighbour second side", SIDES - 1)) % SIDES
    # Beside a line, a thin character of a neighbor could not be told from the line's own first or last.
    side, other = np.where(lines, 2 + side % 2, side), np.where(lines, 3 - side % 2, other)
    sides = np.stack([side, other], axis=1)
    # A space away, and less than a letter of it: whole letters nearby are read with the word.
    gaps = np.stack([random.uniform("neighbour gap", 0.25, 0.7), random.uniform("second gap", 0.25, 0.7)], axis=1)
    gaps *= np.where(sides >= 2, 0.5, 1.0)  # lines above and below are usually nearer than words beside
    seen = np.stack([random.uniform("neighbour seen", 0.0, 0.35), random.uniform("second seen", 0.0, 0.35)], axis=1)
    room = np.zeros((len(random), SIDES))
    np.put_along_axis(room, sides, np.where(chosen, gaps + seen, 0.0), axis=1)
    return chosen, sides, gaps, room


class _Painter:
    """Paint images from the back to the front."""

    def __init__(
        self,
        random: SampleRandom,
        style: StyleConfig,
        textures: TextureBank,
        geometry: Geometry,
        masks: Tensor,
        others: Neighbors,
        channels: int,
    ) -> None:
        self.random, self.style, self.textures, self.geometry = random, style, textures, geometry
        self.masks, self.others = masks, others
        self.u, self.v = text_coordinates(geometry, masks.device)
        self.palette = Palette.draw(random, style, channels, masks.device)
        self.hollow = random.chance("hollow", style.hollow_share)
        self.images = self.palette.background[:, :, None, None].expand(-1, -1, *geometry.shape).clone()
        self.coverage = lookup(masks, self.u, self.v, geometry.ratio, geometry.text_height, geometry.text_width)
        self.apply("weight", style.weight_share, self._weigh)
        self.apply("fade", style.fade_share, self._fade)
        self.apply("dots", style.dots_share, self._dot)

    def apply(self, effect: str, share: float, paint: Callable[[Part], None]) -> None:
        """Paint on the samples that have an effect."""
        part = self._part(effect, share)
        if len(part.rows):
            paint(part)

    def _weigh(self, part: Part) -> None:
        """Make strokes bolder or thinner."""
        change = part.random.uniform("weight change", -0.4, 1.0) * self.style.weight
        thinner = part.tensor(change <= 0.0)
        strokes = part.take(self.coverage)
        strokes = torch.where(thinner, 1.0 - strokes, strokes)
        strokes = dilated(strokes, part.tensor(np.abs(change)), self.style.weight)
        self.coverage.index_copy_(0, part.index, torch.where(thinner, 1.0 - strokes, strokes))

    def _fade(self, part: Part) -> None:
        """Make ink paler in streaks along the line or blotches, a few letters wide."""
        grid = (3, max(2, self.geometry.shape[1] // 24))
        noise = smooth_noise(part.seeds("fade field"), grid, self.geometry.shape)
        ink = 1.0 - part.uniform("fade strength", 0.2, 0.75) * (0.5 + noise).clamp_(0.0, 1.0)
        self.coverage.index_copy_(0, part.index, part.take(self.coverage) * ink)

    def _dot(self, part: Part) -> None:
        """Make letters of dots, in rows and columns."""
        turns = part.tensor(2.0 * np.pi * part.random.uniform("dots number", 6.5, 9.5))
        dots = torch.cos(part.take(self.u) * turns) + torch.cos(part.take(self.v) * turns)
        dots = (dots + part.uniform("dots size", 0.2, 1.2)).clamp_(0.0, 1.0)
        self.coverage.index_copy_(0, part.index, part.take(self.coverage) * dots)

    def background(self) -> None:
        """Add gradient and texture to the color."""
        self._add(*self._gradient("ground", self.style.gradient_share))
        self._add(*self._texture("ground", self.style.texture_share))

    def split(self, part: Part) -> None:
        """Paint a second area of the background, behind a straight edge."""
        random, ratio = part.random, self.geometry.ratio[part.rows]
        angle = random.uniform("split angle", 0.0, 2.0 * np.pi)
        through = random.chance("split through the text", 0.3)
        reach = np.abs(np.cos(angle)) * ratio / 2 + np.abs(np.sin(angle)) / 2
        place = reach * np.where(through, random.uniform("split place", 0.0, 0.9), random.uniform("place", 1.0, 1.3))
        u, v = part.take(self.u) * part.tensor(np.cos(angle)), part.take(self.v) * part.tensor(np.sin(angle))
        strength = random.signed("split strength", 1.0) * np.where(through, 0.3, 1.0) * self.palette.contrast[part.rows]
        self._add(part, self._inside(part, u + v - part.tensor(place)) * part.tensor(strength))

    def ghosts(self, part: Part) -> None:
        """Paint faint words of another size across the background."""
        random, rows = part.random, part.rows
        scale = random.log_uniform("ghost scale", 0.7, 3.0)
        u = (part.take(self.u) - part.tensor(random.signed("ghost across", 1.0))) * part.tensor(1.0 / scale)
        v = (part.take(self.v) - part.tensor(random.signed("ghost down", 0.7))) * part.tensor(1.0 / scale)
        masks, ratio = self.others(rows, 1)
        width = self.geometry.text_width[rows] * scale * ratio / self.geometry.ratio[rows]
        coverage = lookup(masks, u, v, ratio, self.geometry.text_height[rows] * scale, width)
        self._add(part, coverage * part.tensor(random.signed("ghost strength", 0.25) * self.palette.contrast[rows]))

    def neighbors(self, chosen: Flags, sides: Integers, gaps: Floats) -> None:
        """Paint parts of other words, usually in the color of the text."""
        for place in (0, 1):
            part = Part(self.random, chosen[:, place], self.u.device)
            if not len(part.rows):
                continue
            ratio, side, gap = self.geometry.ratio[part.rows], sides[part.rows, place], gaps[part.rows, place]
            masks, other = self.others(part.rows, place)
            along = part.random.signed(f"neighbour {place} along", 0.5) * ratio
            du = np.select([side == 0, side == 1], [-(ratio + other) / 2 - gap, (ratio + other) / 2 + gap], along)
            dv = np.select([side == 2, side == 3], [-1.0 - gap, 1.0 + gap], 0.0)
            u, v = part.take(self.u) - part.tensor(du), part.take(self.v) - part.tensor(dv)
            width = self.geometry.text_width[part.rows] * other / ratio
            coverage = lookup(masks, u, v, other, self.geometry.text_height[part.rows], width)
            self._cover(part, coverage, self._text_or_other(part, f"neighbour {place} colour", 0.8))

    def lines(self, part: Part) -> None:
        """Paint rules and frames: lines through the whole crop, beside the text."""
        kind = part.random.choice("frame kind", (0.3, 0.25, 0.1, 0.1, 0.25))  # below, above, left, right, all around
        gap = part.random.uniform("frame gap", 0.12, 0.35)  # nearer it would not be read apart
        u, v = part.take(self.u), part.take(self.v)
        # Distance outside the text's box, towards the side where the line is.
        vertical, across = part.tensor(0.5 + gap), part.tensor(self.geometry.ratio[part.rows] / 2 + gap)
        around = torch.maximum(v.abs() - vertical, u.abs() - across)
        distances = torch.stack([v - vertical, -v - vertical, -u - across, u - across, around])
        distance = distances.gather(0, on_device(kind, u.device)[None, :, None, None].expand(1, *u.shape))[0]
        half = part.uniform("frame width", 0.015, 0.08)
        filled = part.chance("frame filled", 0.3)  # all behind the line: the edge of a sign
        coverage = self._inside(part, torch.where(filled, distance + half, half - distance.abs()))
        self._cover(part, coverage, self._text_or_other(part, "frame colour", 0.5))

    def shadows(self, part: Part) -> None:
        """Paint shadows of the letters."""
        shadow = shifted(part.take(self.coverage), *self._offsets(part, "shadow", self.style.shadow))
        shadow = shadow + part.uniform("shadow soft") * (averaged(averaged(shadow, 2), 1) - shadow)
        self._cover(part, shadow * part.uniform("shadow opacity", 0.3, 0.9), part.take(self.palette.shadow))

    def extrusions(self) -> None:
        """Paint the depth of the letters; on walls it is long and below them, where daylight leaves it dark."""
        on_wall = self.palette.on_wall
        deep = self.random.chance("extrusion", self.style.extrusion_share)
        part = Part(self.random, deep | on_wall, self.u.device)
        offsets = self._offsets(part, "extrusion", self.style.shadow, on_wall[part.rows])
        depth = front = part.take(self.coverage)
        copies = math.ceil(max(3.0, self.style.shadow))
        for copy in range(1, copies + 1):
            right, down = (np.rint(offset * (copy / copies)).astype(np.int64) for offset in offsets)
            depth = torch.maximum(depth, shifted(front, right, down))
        self._cover(part, depth, part.take(self.palette.side))

    def outlines(self) -> None:
        """Paint borders around the letters."""
        outlined = self.random.chance("outline", self.style.outline_share)
        part = Part(self.random, outlined | self.hollow, self.u.device)
        color = self._where_hollow(self.palette.text, self.palette.outline)
        widths = part.uniform("outline width", 0.7, max(0.7, self.style.outline))
        self._cover(part, dilated(part.take(self.coverage), widths, self.style.outline), part.take(color))

    def text(self) -> None:
        """Paint the letters, with gradient, texture and relief."""
        color = self._where_hollow(self.palette.background, self.palette.text)[:, :, None, None]
        self.images += self.coverage[:, None] * (color - self.images)
        for part, change in (
            self._gradient("text", self.style.gradient_share),
            self._texture("text", self.style.fill_texture_share),
            self._relief(),
        ):
            self._add(part, change * part.take(self.coverage))

    def second_tone(self) -> None:
        """Paint the first or last letters of some words in another tone, as in names of two parts."""
        toned = self.random.chance("tone", self.style.tone_share) & ~self.hollow
        part = Part(self.random, toned, self.u.device)
        places = part.random.uniform("tone place", 0.3, 0.7)
        begins = letter_gap(part.take(self.masks), self.geometry.ratio[part.rows], places)
        last = self._inside(part, part.take(self.u) - begins)
        chosen = torch.where(part.chance("tone last", 0.5), last, 1.0 - last)
        change = part.take(self.palette.second - self.palette.text)[:, :, None, None]
        self.images.index_add_(0, part.index, change * (chosen * part.take(self.coverage))[:, None])

    def occlusions(self, part: Part) -> None:
        """Paint poles, wires and branches in front of the text."""
        lean = part.random.normal("occlusion lean", 0.0, 0.35)
        place = part.random.signed("occlusion place", 0.5) * self.geometry.ratio[part.rows]
        u, v = part.take(self.u) - part.tensor(place), part.take(self.v)
        distance = (u * part.tensor(np.cos(lean)) + v * part.tensor(np.sin(lean))).abs_()
        half = part.tensor(part.random.log_uniform("occlusion width", 0.02, 0.15))
        self._cover(part, self._inside(part, half - distance), part.take(self.palette.front))

    def blend(self, part: Part) -> None:
        """Blend light and dirt over text and background alike."""
        strength = part.tensor(part.random.uniform("blend strength", 0.1, 1.0) * self.style.blend)
        field = self._texture_field(part, "blend") * strength * 0.5
        self.images.index_copy_(0, part.index, part.take(self.images) * (1.0 + field[:, None]))

    def _gradient(self, of: str, share: float) -> tuple[Part, Tensor]:
        part = self._part(f"{of} gradient", share)
        angle = part.random.uniform(f"{of} gradient angle", 0.0, 2.0 * np.pi)
        strength = part.random.uniform(f"{of} gradient strength", 0.2, 1.0) * self.style.gradient
        u = part.take(self.u) * part.tensor(np.cos(angle) / self.geometry.ratio[part.rows])
        v = part.take(self.v) * part.tensor(np.sin(angle))
        return part, (u + v).clamp_(-0.7, 0.7) * part.tensor(strength * self.palette.contrast[part.rows])

    def _texture(self, of: str, share: float) -> tuple[Part, Tensor]:
        walls = self.palette.on_wall if of == "ground" else False
        part = Part(self.random, self.random.chance(f"{of} texture", share) | walls, self.u.device)
        strength = part.random.uniform(f"{of} texture strength", 0.1, 1.0) * self.style.texture
        field = self._texture_field(part, f"{of} texture")
        return part, field * part.tensor(strength * self.palette.contrast[part.rows])

    def _texture_field(self, part: Part, name: str) -> Tensor:
        random = part.random
        return self.textures.sample(
            on_device(random.integers(f"{name} tile", len(self.textures)), self.u.device),
            np.stack([random.uniform(f"{name} top"), random.uniform(f"{name} left")], axis=1),
            random.log_uniform(f"{name} scale", 0.35, 2.5),
            np.where(
                random.chance(f"{name} upright", 0.5) | self.palette.on_wall[part.rows],
                random.normal(f"{name} lean", 0.0, 0.04),
                random.uniform(f"{name} angle", 0.0, 2.0 * np.pi),
            ),
            random.log_uniform(f"{name} aspect", 0.5, 2.0),
            self.geometry.shape,
        )

    def _relief(self) -> tuple[Part, Tensor]:
        """Return light on the edges towards it and shade on the others; the reverse for letters cut in."""
        part = self._part("relief", self.style.relief_share)
        letters = part.take(self.coverage)
        right, down = self._offsets(part, "relief", 1.5)
        edges = shifted(letters, right, down) - shifted(letters, -right, -down)
        strength = part.random.uniform("relief strength", 0.15, 0.6) * self.palette.contrast[part.rows]
        return part, edges * part.tensor(strength * np.where(part.random.chance("relief cut in", 0.5), 1.0, -1.0))

    def _offsets(
        self, part: Part, of: str, most: float, below: Flags | Literal[False] = False
    ) -> tuple[Integers, Integers]:
        """Draw whole pixels right and down, in any direction or ``below``; at most a third of the letters' height."""
        turn, most = part.random.uniform(f"{of} direction", 0.0, 2.0 * np.pi), max(1.0, most)
        angle = np.where(below, np.pi / 2.0 + 0.4 * (turn - np.pi), turn)
        length = part.random.log_uniform(f"{of} length", 1.0, most)
        length = np.where(below, part.random.uniform(f"{of} length", most / 4.0, most), length)
        length = np.minimum(length, np.maximum(1.0, self.geometry.text_height[part.rows] / 3.0))
        return np.rint(length * np.cos(angle)).astype(np.int64), np.rint(length * np.sin(angle)).astype(np.int64)

    def _part(self, name: str, share: float) -> Part:
        return Part(self.random, self.random.chance(name, share), self.u.device)

    def _inside(self, part: Part, distance: Tensor) -> Tensor:
        """Return the coverage of pixels at distances, in text heights, from an edge; above 0 is inside."""
        return distance.div(part.tensor(1.0 / self.geometry.text_height[part.rows])).add(0.5).clamp(0.0, 1.0)

    def _text_or_other(self, part: Part, name: str, share: float) -> Tensor:
        same = part.chance(name, share)[..., 0]
        return torch.where(same, part.take(self.palette.text), part.take(self.palette.other))

    def _where_hollow(self, color: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(on_device(self.hollow, self.u.device)[:, None], color, otherwise)

    def _add(self, part: Part, change: Tensor) -> None:
        self.images.index_add_(0, part.index, change[:, None].expand(-1, self.images.shape[1], -1, -1))

    def _cover(self, part: Part, coverage: Tensor, color: Tensor) -> None:
        below = part.take(self.images)
        self.images.index_copy_(0, part.index, below + coverage[:, None] * (color[:, :, None, None] - below))
