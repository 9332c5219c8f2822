"""Samples: where they are stored, how they are read, and how they become batches."""
