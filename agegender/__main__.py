"""`python -m agegender` is the command `agegender`."""

import sys

from agegender.cli import main

if __name__ == "__main__":
    sys.exit(main())
