"""``python -m lra``: what is here, what works, and the upkeep of data and results."""

import sys

from lra.cli.main import main

sys.exit(main())
