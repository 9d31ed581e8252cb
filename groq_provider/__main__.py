"""`python -m groq_provider`: the command `groq-provider`."""

import sys

from groq_provider.cli import main

if __name__ == "__main__":
    sys.exit(main())
