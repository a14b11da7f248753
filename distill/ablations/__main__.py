"""`python -m distill.ablations`: see `ablations`."""

import sys

from distill.ablations.ablations import main

sys.exit(main(sys.argv[1:]))
