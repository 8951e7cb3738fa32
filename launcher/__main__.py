"""Run the launcher as `python -m launcher`, as the installed `start-app` does."""

import sys

from .cli import main

sys.exit(main())
