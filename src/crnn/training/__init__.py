"""What the loop of ``crnn.training.loop`` is made of: batches, steps, objectives, optimisers, the folder of a run."""
