"""`python -m mdlm_min` is the same as `mdlm`."""

import sys

from mdlm_min.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
