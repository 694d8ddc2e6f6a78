"""LLaDA's linear schedule (arXiv:2502.09992 and its GUIDELINES): p = (1 - eps) t + eps with t ~ U[0,1], so p ~ U[eps,1],
weight 1/p.

Released with eps = .001. A public record of 33M parameters calls eps = .1 its "biggest win" (parameter-golf, pull request
1106; N3). Estimates the bound's part on [eps,1], times 1 / (1 - eps).
"""

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import BoundPart, RateSchedule


def llada(epsilon: float = 0.001) -> RateSchedule:
    """Rates from U[epsilon,1], weight 1 over the rate."""
    return RateSchedule(MaskRate.parse(f"U[{epsilon},1]"), "1/t", f"llada_{epsilon}", BoundPart(epsilon, 1, 1 / (1 - epsilon)))
