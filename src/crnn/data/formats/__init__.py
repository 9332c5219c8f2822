"""Readers of published datasets, one file each: from the files as their authors publish them to ``Record``."""
