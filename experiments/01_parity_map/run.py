"""One run of this experiment: one cell of the map, one arm. What it does is all in mdlm_min.parity."""

from mdlm_min.parity import run, summarise

__all__ = ["run", "summarise"]
