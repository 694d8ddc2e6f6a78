"""The empirical predictor of a signal-rich window: what the gradient of each mask rate is worth, measured on the way.

A short run on the full range gives a model that is past its first steps. Then, for each of several mask rates t, gradients
of independent batches at that rate give
  snr(t)   |E g_t|^2 / tr Cov(g_t): the signal-to-noise ratio of one batch's gradient (squared norms, bias removed);
  gain(t)  <G, E[g_t] / sqrt(E[g_t^2])>, G the gradient of the test loss over t in [0, 1], the quotient taken for each
           weight: how much one step of an optimiser that divides by the gradient's size, as Adam does, lowers the test loss
           to first order, in units of the largest gain.
G and E[g_t] come from different batches, so that no batch's noise is counted as agreement with itself.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row
from mdlm_min.tasks.language import LanguageTask

RATES = tuple(round(0.05 + 0.1 * index, 2) for index in range(10))
BATCHES = 8  # at each rate, half of them for either side of a product


class ProbeTask(LanguageTask):
    """A short training run whose evaluations are probes: columns snr_t and gain_t for every t of RATES."""

    def evaluate(self, step: int) -> Row:
        """Signal-to-noise ratio and gain of every rate for the present weights."""
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
        """Gradient of one batch at one mask rate, all weights in one vector. The blocks are the same at every rate."""
        config = self.config
        beyond = 10**9 + step * BATCHES + number  # no training step has these blocks
        tokens = self.data.batch("train", config.data.length, config.batch, self.seed, beyond).to(self.device)
        rates = torch.full((len(tokens),), rate, device=self.device)
        mask = bernoulli(rates, tokens.shape[1], generator)
        loss = self.process.loss(self.nll(tokens, mask), mask, rates)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(self.model.parameters()))])


def suggested_rate(rows: list[Row], measure: str) -> float:
    """The rate at which `measure` ("snr" or "gain"), in the mean over all probes after the first step, is largest."""
    later = [row for row in rows if row["step"] > 0]
    return max(RATES, key=lambda rate: sum(row[f"{measure}_{rate}"] for row in later))
