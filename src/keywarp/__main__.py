"""`python -m keywarp` is `keywarp`."""

import sys

from keywarp.cli import main

if __name__ == "__main__":
    sys.exit(main())
