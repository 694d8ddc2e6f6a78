"""lm-eval's own command line, with the model `mdlm` in it: `python -m mdlm_min.evaluation --model mdlm --model_args folder=...`.

lm-eval 0.4.13 does not read the entry points of installed packages, so the model is registered here.
"""

import sys

from lm_eval.__main__ import cli_evaluate

from mdlm_min.evaluation.registration import register
from mdlm_min.run.errors import InputError

if __name__ == "__main__":
    register()
    try:
        cli_evaluate()
    except InputError as error:
        print(f"mdlm: {error}", file=sys.stderr)
        sys.exit(2)
