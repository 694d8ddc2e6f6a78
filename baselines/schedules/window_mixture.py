"""Mixtures of windows: one schedule for discriminative and generative tasks, the open question of the review of
arXiv:2601.22450, whose Tables 2 and 3 want the middle for the one and U[.3,1] or U[.5,1] for the other.

An entry of our own: half of the rows from U[.45,.55], half from U[.001,1]. Two weights: 1/t, a reweighting that counts the middle
more, and 1/(t p(t)), which samples the middle more often but estimates the bound's part on [.001,1] as U[.001,1] does.
"""

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import BoundPart, RateSchedule

MIXTURE = "0.5*U[0.45,0.55] + 0.5*U[0.001,1]"


def window_mixture() -> RateSchedule:
    """The mixture, weight 1/t."""
    return RateSchedule(MaskRate.parse(MIXTURE), "1/t", "window_mixture")


def window_mixture_unbiased() -> RateSchedule:
    """The mixture, weight 1/(t p(t))."""
    return RateSchedule(MaskRate.parse(MIXTURE), "1/(t p(t))", "window_mixture_unbiased", BoundPart(0.001, 1))
