"""``python -m taskiq_flow.cli``."""

import sys

from taskiq_flow.cli import main

if __name__ == "__main__":
    sys.exit(main())
