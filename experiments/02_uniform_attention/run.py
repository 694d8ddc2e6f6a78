"""One run of this experiment: the reduced model of section 4.1, or the Transformer with its attention fixed, on parity."""

from mdlm_min.tasks.parity_run import check, run, summarise

__all__ = ["check", "run", "summarise"]
