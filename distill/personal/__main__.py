"""`python -m distill.personal`: see `personalize`."""

import sys

from distill.personal.personalize import main

sys.exit(main(sys.argv[1:]))
