"""The likelihood of a model of one's own, and text generated with it. Any torch model will do that gives scores for every
position."""

# %% A model that is not ours, and data: sequences that count up from a random start
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdlm_min import MaskedDiffusion, MaskRate, SamplingConfig, TokenRules, estimate, generate, stream

SEED, STEPS, ROWS, LENGTH, VOCABULARY, MASK = 0, 400, 32, 16, 10, 10


class Recurrent(nn.Module):
    """Tokens, int64 [batch, length], to scores [batch, length, vocabulary]. It reads both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY + 1, 32)
        self.layer = nn.GRU(32, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens))[0])


def sequences(step: int, rows: int = ROWS) -> Tensor:
    start = torch.randint(VOCABULARY, (rows, 1), generator=stream(SEED, "data", step))
    return (start + torch.arange(LENGTH)) % VOCABULARY


torch.manual_seed(SEED)
model = Recurrent()


# %% What both need of it: the loss of each masked token, and the scores of each position that is asked for
def masked_nll(tokens: Tensor, mask: Tensor) -> Tensor:
    """-log p of the masked tokens: [masked]."""
    return F.cross_entropy(model(tokens.masked_fill(mask, MASK))[mask], tokens[mask], reduction="none")


def score(tokens: Tensor, asked: Tensor) -> Tensor:
    """Scores of the asked positions: [asked, vocabulary]."""
    return model(tokens)[asked]


# %% Training, over a window of mask rates
process, optimizer = MaskedDiffusion(MaskRate.parse("U[0.2,0.5]"), weight="none"), torch.optim.AdamW(model.parameters(), 3e-3)
for step in range(STEPS):
    tokens = sequences(step)
    mask, rate = process.mask(ROWS, LENGTH, stream(SEED, "masks", step))
    loss = process.loss(masked_nll(tokens, mask), mask, rate)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% The bound on its NLL, over all mask rates, whatever it was trained on. Nothing is known of the tokens beforehand: zeros
held_out = sequences(STEPS, 200)
found = estimate(masked_nll, held_out, torch.zeros(*held_out.shape, 1), passes=2000, generator=stream(SEED, "likelihood"))
own = math.log(VOCABULARY) / LENGTH  # of the data: the first token is one of ten, the others follow
print(f"NLL: at most {found.loss:.3f} +- {found.error:.3f} nats per token; the data's own is {own:.3f}")

# %% Generation: four rows from nothing but their first token
template = torch.full((4, LENGTH), MASK)
template[:, 0] = torch.tensor([0, 3, 5, 8])
written = generate(score, template, TokenRules(MASK), SamplingConfig("low-confidence", steps=LENGTH), SEED)
for row in written.tokens.tolist():
    print(*row)
