"""Runs the command as ``python -m groq_provider.cli``."""

import sys

from groq_provider.cli import main

if __name__ == "__main__":
    sys.exit(main())
