"""The losses of masked diffusion, each next to its equation.

A loss has two independent choices: what a masked token costs (cross-entropy, squared error) and what a sequence's
masked tokens weigh. Every loss is a mean over sequences and per token of the sequence. With weight "1/t" and t uniform on
[0, 1] it is then the bound on the negative log-likelihood in nats per token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = ("1/t", "1/(t p(t))", "none", "mean")
TOKEN_LOSSES = ("cross_entropy", "squared_error")


def sign_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """-log sigmoid(target * output) in nats: the binary cross-entropy of Theorem C.2 for targets -1, +1. Shapes equal."""
    return F.softplus(-target * output)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """(output - target)^2 / 2: one summand of Eq. 1 (Definition 3.6) without its 1/t. Shapes equal."""
    return (output - target).square() / 2


def masked_loss(
    token_loss: Tensor,
    mask: Tensor,
    rate: Tensor | None,
    weight: str,
    density: Tensor | None = None,
    whole: tuple[int, int] | None = None,
) -> Tensor:
    """Mean over sequences of the weighted sum of the masked tokens' losses; a scalar.

    token_loss: [masked], in the row-major order of `mask` ([batch, length], bool). rate: mask rate of each sequence, [batch];
    density: p(t) at each of these rates, [batch]. Both are needed only by the weights that name them.
    whole: sequences and tokens of the whole batch, where these rows are a part of it or padded; the parts' losses then add up
    to the batch's, whose L is the mean length.
    weight, for a sequence of L tokens, M of them masked at rate t:
      "1/t"          sum / (t L): Eq. 1 and the objective of section 5, divided by L. The likelihood bound for t ~ U[0,1] only;
      "1/(t p(t))"   sum / (t p(t) L): the likelihood bound for every density p that is positive on (0, 1]; for another one the
                     part of the bound's integral over t that lies on p's support;
      "none"         sum / L: every masked token counts the same (open point 1: what maximising P_S fits);
      "mean"         sum / M: a sequence without masked tokens counts as zero.
    """
    batch, columns = mask.shape
    sequences, tokens = whole or (batch, batch * columns)
    length = tokens / sequences
    if weight == "mean":
        scale = 1 / mask.sum(dim=1).clamp(min=1)
    elif weight == "none":
        scale = torch.full((batch,), 1 / length, device=mask.device)
    elif weight == "1/t" and rate is not None:
        scale = 1 / (rate * length)
    elif weight == "1/(t p(t))" and rate is not None and density is not None:
        scale = 1 / (rate * density * length)
    else:
        raise ValueError(f"weight {weight!r} with rate {rate} and density {density}")
    return (token_loss * scale[:, None].expand(batch, columns)[mask]).sum() / sequences
