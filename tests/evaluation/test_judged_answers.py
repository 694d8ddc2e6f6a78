"""Answers judged by the contest's evaluator: what a model that knows nothing is credited with."""

import math

import pytest
import torch

from baselines.schedules.llada import llada
from mdlm_min.evaluation import contest_evaluator
from mdlm_min.evaluation.judged_answers import JudgedAnswersTask
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.tasks.finetune import FinetuneConfig

SETTINGS = {
    "data": {"source": "arithmetic:2:100", "length": 64, "held_out": 70, "padding": "one"},
    "model": {"layers": 1, "heads": 2, "width": 16}, "batch": 4, "validation_answers": 10, "train": {"steps": 2, "eval_every": 1},
}  # fmt: skip


def test_data_that_leave_none_to_test_are_refused(tmp_path):
    config = build(FinetuneConfig, {**SETTINGS, "validation_answers": 70})
    with pytest.raises(InputError, match="70 of 70 held-out exercises leave none to test"):
        JudgedAnswersTask(config, 0, RunFolder(tmp_path), lambda task: llada(), 60, 2)


@pytest.mark.parametrize(
    "more", [{"items": 3}, {"validation_passes": 77}, {"items": 3, "generation_tokens": 8}, {"item_passes": 2}]
)
def test_settings_of_another_judge_are_refused(more, tmp_path):
    with pytest.raises(InputError, match=f"{next(iter(more))}: .* is not allowed here, where the contest's evaluator judges"):
        JudgedAnswersTask(build(FinetuneConfig, {**SETTINGS, **more}), 0, RunFolder(tmp_path), lambda task: llada(), 60, 2)


def test_answers_are_judged_in_the_run_s_precision(tmp_path):
    config = build(FinetuneConfig, {**SETTINGS, "dtype": "bfloat16"})
    task = JudgedAnswersTask(config, 0, RunFolder(tmp_path), lambda task: llada(), 60, 2)
    tokens, mask, real = (
        torch.zeros(2, 8, dtype=torch.int64),
        torch.ones(2, 8, dtype=torch.bool),
        torch.ones(2, 8, dtype=torch.bool),
    )
    with torch.no_grad():
        scores, exact = task.predict(tokens, mask, real), task.network(tokens, mask, None)
    assert scores.dtype == torch.float32 and not torch.equal(scores, exact)
    torch.testing.assert_close(scores, exact, atol=0.05, rtol=0.05)


def test_the_first_held_out_answers_validate_and_the_others_test(tmp_path, monkeypatch):
    task = JudgedAnswersTask(build(FinetuneConfig, SETTINGS), 0, RunFolder(tmp_path), lambda task: llada(), 60, 2)
    task.predict = lambda tokens, mask, real: torch.zeros(int(mask.sum()), 300)
    parts, asked, nll, written = [], [], task._nll, contest_evaluator.written
    task._nll = lambda *part: parts.append(part) or nll(*part)
    monkeypatch.setattr(contest_evaluator, "written", lambda *given: asked.extend(given[2]) or written(*given))
    row = task.evaluate(2)
    assert parts == [(0, 10), (10, 70)]
    assert [prompt.tolist() for prompt in asked] == [task._prompt(one) for one in task.data.exercises[10:70]]
    assert row["valid_nll"] == pytest.approx(math.log(300)) == row["test_nll"]


def test_a_model_that_knows_nothing_is_right_by_chance(tmp_path):
    """Its choices are all equally likely, so a right answer that always stood first would always be taken."""
    task = JudgedAnswersTask(build(FinetuneConfig, SETTINGS), 0, RunFolder(tmp_path), lambda task: llada(), 60, 2)
    task.predict = lambda tokens, mask, real: torch.zeros(int(mask.sum()), 300)
    row = task.evaluate(2)
    assert 0.08 < row["chosen"] < 0.45  # a quarter of 60, give or take three standard errors
    assert row["written"] == 0.0
