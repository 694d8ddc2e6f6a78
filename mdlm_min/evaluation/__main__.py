"""lm-eval's own command line, with the model `mdlm` in it: `python -m mdlm_min.evaluation --model mdlm --model_args folder=...`.

lm-eval 0.4.13 does not read the entry points of installed packages, so the model is registered here.
"""

from lm_eval.__main__ import cli_evaluate

from mdlm_min.evaluation.registration import register

if __name__ == "__main__":
    register()
    cli_evaluate()
