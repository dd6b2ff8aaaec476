"""`python -m tinyv_cli` does what `tinyv` does, where the script is not on the path."""

import sys

from tinyv_cli.app import main

sys.exit(main())
