"""Training: loop, batches, step, optimizers, run folder."""
