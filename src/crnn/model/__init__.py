"""Network, weights files and checkpoints."""
