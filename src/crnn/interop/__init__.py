"""Other projects' weights in, ours out to other projects' runtimes."""
