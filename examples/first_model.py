"""A first masked diffusion model from Python: train it, let it fill in and let it write. Run it cell by cell, or as a script."""

# %% Any text file, and a model small enough for a few minutes on a CPU
from pathlib import Path

import torch

from mdlm_min import SamplingConfig, TextModel, open_run
from mdlm_min.tasks import language

RUN = Path("runs/first_model")
settings = {
    "data": {"corpus": "corpus.txt", "tokenizer": "bpe:512", "length": 128},
    "model": {"layers": 3, "heads": 4, "width": 96, "tied": True},
    "train": {"steps": 4000, "eval_every": 1000, "learning_rate": 3e-3, "warmup": 200, "schedule": "cosine", "clip": 1.0},
    "mask_rate": "U[0.2,0.5]",  # the window of mask rates that it is trained on
    "weight": "none",
    "batch": 8,
}

# %% Train; if this cell is stopped, it resumes from the last checkpoint
with open_run(RUN, {"seed": 0, **settings}) as folder:
    if not folder.is_finished({"seed": 0, **settings}):
        language.run(settings, seed=0, folder=folder, progress=print)
model = TextModel.load(RUN)

# %% Fill in: every [MASK] is one token
template = torch.tensor([model.template("The [MASK] of the [MASK] was [MASK] in the [MASK] .")])
print(model.decode(model.fill(template, SamplingConfig("low-confidence", steps=4, temperature=0))[0].tolist()))

# %% Write: from nothing, and from a prompt
print(model.write())
print(model.write(prompt="The ", seed=1))
