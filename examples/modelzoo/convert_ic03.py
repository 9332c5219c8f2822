"""The ModelZoo's convert_ic03.py: words cut out of the scenes of ICDAR 2003.

    python examples/modelzoo/convert_ic03.py -d SceneTrialTest -x words.xml -o processed

It is ``crnn data convert ic03`` by another name, and takes its flags too: ``--to lmdb`` writes a store, ``--variant
IC03_867`` the words that papers count.
"""

import sys

from _convert import main  # type: ignore[import-not-found]  # beside this script

if __name__ == "__main__":
    sys.exit(main("ic03", "words.xml"))
