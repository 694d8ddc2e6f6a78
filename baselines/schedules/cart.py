"""CART, context-adaptive token weights (Dream, arXiv:2508.15487): a masked token counts by how much it sees.

Weight of masked token i: sum over visible tokens j of p (1-p)^(|i-j|-1) / 2, in the place of 1/t. p = .1 as shipped with
Dream (.8 is the function's default there). t ~ U[.001,1]. Prompt tokens are visible, padding is not. A reweighting.

All are times one number, by which the mean weight of a token is 1, masked or not, in a row of which every token may be masked. So
it is under the weight 1/t, and gradient clipping means the same. Without clipping AdamW does not see it.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import Context, RateSchedule
from mdlm_min.run.errors import InputError

MASKED_AND_SEEN = 1 / 6  # the probability that of two tokens the first is masked and the second is not: the mean of t (1 - t)


class Cart(RateSchedule):
    """Weights by the visible neighbours."""

    def __init__(self, p: float = 0.1) -> None:
        if not 0 < p < 1:
            raise InputError(f"p: {p} is not allowed; above 0 and below 1")
        super().__init__(MaskRate.parse("U[0.001,1]"), "1/t", "cart")
        self.p = p

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        places = torch.arange(context.length, device=mask.device)
        distance = (places[:, None] - places).abs()
        share = (self.p * (1 - self.p) ** (distance - 1) / 2).masked_fill(distance == 0, 0)
        visible = ~mask if context.padding_mask is None else ~mask & context.padding_mask
        return visible.float() @ share / (share.sum(dim=1).mean() * MASKED_AND_SEEN)
