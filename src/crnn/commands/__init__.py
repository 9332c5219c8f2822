"""The commands of ``crnn``: each parses its arguments, calls functions of the package, and prints."""
