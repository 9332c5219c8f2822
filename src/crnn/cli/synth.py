"""``crnn synth``: rendered text to look at, and as a set for other tools."""

from functools import partial
from typing import Annotated, Literal

import typer

from crnn.cli.arguments import config_from
from crnn.terminal import IMAGES, check_writable, counting_bar, require_torch, save_image, say, show

HELP = "Render text, as 'crnn train CONFIG --data.train synth' makes it while it trains."

_MAX_PREVIEW = 4_000  # a sheet of more is higher than most programs can show
_DEFAULT = "crnn-small"
Config = Annotated[str, typer.Argument(metavar="[CONFIG]")]
# The words beside samples have the numbers behind 10 ** 12.
First = Annotated[int, typer.Option(min=0, max=10**12)]


def preview(
    ctx: typer.Context,
    out: Annotated[str, typer.Argument(metavar="OUT.png")],
    config: Config = _DEFAULT,
    count: Annotated[int | None, typer.Option(min=1, max=_MAX_PREVIEW)] = None,
    first: First = 0,
    explain: bool = False,
) -> int:
    """Draw a sheet of samples with their labels.

    What was drawn is shown beside a label that is something else. --section.key VALUE changes a setting; 'crnn config
    explain corpus fonts style camera' explains them.

    Args:
        ctx: Holds the settings.
        out: The image file to write.
        config: A preset or a TOML file: charset, corpus, fonts, style, camera.
        count: Samples; default: 80, or 8 with --explain.
        first: Number of the first sample; a sample is the same in whatever set it is.
        explain: Show how samples come about, one in each row, stage by stage.
    """
    settings = config_from(config, ctx.args, default=_DEFAULT)
    check_writable("OUT", out, "preview.png", IMAGES)
    count = count if count is not None else 8 if explain else 80
    require_torch("rendering text", "train")
    from crnn.synth.samples import explain_sheet, preview_sheet

    sheet = (explain_sheet if explain else preview_sheet)(settings, count, first, partial(say, "synth"))
    save_image(out, sheet)
    show(out)
    return 0


def write(
    ctx: typer.Context,
    dst: Annotated[str, typer.Argument(metavar="DST")],
    count: Annotated[int, typer.Option(min=1, max=10**9)],
    config: Config = _DEFAULT,
    first: First = 0,
    to: Literal["lmdb", "list"] = "lmdb",
    shape: Literal["natural", "network"] = "natural",
    format: Literal["png", "jpeg"] = "png",  # noqa: A002
) -> int:
    """Write samples as a set.

    --section.key VALUE changes a setting; 'crnn config explain corpus fonts style camera' explains them.

    Args:
        ctx: Holds the settings.
        dst: The folder to write.
        config: A preset or a TOML file: charset, corpus, fonts, style, camera.
        count: Samples.
        first: Number of the first sample; a sample is the same in whatever set it is.
        to: An LMDB folder, or a folder of images with a list, labels.tsv.
        shape: natural: images have the proportions of the words; network: the size that the network sees.
        format: Of the images.
    """
    settings = config_from(config, ctx.args, default=_DEFAULT)
    require_torch("rendering text", "train")
    from crnn.synth.samples import write_samples

    with counting_bar("rendering", count) as progress:
        written = write_samples(
            settings, dst, count, first=first, to=to, shape=shape, encoding=format, progress=progress,
            say=partial(say, "synth"),
        )  # fmt: skip
    show(f"{dst}: {written} samples written")
    return 0
