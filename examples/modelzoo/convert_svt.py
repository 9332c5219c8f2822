"""The ModelZoo's convert_svt.py: words cut out of the scenes of Street View Text.

    python examples/modelzoo/convert_svt.py -d svt1 -x test.xml -o processed

It is ``crnn data convert svt`` by another name, and takes its flags too: ``--to lmdb`` writes a store, which keeps the
lexicons of 50 words.
"""

import sys

from _convert import main  # type: ignore[import-not-found]  # beside this script

if __name__ == "__main__":
    sys.exit(main("svt", "test.xml"))
