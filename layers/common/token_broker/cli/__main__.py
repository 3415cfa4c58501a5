"""`python -m token_broker.cli`, for where the installed command is not on the path."""

import sys

from token_broker.cli import main

sys.exit(main())
