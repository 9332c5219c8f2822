"""``crnn train``."""

import os

import typer

from crnn.cli.arguments import CONFIG, config_from
from crnn.terminal import require_torch, show


def train(ctx: typer.Context, config: CONFIG, resume: bool = False) -> int:
    r"""Train a network: CONFIG, a preset or a TOML file, and --section.key VALUE in the place of its settings.

    \b
    The settings that people change:
      --data.train PATH ...               LMDB folders or list files to learn from, or synth: rendered text
      --data.validation PATH ...          labelled images that choose the best weights
      --charset.characters 95             36, 62, 94, 95, or the characters themselves
      --train.warm_start MODEL            go on from the weights of another model
      --train.num_steps N                 steps; --train.epoch_size N: epochs
      --train.batch_size N                images in a step
      --optim.learning_rate X             at the peak of the schedule
      --eval.protocol lines               what is right in validation
      --checkpoint.save_checkpoint_path DIR   the run folder
      --train.threads N                   threads on the CPU

    'crnn config explain' has all of them; 'crnn config show CONFIG' prints what a preset or a file comes to. Under
    torchrun ranks share the work. In Python: crnn.training.train(config).

    Args:
        ctx: Holds the settings.
        config: A TOML file or a preset: crnn-small, crnn-vgg, modelzoo, tiny.
        resume: Go on from the last checkpoint of the run folder.
    """
    settings = config_from(config, ctx.args)
    require_torch("training", "train")
    from crnn.training.loop import train as run

    report = run(settings, resume=resume)
    accuracy = "" if report.best_accuracy is None else f", best validation accuracy {100 * report.best_accuracy:.2f} %"
    if accuracy and report.best_step is not None:
        accuracy += f" at step {report.best_step}"
        accuracy += "" if report.best_step else " (nothing beat the weights that it began with; they are kept)"
    lost = "".join(f", images left out {count} times: {reason}" for reason, count in report.skipped.items())
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here; one speaks for all
        show(f"{report.weights}: {report.steps} steps{accuracy}{lost}")
    return 0 if report.stopped_by is None else 128 + report.stopped_by
