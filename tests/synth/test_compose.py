"""Masks to images: effects change what they shall and nothing else, and an image is the same in any batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from crnn.config.run import Config
from crnn.config.synth import CameraConfig, StyleConfig
from crnn.synth.compose import Palette, Scene, compose
from crnn.synth.geometry import lookup, text_coordinates
from crnn.synth.rasterizer import MASK_HEIGHT, MASK_MARGIN
from crnn.synth.renderer import Renderer, to_bytes
from crnn.synth.rng import SampleRandom
from crnn.synth.textures import TextureBank

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
COUNT = 48
SHAPE = (32, 100)
MASK_WIDTH = 132
RATIO = 3.0

OFF: dict[str, Any] = {
    **{name: 0.0 for name in StyleConfig.model_fields if name.endswith("_share")},
    "stretch": 0.0, "rotate_degrees": 0.0, "margin": 0.0, "cut": 0.0, "texture_tiles": 4,
}  # fmt: skip

Configs = Callable[..., Config]


@pytest.fixture(scope="module")
def textures() -> TextureBank:
    return TextureBank(StyleConfig(**OFF), 1, CPU)


def filled(count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Masks all of ink, and the part inside of their margins."""
    masks = torch.zeros((count, MASK_HEIGHT, MASK_WIDTH), dtype=torch.uint8)
    inside = masks[:, MASK_MARGIN:-MASK_MARGIN, MASK_MARGIN:-MASK_MARGIN]
    inside[:] = 255
    return masks, inside


def bars() -> Tensor:
    """Two upright strokes and a bar across, as a word: sharp edges, an inside, gaps."""
    masks, inside = filled()
    inside[:, :12, 30:-30] = inside[:, 24:, 30:-30] = 0
    return masks


def nothing_beside(rows: np.ndarray, place: int) -> tuple[Tensor, np.ndarray]:
    raise AssertionError("no other word was to be drawn")


def block_beside(rows: np.ndarray, place: int) -> tuple[Tensor, np.ndarray]:
    return filled(len(rows))[0], np.full(len(rows), 2.0)


def empty_beside(rows: np.ndarray, place: int) -> tuple[Tensor, np.ndarray]:
    masks, ratios = block_beside(rows, place)
    return torch.zeros_like(masks), ratios


def random() -> SampleRandom:
    return SampleRandom(3, np.arange(COUNT))


def scene(
    textures: TextureBank,
    neighbors: Callable[[np.ndarray, int], tuple[Tensor, np.ndarray]] = nothing_beside,
    channels: int = 1,
    masks: Tensor | None = None,
    lines: bool = False,
    **changes: Any,
) -> Scene:
    style = StyleConfig(**{**OFF, "margin": 0.3, **changes})
    masks = bars() if masks is None else masks
    ratios, flags = np.full(COUNT, RATIO), np.full(COUNT, lines)
    return compose(masks, ratios, flags, neighbors, random(), style, textures, SHAPE, channels)


def palette(channels: int = 1, **changes: Any) -> Palette:
    return Palette.draw(random(), StyleConfig(**{**OFF, **changes}), channels, CPU)


def change(textures: TextureBank, base: dict[str, Any] | None = None, **effect: Any) -> tuple[Scene, Scene, Tensor]:
    """The scene without an effect, the one with it, and (N, H, W) by how much they differ."""
    before, after = scene(textures, **(base or {})), scene(textures, **(base or {}), **effect)
    assert torch.equal(before.coverage, after.coverage) or "weight_share" in effect
    return before, after, (after.images - before.images)[:, 0]


def near(coverage: Tensor, pixels: int) -> Tensor:
    """(N, H, W) whether there is anything of the letters within so many pixels, across and down."""
    return max_pool2d(coverage[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0.0


def distance_outside(some: Scene) -> Tensor:
    """(N, H, W) how far outside the box of the word a pixel is, in text heights; below 0 inside."""
    u, v = text_coordinates(some.geometry, CPU)
    return torch.maximum(u.abs() - RATIO / 2, v.abs() - 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_with_everything_off_it_is_flat_text_on_a_flat_ground(textures: TextureBank, channels: int) -> None:
    found = scene(textures, channels=channels)
    assert found.images.shape == (COUNT, channels, *SHAPE)
    assert (found.images.dtype, found.coverage.dtype) == (torch.float32, torch.float32)
    colors = palette(channels)
    coverage = found.coverage[:, None].expand_as(found.images)
    background, text = (c[:, :, None, None].expand_as(found.images) for c in (colors.background, colors.text))
    assert torch.equal(found.images[coverage == 0.0], background[coverage == 0.0])
    torch.testing.assert_close(found.images[coverage == 1.0], text[coverage == 1.0], rtol=0.0, atol=1e-6)
    torch.testing.assert_close(found.images, background + coverage * (text - background), rtol=0.0, atol=1e-6)
    for level in (0.0, 1.0):
        assert (found.coverage == level).flatten(1).float().mean(dim=1).min() > 0.1


def test_coverage_is_where_the_word_is(textures: TextureBank) -> None:
    found = scene(textures)
    u, v = text_coordinates(found.geometry, CPU)
    across = (u / RATIO + 0.5) * 128
    ink = ((across < 30.0) | (across >= 98.0) | ((v + 0.5) * 36 - 18.0).abs().lt(6.0)) & (distance_outside(found) < 0.0)
    assert (found.coverage.gt(0.5) == ink).float().mean() > 0.985
    assert found.coverage[distance_outside(found) > 0.06].max() == 0.0


def test_contrast_is_what_is_set(textures: TextureBank) -> None:
    for low, high in ((0.1, 0.95), (0.5, 0.5), (1.0, 1.0)):
        colors = palette(contrast_least=low, contrast_most=high)
        difference = (colors.text - colors.background).abs()[:, 0].double().numpy()
        assert difference == pytest.approx(colors.contrast, abs=1e-6)
        assert colors.contrast.min() >= low - 1e-9
        assert colors.contrast.max() <= high + 1e-9
    images = scene(textures, contrast_least=0.4, contrast_most=0.6).images.flatten(1)
    spread = images.amax(dim=1) - images.amin(dim=1)
    assert spread.min() >= 0.4 - 1e-5
    assert spread.max() <= 0.6 + 1e-5
    faint = palette(low_contrast_share=1.0, contrast_least=0.1, contrast_most=0.7).contrast
    assert faint.max() < 0.3


def test_what_surrounds_letters_is_not_of_their_own_grey() -> None:
    colors = palette()
    assert 0.25 < (colors.text > colors.background).float().mean() < 0.75
    for color in (colors.outline, colors.shadow):  # or letters would grow
        assert ((color - colors.text).abs()[:, 0].double().numpy() >= 0.25 * colors.contrast).mean() > 0.8
    share = ((colors.second - colors.text) / (colors.background - colors.text))[:, 0]
    assert 0.15 - 1e-4 <= share.min() <= share.max() <= 0.6 + 1e-4


def test_a_colour_has_the_grey_level_of_the_palette() -> None:
    grey, colour = palette(1), palette(3)
    weights = torch.tensor([0.299, 0.587, 0.114])
    coloured = 0
    for name in ("background", "text", "outline", "side", "shadow", "other"):
        level, mixture = getattr(grey, name), getattr(colour, name)
        assert mixture.shape == (COUNT, 3)
        assert ((mixture >= 0.0) & (mixture <= 1.0)).all()
        torch.testing.assert_close((mixture * weights).sum(dim=1), level[:, 0], rtol=0.0, atol=1e-6)
        coloured += int((mixture.amax(dim=1) - mixture.amin(dim=1) > 0.05).sum())
    assert coloured > COUNT
    assert (grey.contrast == colour.contrast).all()


def test_outlines_are_around_the_letters(textures: TextureBank) -> None:
    before, after, difference = change(textures, outline_share=1.0, outline=2.0)
    inside = before.coverage == 1.0
    assert difference[inside].abs().max() < 1e-6
    assert difference[~near(before.coverage, 2)].abs().max() == 0.0
    # Next to a letter, where a border of 0.7 pixels and more covers most, there is its colour.
    letters = (before.coverage == 1.0)[:, None].float()
    neighbors, above = (
        max_pool2d(letters, k, stride=1, padding=(k[0] // 2, k[1] // 2))[:, 0] for k in ((1, 3), (3, 1))
    )
    touching = ((neighbors > 0.0) | (above > 0.0)) & (before.coverage == 0.0)
    colors = palette()
    share = (after.images - before.images)[:, 0] / (colors.outline - colors.background)[:, :, None]
    visible = (colors.outline - colors.background).abs().gt(0.05)[:, :, None] & touching
    assert visible.sum() > 1000
    assert (share[visible] > 0.6).all()
    assert (share[visible] < 1.0 + 1e-4).all()


def test_of_hollow_letters_only_the_border_is_drawn(textures: TextureBank) -> None:
    before, after, _ = change(textures, hollow_share=1.0)
    colors = palette()
    background, text = (c[:, :, None, None].expand_as(after.images) for c in (colors.background, colors.text))
    inside = before.coverage[:, None] == 1.0
    torch.testing.assert_close(after.images[inside], background[inside], rtol=0.0, atol=1e-6)
    strength = ((after.images - background) / (text - background)).amax(dim=(1, 2, 3))
    assert strength.min() > 0.5


@pytest.mark.parametrize("effect", ["shadow", "extrusion"])
def test_shadows_and_depth_fall_to_one_side(textures: TextureBank, effect: str) -> None:
    before, _, difference = change(textures, {"margin": 1.0}, **{f"{effect}_share": 1.0, "shadow": 3.0})
    assert difference[before.coverage == 1.0].abs().max() < 1e-6
    # A shadow is up to three pixels away and soft for one more; depth is that drawn three times.
    assert difference[~near(before.coverage, 4)].abs().max() == 0.0
    angle = random().uniform(f"{effect} direction", 0.0, 2.0 * np.pi)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in SHAPE), indexing="ij")

    def middle(weights: Tensor) -> np.ndarray:
        total = weights.sum(dim=(1, 2))
        return torch.stack([(weights * columns).sum(dim=(1, 2)), (weights * rows).sum(dim=(1, 2))]).div(total).numpy()

    whole = near(before.coverage, 6)
    inside = ~(whole[:, [0, -1]].any(dim=(1, 2)) | whole[:, :, [0, -1]].any(dim=(1, 2))).numpy()
    seen = inside & (difference.abs().amax(dim=(1, 2)).numpy() > 0.03)
    assert seen.sum() > 10
    # Together with the letters the changed pixels lie further towards the side of the light's shadow.
    moved = middle(before.coverage + difference.abs().gt(1e-3)) - middle(before.coverage)
    toward = moved[0] * np.cos(angle) + moved[1] * np.sin(angle)
    assert (toward[seen] > 0.1).all()


def test_letters_on_walls_have_dark_sides_below(textures: TextureBank) -> None:
    colors = palette(wall_share=1.0)
    assert colors.on_wall.all()
    assert not palette(wall_share=0.0).on_wall.any()
    assert (colors.side <= 0.8 * torch.minimum(colors.text, colors.background) + 1e-6).all()
    assert torch.minimum(colors.text, colors.background).min() >= 0.25  # or sides could not be told from letters
    assert (colors.text - colors.background).abs()[:, 0].double().numpy() == pytest.approx(colors.contrast, abs=1e-6)

    def middles(weights: Tensor) -> Tensor:
        return (weights * torch.arange(SHAPE[0])[:, None]).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))

    found = scene(textures, margin=1.0, wall_share=1.0, texture=0.0, shadow=8.0)
    beside = found.coverage == 0.0
    dark = beside & (found.images[:, 0] < torch.minimum(colors.text, colors.background)[:, :, None] - 0.02)
    visible = dark.sum(dim=(1, 2)) > 20
    assert visible.float().mean() > 0.7
    assert (middles(dark.float()) > middles(found.coverage))[visible].all()
    # The wall has a texture whatever the share of others is; printed words have neither.
    plain, wall = (scene(textures, wall_share=1.0, shadow=8.0, texture=texture) for texture in (0.0, 0.35))
    assert ((plain.images != wall.images) & (plain.coverage[:, None] == 0.0)).flatten(1).any(dim=1).all()
    printed = [scene(textures, print_share=1.0, wall_share=share).images for share in (0.0, 1.0)]
    assert torch.equal(*printed)


def test_half_of_all_textures_stand_upright(textures: TextureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, angles = textures.sample, []

    def noted(*given: Any) -> Tensor:
        angles.append(given[3])
        return sample(*given)

    monkeypatch.setattr(textures, "sample", noted)
    scene(textures, texture_share=1.0)
    scene(textures, texture_share=0.0, wall_share=1.0)
    all_kinds, walls = (np.abs(angle) < 0.2 for angle in angles if len(angle))
    assert 0.3 < all_kinds.mean() < 0.8
    assert walls.all()


def test_relief_is_on_the_edges_of_letters(textures: TextureBank) -> None:
    before, _, difference = change(textures, relief_share=1.0)
    assert difference[before.coverage == 0.0].abs().max() == 0.0
    # Two pixels and more from any edge of the letters, or of the image, nothing is changed.
    deep = ~near(1.0 - before.coverage, 3)
    deep[:, :2] = deep[:, -2:] = deep[:, :, :2] = deep[:, :, -2:] = False
    assert deep.flatten(1).any(dim=1).all()
    assert difference[deep].abs().max() < 1e-6
    contrast = torch.from_numpy(palette().contrast)[:, None, None]
    assert (difference.abs() <= 0.6 * contrast + 1e-6).all()
    lighter, darker = (difference > 0.0).flatten(1).any(dim=1), (difference < 0.0).flatten(1).any(dim=1)
    assert (lighter & darker).float().mean() > 0.5


def test_strokes_become_bolder_and_thinner(textures: TextureBank) -> None:
    before, after, _ = change(textures, weight_share=1.0, weight=1.0)
    grown = (after.coverage - before.coverage).flatten(1)
    bolder, thinner = (grown.amin(dim=1) >= 0.0).numpy(), (grown.amax(dim=1) <= 0.0).numpy()
    assert (bolder | thinner).all()
    assert bolder.sum() > thinner.sum() > 3
    assert grown.abs().amax(dim=1).median() > 0.1
    assert after.coverage[~near(before.coverage, 1)].max() == 0.0


def two_blocks() -> Tensor:
    """Two letters with a gap right of the middle, of a thirtieth of the mask."""
    masks, inside = filled()
    inside[:, :, 68:72] = 0
    return masks


def test_a_second_tone_begins_between_two_letters(textures: TextureBank) -> None:
    before, after, difference = change(textures, {"masks": two_blocks(), "margin": 0.1}, tone_share=1.0)
    assert difference[before.coverage == 0.0].abs().max() == 0.0
    u, _ = text_coordinates(before.geometry, CPU)
    along = (u / RATIO + 0.5) * 128
    inside = before.coverage == 1.0
    # The gap lies within reach of nearly every place where a tone may begin; the others cut a letter.
    at_gap = torch.from_numpy((random().uniform("tone place", 0.3, 0.7) - 70 / 128) <= 0.1)
    at_gap &= torch.from_numpy((random().uniform("tone place", 0.3, 0.7) - 70 / 128) >= -0.1)
    assert at_gap.sum() > 15
    last = torch.from_numpy(random().chance("tone last", 0.5))
    assert 5 < last.sum() < COUNT - 5
    colors = palette()
    for row in range(COUNT):
        if not at_gap[row]:
            continue
        chosen = inside[row] & ((along[row] > 74) if last[row] else (along[row] < 66))
        kept = inside[row] & ((along[row] < 66) if last[row] else (along[row] > 74))
        assert chosen.any()
        assert kept.any()
        assert difference[row][kept].abs().max() < 1e-6
        tone = after.images[row, 0][chosen]
        torch.testing.assert_close(tone, colors.second[row].expand_as(tone), rtol=0.0, atol=1e-5)


def test_gradients_are_even_slopes(textures: TextureBank) -> None:
    before, _, difference = change(
        textures, {"contrast_least": 0.5, "contrast_most": 0.5, "gradient": 0.4}, gradient_share=1.0
    )
    background = before.coverage == 0.0
    assert difference[background].abs().max() <= 0.7 * 0.4 * 0.5 + 1e-6
    # The edges of the image are background where margins are: a slope has no bends there, but for the limit of 0.7.
    top = difference[:, 0, :][(before.coverage[:, 0] == 0.0).all(dim=1)]
    bends = top.diff(n=2, dim=1).abs()
    assert (bends > 1e-5).float().mean() < 0.05
    assert top.diff(dim=1).abs().amax(dim=1).median() > 1e-4


@pytest.mark.parametrize(("effect", "where"), [("texture", 0.0), ("fill_texture", 1.0)])
def test_textures_are_as_strong_as_set(textures: TextureBank, effect: str, where: float) -> None:
    before, _, difference = change(textures, **{f"{effect}_share": 1.0, "texture": 0.3})
    contrast = torch.from_numpy(palette().contrast).float()
    assert (difference.abs().amax(dim=(1, 2)) <= 0.3 * contrast + 1e-5).all()
    elsewhere = before.coverage == 1.0 - where
    assert difference[elsewhere].abs().max() < 1e-6
    here = torch.where(before.coverage == where, difference, 0.0)
    assert (here.flatten(1).std(dim=1) > 0.005 * contrast).float().mean() > 0.7


def test_blends_change_light_and_dark_alike(textures: TextureBank) -> None:
    before, _, difference = change(textures, blend_share=1.0, blend=0.4)
    bright = before.images[:, 0] > 0.05
    assert (difference.abs()[bright] <= 0.2 * before.images[:, 0][bright] + 1e-5).all()
    assert difference[before.coverage == 1.0].abs().max() > 0.02
    assert difference[before.coverage == 0.0].abs().max() > 0.02


def test_a_split_ground_has_two_levels(textures: TextureBank) -> None:
    before, _, difference = change(textures, split_share=1.0)
    contrast = torch.from_numpy(palette().contrast).float()
    assert (difference.abs().amax(dim=(1, 2)) <= contrast + 1e-6).all()
    assert difference[before.coverage == 1.0].abs().max() < 1e-6
    inside = (distance_outside(before) < 0.0) & (before.coverage == 0.0)
    through = torch.where(inside, difference, 0.0).abs().amax(dim=(1, 2))
    # Where the edge runs through the text, both sides stay away from the text's own grey.
    assert (through <= 0.3 * contrast + 1e-6)[through > 0.0].float().mean() > 0.6
    found = [np.unique(d[(c == 0.0)].round(decimals=3)) for d, c in zip(difference, before.coverage, strict=True)]
    assert np.median([len(levels) for levels in found]) < 40  # two levels and the soft edge


def test_faint_words_stay_faint(textures: TextureBank) -> None:
    before, _, difference = change(textures, ghost_share=1.0, neighbors=block_beside)
    contrast = torch.from_numpy(palette().contrast).float()
    assert (difference.abs().amax(dim=(1, 2)) <= 0.25 * contrast + 1e-6).all()
    assert (difference.abs().amax(dim=(1, 2)) > 0.0).float().mean() > 0.8
    assert difference[before.coverage == 1.0].abs().max() < 1e-6


@pytest.mark.parametrize("second", [0.0, 1.0])
def test_neighbours_keep_their_distance(textures: TextureBank, second: float) -> None:
    shares = {"neighbor_share": 1.0, "second_neighbor_share": second}
    before = scene(textures, neighbors=empty_beside, **shares)
    after = scene(textures, neighbors=block_beside, **shares)
    assert (before.geometry.inverse == after.geometry.inverse).all()
    changed = (after.images - before.images)[:, 0].abs() > 1e-6
    assert changed.flatten(1).any(dim=1).float().mean() > 0.6
    assert distance_outside(before)[changed].min() > 0.06
    assert distance_outside(before)[(after.images - before.images)[:, 0].abs() > 0.3].min() > 0.1
    text = palette().text[:, :, None].expand(-1, *SHAPE)
    same = ((after.images[:, 0] - text).abs() < 1e-6) & changed & (distance_outside(after) > 0.3)
    assert same.flatten(1).any(dim=1).float().mean() > 0.3  # many are of the color of the text
    u, v = text_coordinates(before.geometry, CPU)
    sides = torch.stack([u < -RATIO / 2, u > RATIO / 2, v < -0.5, v > 0.5]) & changed
    per_image = sides.flatten(2).any(dim=2).sum(dim=0)
    if second:
        assert (per_image >= 2).any()
    else:
        # At one side; one above or below may be wider than the word, and reach beyond its ends there.
        assert sides.flatten(2).any(dim=2).any(dim=1).all()
        upright = (sides[2] | sides[3]).flatten(1).any(dim=1)
        assert (per_image[~upright] <= 1).all()


@pytest.mark.parametrize(("lines", "printed"), [(True, 0.0), (False, 1.0), (False, 0.0)])
def test_only_words_of_scenes_have_neighbours_at_their_ends(textures: TextureBank, lines: bool, printed: float) -> None:
    """A ``1`` before a line, a space away, is the line's own."""
    shares = {"neighbor_share": 1.0, "second_neighbor_share": 1.0, "print_share": printed}
    before = scene(textures, neighbors=empty_beside, lines=lines, **shares)
    after = scene(textures, neighbors=block_beside, lines=lines, **shares)
    changed = (after.images - before.images)[:, 0].abs() > 1e-6
    _, v = text_coordinates(before.geometry, CPU)
    assert changed.any()
    assert (changed & (v.abs() < 0.5)).any() == (not lines and not printed)


def test_frames_stay_beside_the_text(textures: TextureBank) -> None:
    before, _, difference = change(textures, {"loose_share": 1.0, "loose": 1.0}, frame_share=1.0)
    changed = difference.abs() > 1e-6
    assert changed.flatten(1).any(dim=1).float().mean() > 0.5
    assert distance_outside(before)[changed].min() > 0.0
    assert distance_outside(before)[difference.abs() > 0.3].min() > 0.05


def test_what_is_in_front_is_a_straight_bar(textures: TextureBank) -> None:
    before, after, difference = change(textures, occlusion_share=1.0)
    colors = palette()
    front = colors.front[:, :, None, None].expand_as(after.images)
    covered = (after.images - front).abs() < 1e-5
    for row in range(COUNT):
        changed = difference[row].abs() > 1e-5
        # Narrow, so that the letters beside it stay, and through the whole height, so that it is no letter.
        assert changed.float().mean() < 0.35, row
        if (colors.front[row] - colors.background[row]).abs() > 0.02:
            assert changed.any(dim=1)[0 if before.coverage[row, 0].max() == 0.0 else 16], row
    assert covered.flatten(1).any(dim=1).float().mean() > 0.7
    # Nearer to the background's grey than to the text's, so that it is not read as a stroke.
    to_ground, to_text = (colors.front - colors.background).abs(), (colors.front - colors.text).abs()
    assert (to_ground <= 0.8 * (colors.text - colors.background).abs() + 1e-6).all()
    assert to_text.min() > 0.0


def test_an_effect_does_not_change_the_others(textures: TextureBank) -> None:
    """Names, not order, decide the numbers: what a background has is the same whatever letters have."""
    background = {"texture_share": 0.5, "gradient_share": 0.5, "split_share": 0.5}
    plain = scene(textures, **background)
    changed = scene(textures, **background, shadow_share=0.5, outline_share=0.5, relief_share=0.5, extrusion_share=0.5)
    far = ~near(plain.coverage, 8)
    assert far.sum() > 100
    assert torch.equal(plain.images[:, 0][far], changed.images[:, 0][far])


STRONG_STYLE = {
    name: 0.5 for name in StyleConfig.model_fields if name.endswith("_share") and "low_contrast" not in name
}
STRONG_CAMERA = {name: 0.5 for name in CameraConfig.model_fields if name.endswith("_share")}


def test_printed_samples_are_scanned(synth_config: Configs) -> None:
    """What scanners lack changes nothing where all samples are printed, and much where none is."""
    lacking = {"shade_share": 1.0, "glare_share": 1.0, "motion_share": 1.0, "salt_share": 1.0, "invert_share": 1.0}

    def images(print_share: float, camera: dict[str, float]) -> Tensor:
        style = {"texture_tiles": 4, "print_share": print_share}
        return Renderer(synth_config(style=style, camera=camera)).samples(np.arange(8))[0]

    assert torch.equal(images(1.0, lacking), images(1.0, dict.fromkeys(lacking, 0.0)))
    assert not torch.equal(images(0.0, lacking), images(0.0, dict.fromkeys(lacking, 0.0)))


@pytest.mark.parametrize(("channels", "width"), [(1, 100), (3, 128)])
def test_a_sample_is_the_same_alone_in_any_order_and_with_any_threads(
    synth_config: Configs, channels: int, width: int
) -> None:
    image = {"image_channels": channels, "image_width": width}
    renderer = Renderer(synth_config(image=image, style={"texture_tiles": 4, **STRONG_STYLE}, camera=STRONG_CAMERA))

    def stages(numbers: np.ndarray) -> tuple[Tensor, ...]:
        images, words, found = renderer.samples(numbers)
        return torch.from_numpy(words.masks), found.coverage, found.images, images

    numbers = np.arange(1000, 1032)
    together = stages(numbers)
    for row, number in enumerate(numbers):
        assert all(
            torch.equal(one[0], every[row]) for one, every in zip(stages(numbers[[row]]), together, strict=True)
        ), number
    torch.set_num_threads(3)
    some = np.random.default_rng(0).permutation(32)[:21]
    assert all(torch.equal(one, every[some]) for one, every in zip(stages(numbers[some]), together, strict=True))
    images = together[-1]
    assert 0.0 <= images.min() < images.max() <= 1.0
    assert len({image.numpy().tobytes() for image in to_bytes(images)}) == 32
    assert images.flatten(1).std(dim=1).min() > 0.01


def test_levels_are_rounded_to_bytes() -> None:
    assert to_bytes(torch.tensor([0.0, 1.0, 0.5, 0.998, 0.999])).tolist() == [0, 255, 128, 254, 255]


@pytest.mark.parametrize("axis", [1, 2])
def test_words_that_are_made_much_smaller_are_smoothed_along_that_side(axis: int) -> None:
    mask = torch.zeros((1, MASK_HEIGHT, 132), dtype=torch.uint8)
    (mask[:, ::4] if axis == 1 else mask[:, :, ::4]).fill_(255)
    height, width = (8, 132) if axis == 1 else (MASK_HEIGHT, 26)
    v = torch.linspace(-0.4, 0.4, height)[None, :, None].expand(1, height, width).contiguous()
    u = torch.linspace(-1.2, 1.2, width)[None, None, :].expand(1, height, width).contiguous()
    found = lookup(mask, u, v, np.array([3.0]), np.array([float(height)]), np.array([float(width)]))
    assert 0.1 < found.min() <= found.max() < 0.45
