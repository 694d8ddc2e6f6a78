"""The autoregressive model of equal size: the same Transformer, causal, with its own NLL on the same blocks.

NLL is the negative log-likelihood in nats. The test loss of masked diffusion is a bound on it; here it is exact. Both models
see one block alone. Here the first token is predicted from a start token, which is the mask token's row of the embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.model.flops import Work, training_operations
from mdlm_min.run.config import refuse_set
from mdlm_min.run.run_folder import Row
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask
from mdlm_min.tasks.summaries import LEVELS


class AutoregressiveTask(LanguageTask):
    """A run of the autoregressive model as the training loop sees it. Raises InputError unless model.causal is true, and for a
    mask rate or a weight, which it has no use for."""

    causal = True

    def __init__(self, config: LanguageRunConfig, seed: int) -> None:
        refuse_set(config, ("mask_rate", "weight"), "with model.causal = true, which masks nothing")
        super().__init__(config, seed)
        operations = training_operations(self.model.config, config.batch, selected=1.0)
        self.work = Work(self.work.tokens, operations, self.work.ceiling)

    def nll_in_order(self, tokens: Tensor) -> Tensor:
        """NLL of every token given the tokens before it in its block: float32 [batch, length]."""
        inputs = F.pad(tokens[:, :-1], (1, 0), value=self.mask_token)
        with self.autocast():
            scores = self.model(inputs)
        return F.cross_entropy(scores.float().flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)

    def loss(self, step: int) -> Tensor:
        """Mean NLL of this step's blocks, nats per token. Masked diffusion has the same blocks at this seed and step."""
        config = self.config
        tokens = self.data.batch("train", config.data.length, config.batch, self.seed, step)
        return self.nll_in_order(tokens.to(self.device)).mean()

    @torch.no_grad()
    def test_loss(self, split: str, passes: int) -> Row:
        """Exact NLL in nats per token: of the whole test split, or of the first `passes` blocks of another split."""
        blocks = self.data.blocks(split, self.config.data.length)
        chosen = blocks if split == "test" else blocks[:passes]
        total = sum(float(self.nll_in_order(part.to(self.device)).double().sum()) for part in chosen.split(64))
        nothing = dict.fromkeys((f"{split}_{part}{name}" for part in ("", "error_") for name in LEVELS), math.nan)
        return {f"{split}_loss": total / chosen.numel(), f"{split}_error": 0.0, **nothing}
