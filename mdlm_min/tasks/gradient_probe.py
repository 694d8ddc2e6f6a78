"""An empirical predictor of the best window of mask rates: what the gradient at each mask rate t is worth.

A short run on the full range gives a model that is past its first steps. Then, for each of several mask rates t, the
gradients g_t of independent batches at that rate give two measures:
  snr(t)   |E g_t|^2 / tr Cov(g_t), the signal-to-noise ratio of one batch's gradient (squared norms, bias removed);
  gain(t)  <G, E[g_t] / sqrt(E[g_t^2])>, the quotient taken for each weight. G is the gradient of the test loss over t in
           [0, 1]. It is the first-order decrease of the test loss by one step of an optimiser that divides by the gradient's
           size, as Adam does. The unit is the largest gain.
G and E[g_t] come from different batches, so that the noise of a batch does not count as agreement with itself.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row
from mdlm_min.tasks.language import LanguageTask
from mdlm_min.tasks.summaries import RATES

BATCHES = 8  # at each rate, half of them for either side of a product


class ProbeTask(LanguageTask):
    """A short training run whose evaluations are probes. Columns: snr_t and gain_t for every t of RATES."""

    def evaluate(self, step: int) -> Row:
        """Signal-to-noise ratio and gain at every rate, for the present weights."""
        snr, halves, scales = [], [], []
        for index, rate in enumerate(RATES):
            generator = stream(self.seed, f"probe {index}", step, self.device)
            found = torch.stack([self._gradient(rate, generator, step, number) for number in range(BATCHES)])
            mean, noise = found.mean(dim=0), float(found.var(dim=0).sum())
            snr.append((float(mean.square().sum()) - noise / BATCHES) / noise)
            halves.append((found[::2].mean(dim=0), found[1::2].mean(dim=0)))
            scales.append(found.square().mean(dim=0).sqrt().clamp(min=1e-12))
        whole = [torch.stack([half[side] for half in halves]).mean(dim=0) for side in (0, 1)]
        gain = [
            float((whole[1] * first / scale).sum() + (whole[0] * second / scale).sum())
            for (first, second), scale in zip(halves, scales, strict=True)
        ]
        most = max(map(abs, gain)) or 1.0
        return {
            **{f"snr_{rate}": value for rate, value in zip(RATES, snr, strict=True)},
            **{f"gain_{rate}": value / most for rate, value in zip(RATES, gain, strict=True)},
        }

    def _gradient(self, rate: float, generator: torch.Generator, step: int, number: int) -> Tensor:
        """Gradient of one batch at one mask rate, as one vector of all weights: [weights]. All rates have the same blocks."""
        config = self.config
        beyond = 10**9 + step * BATCHES + number  # no training step has these blocks
        tokens = self.data.batch("train", config.data.length, config.batch, self.seed, beyond).to(self.device)
        rates = torch.full((len(tokens),), rate, device=self.device)
        mask = bernoulli(rates, tokens.shape[1], generator)
        loss = self.process.loss(self.nll(tokens, mask), mask, rates)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(self.model.parameters()))])
