"""``python -m crnn``: what ``torchrun -m crnn train ...`` starts."""

import sys

from crnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
