"""One run of this experiment: one cell of the map, one arm. What it does is all in mdlm_min.parity."""

from mdlm_min.parity import check, run, summarise

__all__ = ["check", "run", "summarise"]
