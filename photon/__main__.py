"""`python -m photon`."""

import sys

from photon.cli import main

if __name__ == "__main__":
    sys.exit(main())
