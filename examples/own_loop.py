"""A mask schedule in a training loop of one's own: what to mask, and what to do with the losses. Any model and any data will
do."""

# %% A schedule: ten lines of your own, or MaskRate.parse("U[0.45,0.55]") in a RateSchedule
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min import Context, MaskSchedule, ModelConfig, ScheduledDiffusion, Transformer, stream, validate


class HarderOverTime(MaskSchedule):
    """Mask rates from U[0.1,0.5] at the start of the run to U[0.5,0.9] at its end; every masked token counts the same."""

    name = "harder_over_time"

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        low = 0.1 + 0.4 * context.step / context.steps
        return low + 0.4 * torch.rand(context.rows, generator=generator, device=generator.device)

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        return torch.ones_like(rate)


schedule = HarderOverTime()
validate(schedule)  # says in one line what is wrong, if anything is

# %% A model and data: sequences that count up from a random start
SEED, STEPS, ROWS, LENGTH, VOCABULARY, MASK = 0, 300, 32, 16, 10, 10
model = Transformer(ModelConfig(VOCABULARY + 1, LENGTH, VOCABULARY, layers=2, heads=2, width=32), stream(SEED, "weights"))
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
process = ScheduledDiffusion(schedule)

# %% The loop
for step in range(STEPS):
    start = torch.randint(VOCABULARY, (ROWS // schedule.copies, 1), generator=stream(SEED, "data", step))
    tokens = ((start + torch.arange(LENGTH)) % VOCABULARY).repeat_interleave(schedule.copies, dim=0)
    context = schedule.admit(Context(ROWS, LENGTH, tokens, step=step, steps=STEPS))
    tokens = context.tokens  # a schedule may train on rows of the step before
    mask, rate = process.mask(ROWS, LENGTH, stream(SEED, "masks", step), context)
    scores = model(tokens.masked_fill(mask, MASK), mask)
    nll = F.cross_entropy(scores, tokens[mask], reduction="none")
    loss = process.loss(nll, mask, rate, context=context)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    confidence = scores.detach().softmax(dim=1).amax(dim=1)
    schedule.observe(rate, mask, replace(context, nll=nll.detach(), confidence=confidence))  # for one that learns from its losses
    if step % 50 == 0 or step == STEPS - 1:
        print(f"step {step}: {nll.mean().item():.3f} nats per masked token at a mean rate of {rate.mean().item():.2f}")
