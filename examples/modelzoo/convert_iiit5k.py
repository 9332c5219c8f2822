"""The ModelZoo's convert_iiit5k.py: the words of IIIT 5K-Word with the labels from its Matlab file.

    python examples/modelzoo/convert_iiit5k.py -m IIIT5K/testdata.mat -o processed

It is ``crnn data convert iiit5k`` by another name, and takes its flags too: ``--to lmdb`` writes a store, which keeps
the lexicons of 50 and 1,000 words.
"""

import sys

from _convert import main  # type: ignore[import-not-found]  # beside this script

if __name__ == "__main__":
    sys.exit(main("iiit5k", "testdata.mat"))
