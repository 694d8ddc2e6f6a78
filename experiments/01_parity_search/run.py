"""One run of this experiment: one network, one arm. What it does is all in mdlm_min.tasks.parity."""

from mdlm_min.tasks.parity_run import check, run, summarise

__all__ = ["check", "run", "summarise"]
