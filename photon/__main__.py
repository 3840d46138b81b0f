"""`python -m photon`."""

import sys

from photon.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
