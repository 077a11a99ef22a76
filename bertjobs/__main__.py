"""``python -m bertjobs``."""

import sys

from bertjobs.cli.main import main

sys.exit(main())
