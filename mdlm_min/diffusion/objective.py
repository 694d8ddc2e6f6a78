"""The losses of masked diffusion, each next to its equation.

A loss has two independent choices: what a masked token costs (cross-entropy, squared error) and what a sequence's
masked tokens weigh. Every loss is a mean over sequences and per token of the sequence. With weight "1/t" and t uniform on
[0, 1] it is then the bound on the negative log-likelihood in nats per token.

Where a part of each sequence is trained on, the answer of a prompt, a third choice is what the sum is divided by. The field has
several, and fine-tuned models differ between them; `divisors` has them by name.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.run.errors import InputError

WEIGHTS = ("1/t", "1/(t p(t))", "none", "mean")
TOKEN_LOSSES = ("cross_entropy", "squared_error")
DIVISORS = ("answer", "token", "batch", "masked")


def sign_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """-log sigmoid(target * output) in nats: the binary cross-entropy of Theorem C.2 for targets -1, +1. Shapes equal."""
    return F.softplus(-target * output)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """(output - target)^2 / 2: one summand of Eq. 1 (Definition 3.6) without its 1/t. Shapes equal."""
    return (output - target).square() / 2


def divisors(name: str, answers: Tensor, masked: Tensor) -> Tensor:
    """What each sequence's weighted sum is divided by, float32 [sequences]; the loss is the sum of the quotients.

    answers: tokens of each sequence's answer, what follows it in the loss included; masked: how many of them are masked; both
    int64 [sequences], of the whole batch: all processes and all passes of a step.
      "answer"   the answer's own tokens times the number of sequences (LLaDA's guidelines; "sequence" in dllm);
      "token"    the tokens of all answers ("token" in dllm, which counts those of the local device; NeMo; SMDM; d1);
      "batch"    the number of sequences ("batch" in dllm);
      "masked"   the masked tokens of all answers (dFactory's mean over masked tokens, with weight "none").
    """
    count = len(answers)
    sequences = torch.tensor(count, device=answers.device)
    whole = {"answer": answers * count, "token": answers.sum(), "batch": sequences, "masked": masked.sum()}[name]
    return whole.clamp(min=1).float().expand(count)


def masked_loss(
    token_loss: Tensor,
    mask: Tensor,
    rate: Tensor | None,
    weight: str,
    density: Tensor | None = None,
    whole: tuple[int, int] | None = None,
    divisor: Tensor | None = None,
) -> Tensor:
    """Mean over sequences of the weighted sum of the masked tokens' losses; a scalar.

    token_loss: [masked], in the row-major order of `mask` ([batch, length], bool). rate: mask rate of each sequence, [batch];
    density: p(t) at each of these rates, [batch]. Both are needed only by the weights that name them.
    whole: sequences and tokens of the whole batch, where these rows are a part of it or padded; the parts' losses then add up
    to the batch's, whose L is the mean length.
    divisor: [batch], in the place of L times the number of sequences, for the weights that have an L: see `divisors`.
    weight, for a sequence of L tokens, M of them masked at rate t:
      "1/t"          sum / (t L): Eq. 1 and the objective of section 5, divided by L. The likelihood bound for t ~ U[0,1] only;
      "1/(t p(t))"   sum / (t p(t) L): the likelihood bound for every density p that is positive on (0, 1]; for another one the
                     part of the bound's integral over t that lies on p's support;
      "none"         sum / L: every masked token counts the same (open point 1: what maximising P_S fits);
      "mean"         sum / M: a sequence without masked tokens counts as zero.
    Raises InputError for masks, rates or losses of another shape or type, and for a weight without what it needs.
    """
    check_masks(mask, rate)
    batch, columns = mask.shape
    sequences, tokens = whole or (batch, batch * columns)
    length = tokens / sequences if divisor is None else divisor / sequences
    scale = sequence_weights(mask, rate, weight, length, density)
    weights = scale[:, None].expand(batch, columns)[mask]
    check_losses(token_loss, weights)
    return (token_loss * weights).sum() / sequences


def check_masks(mask: Tensor, rate: Tensor | None) -> None:
    """Raise InputError for masks that are not bool [batch, length], and for rates that are not [batch]."""
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise InputError(f"mask: shape {tuple(mask.shape)} and {mask.dtype} is not allowed; allowed: [batch, length], bool")
    if rate is not None and not (isinstance(rate, Tensor) and rate.shape == (len(mask),)):
        found = f"shape {tuple(rate.shape)}" if isinstance(rate, Tensor) else repr(rate)
        raise InputError(f"rate: {found} is not allowed; allowed: ({len(mask)},), the mask rate of each sequence")


def check_losses(nll: Tensor, weights: Tensor) -> None:
    """Raise InputError for losses that are not one for each of the masked tokens' weights, [masked]: a mean would pass as one."""
    if nll.shape != weights.shape or not nll.is_floating_point():
        raise InputError(
            f"nll: shape {tuple(nll.shape)} and {nll.dtype} is not allowed; allowed: {tuple(weights.shape)}, the loss of each "
            "masked token: losses[mask], not a mean, and not all tokens"
        )


def sequence_weights(
    mask: Tensor, rate: Tensor | None, weight: str, length: float | Tensor, density: Tensor | None = None
) -> Tensor:
    """What a masked token's loss weighs in each sequence, [batch], before the mean over sequences; arguments as in `masked_loss`,
    `length` being L. Raises InputError for a weight without what it needs."""
    if weight == "mean" and not isinstance(length, Tensor):
        return 1 / mask.sum(dim=1).clamp(min=1)
    if weight == "none":
        return torch.ones(len(mask), device=mask.device) * (1 / length)
    if weight == "1/t" and rate is not None:
        return 1 / (rate * length)
    if weight == "1/(t p(t))" and rate is not None and density is not None:
        return 1 / (rate * density * length)
    if weight == "mean":
        raise InputError("divisor: is not allowed with weight mean; allowed: with 1/t, 1/(t p(t)) or none")
    raise InputError(f"{'rate' if rate is None else 'density'}: None is not allowed with weight {weight}")
