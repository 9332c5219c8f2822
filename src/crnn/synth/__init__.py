"""Endless labelled pictures of words: what to write, with which face, how it looks, how a camera sees it."""
