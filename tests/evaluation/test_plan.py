from dataclasses import replace

import pytest
import torch

pytest.importorskip("lm_eval")

from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, masks_of
from mdlm_min.evaluation import plan
from mdlm_min.model.llada import LLADA_8B, scaled
from mdlm_min.tasks.plan import GPUS


def passes_of(tokens):
    """Passes that an answer really takes."""
    answer = Answer(torch.zeros(3, dtype=torch.int64), torch.zeros(tokens, dtype=torch.int64))
    return len(masks_of(answer, LikelihoodConfig(128))[0])


@pytest.mark.parametrize(("task", "inputs"), [("mmlu", 14042), ("arc_challenge", 4 * 1172), ("gpqa", 448)])
def test_passes_by_likelihood_are_those_of_the_estimator_and_letters_are_one_input(task, inputs):
    assert plan.cost(task, 128).passes == inputs * passes_of(plan.LENGTHS[task][1])


def test_generation_takes_a_pass_for_every_step_of_every_item():
    found = plan.cost("gsm8k", 128)
    assert (found.passes, found.length) == (1319 * 512, 680 + 512)
    # Forward: 2 operations for each parameter and token, the last block's MLP and the head at half of the 512 tokens alone.
    parameters = found.operations(LLADA_8B) / found.passes / found.length / 2
    assert 6.4e9 < parameters < 7.5e9


def test_half_of_an_answer_is_scored_on_average():
    assert plan.cost("gsm8k", 128).scored == pytest.approx(512 / (680 + 512) / 2)
    assert plan.cost("arc_challenge", 128).scored == pytest.approx(6 / (31 + 6) / 2)


def test_the_scores_of_a_large_vocabulary_take_two_bytes_each():
    model = scaled(1, 2, 16, vocab_size=1_000_000, outputs=1_000_000)
    free = 80e9 - plan.RESERVE - 2 * plan.parameter_count(model)
    assert plan.generation_batch(model, GPUS["h100"]) == pytest.approx(free / (2 * 512 * 1_000_000), rel=0.02)


def test_more_memory_holds_more_texts_and_too_little_none():
    h100, h200 = (plan.generation_batch(LLADA_8B, GPUS[name]) for name in ("h100", "h200"))
    assert 100 < h100 < h200
    assert plan.generation_batch(LLADA_8B, replace(GPUS["h100"], memory=16e9)) == 0


def test_the_plan_names_every_task_of_tables_2_and_3():
    text = plan.describe(LLADA_8B, 8, GPUS["h100"], 0.4)
    for title in ("MMLU", "ARC-Challenge", "GPQA", "GSM8K", "MATH"):
        assert f"  {title} " in text
    hours = float(text.split("Tables 2 and 3: ")[1].split(" hours")[0])
    assert f"{hours:.1f} hours" in plan.describe(LLADA_8B, 4, GPUS["h100"], 0.8)
    assert f"512 tokens in 512 steps, {plan.generation_batch(LLADA_8B, GPUS['h100'])} texts at a time in 80 GB" in text
