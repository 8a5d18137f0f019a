"""``python -m maskx_d2`` is the ``maskx`` command."""

import sys

from .cli import main

sys.exit(main())
