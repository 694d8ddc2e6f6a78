"""Answers learned with a schedule and judged by the contest's evaluator, whose masks are the same for every schedule."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import MaskSchedule
from mdlm_min.evaluation import contest_evaluator as evaluator
from mdlm_min.run.config import refuse_set
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.finetune import FinetuneConfig, FinetuneTask
from mdlm_min.tasks.scheduled import Marks, ScheduledFinetuneTask

SCORES = ("test_nll", "chosen", "written")
OTHERS = ("items", "item_passes", "generation_tokens", "validation_passes")  # settings of another way of judging


class JudgedAnswersTask(ScheduledFinetuneTask):
    """The first `validation_answers` held-out exercises validate, at most `tested` of the others test. Each is written in
    `answer_tokens`."""

    def __init__(
        self,
        config: FinetuneConfig,
        seed: int,
        folder: RunFolder,
        make: Callable[[FinetuneTask], MaskSchedule],
        tested: int,
        answer_tokens: int,
        make_marks: Callable[[FinetuneTask], Marks] | None = None,
    ) -> None:
        """Raises InputError for data that leave none to test, and for OTHERS."""
        refuse_set(config, OTHERS, "here, where the contest's evaluator judges")
        super().__init__(config, seed, folder, make, make_marks)
        there, wanted = len(self.data.exercises), config.validation_answers
        if there <= wanted:
            raise InputError(f"validation_answers: {wanted} of {there} held-out exercises leave none to test")
        self.tested, self.answer_tokens = tested, answer_tokens

    def predict(self, tokens: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """See contest_evaluator.Predict; the evaluator's tensors are on the CPU."""
        padding_mask = None if bool(real.all()) else real.to(self.device)
        with self.autocast():
            scores: Tensor = self.network(tokens.to(self.device), mask.to(self.device), padding_mask)
        return scores.float().cpu()

    @torch.no_grad()
    def evaluate(self, step: int) -> Row:
        """NLL per token of held-out answers; after the last step also SCORES: that of the test's, and the shares of choices and
        of written answers that are right (before it, these are not a number)."""
        first, last = self.config.validation_answers, self.config.validation_answers + self.tested
        row = {"valid_nll": self._nll(0, first)}
        if step < self.config.train.steps:
            return row | dict.fromkeys(SCORES, math.nan)
        exercises = self.data.exercises[first:last]
        prompts = [torch.tensor(self._prompt(one)) for one in exercises]
        choices = [[torch.tensor(self.template.content(choice)) for choice in one.choices] for one in exercises]
        chosen = evaluator.share_chosen(self.predict, self.mask_token, prompts, choices)
        written = evaluator.written(self.predict, self.mask_token, prompts, self.answer_tokens)
        right = evaluator.share_right([self.template.answer(tokens) for tokens in written], [one.answer for one in exercises])
        values = (self._nll(first, last), chosen, right)
        return row | dict(zip(SCORES, values, strict=True))

    def _nll(self, first: int, last: int) -> float:
        samples = self.data.held_out[first:last]
        prompts = [torch.from_numpy(one.prompt).long() for one in samples]
        answers = [torch.from_numpy(one.answer).long() for one in samples]
        return float(evaluator.answer_nll(self.predict, self.mask_token, prompts, answers).sum()) / sum(map(len, answers))
