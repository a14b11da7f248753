"""`python -m distill.reporting`: see `report`."""

import sys

from distill.reporting.report import main

sys.exit(main(sys.argv[1:]))
