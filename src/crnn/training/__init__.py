"""What the loop of ``crnn.train`` is made of: batches, steps, objectives, optimisers, the folder of a run."""
