"""Samples: storage, reading and batches."""
