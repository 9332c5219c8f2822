"""Endless labelled images of words: what to write, with which font, how it looks, how a camera sees it."""
