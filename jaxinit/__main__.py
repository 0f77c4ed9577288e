"""`python -m jaxinit` is the `jaxinit` command."""

import sys

from jaxinit.cli import main

if __name__ == "__main__":
    sys.exit(main())
