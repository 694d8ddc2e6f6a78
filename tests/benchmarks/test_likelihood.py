"""Variance of the test loss per forward pass: ours against LLaDA's estimator, on the same blocks with the same model.

The model is one of the cpu tier's shape, trained for some steps on the spot (on WikiText-2 where MDLM_DATA has it, else on a
corpus of parities), so that its loss depends on t and on the tokens as a real one does.
"""

import os
import statistics

import pytest
import torch

from mdlm_min.data.bigrams import token_priors
from mdlm_min.diffusion.likelihood import estimate, llada_estimate
from mdlm_min.run.config import build
from mdlm_min.run.random_streams import stream
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask
from mdlm_min.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def task():
    if os.environ.get("MDLM_DATA"):
        data, steps = {"corpus": "wikitext-2", "tokenizer": "bytes", "length": 64}, 400
    else:
        data, steps = {"corpus": "parities:2", "length": 64}, 200
    config = build(
        LanguageRunConfig,
        {"data": data, "mask_rate": "U[0.1,0.9]", "train": {"steps": steps, "learning_rate": 2e-3, "clip": 1.0, "warmup": 50}},
    )
    trained = LanguageTask(config, 0)
    optimizer = make_optimizer(trained.model, config.train)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        trained.loss(step).backward()
        torch.nn.utils.clip_grad_norm_(trained.model.parameters(), 1.0)
        optimizer.step()
    return trained


@pytest.mark.benchmark(group="likelihood")
@pytest.mark.parametrize(("count", "draws", "repeats"), [(120, 2, 100), (120, 4, 60), (60, 8, 60), (24, 32, 40), (12, 128, 24)])
def test_variance_per_pass_against_llada(benchmark, task, count, draws, repeats):
    blocks = task.data.blocks("valid", 64)
    blocks = blocks[torch.randperm(len(blocks), generator=stream(0, "subset"))[:count]]
    prior = token_priors(task.data, blocks)
    with torch.no_grad():
        theirs = [llada_estimate(task.nll, blocks, draws, stream(seed, "llada")) for seed in range(repeats)]
        ours = [estimate(task.nll, blocks, prior, draws * count, stream(seed, "ours")) for seed in range(repeats)]
        benchmark.pedantic(estimate, (task.nll, blocks, prior, draws * count, stream(0, "timed")), rounds=1)
    mine = statistics.variance([result.loss for result in ours]) * statistics.mean(result.passes for result in ours)
    ratio = statistics.variance(theirs) * draws * count / mine
    claimed = statistics.mean(result.error**2 for result in ours) ** 0.5 / statistics.stdev([result.loss for result in ours])
    benchmark.extra_info["passes for equal error, LLaDA / ours"] = ratio
    print(
        f"\n{draws} passes a block, {count} blocks: LLaDA needs {ratio:.1f} times our passes (from {repeats} repeats, within "
        f"{ratio / (1 + 2 * (4 / repeats) ** 0.5):.1f} .. {ratio * (1 + 2 * (4 / repeats) ** 0.5):.1f}); our stated error is "
        f"{claimed:.2f} of the real one"
    )
