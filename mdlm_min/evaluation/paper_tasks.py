"""The paper's tasks (Tables 1 to 3) by lm-eval's own names, and the same tasks over local files.

Shots and passes are LLaDA's (F.6 follows it): its evaluation scripts, and its paper's table for GSM8K and MATH. Generation is the
paper's: length and steps both 512. ARC-Easy is in none of LLaDA's scripts; it is scored as ARC-Challenge is.
"""

from dataclasses import dataclass, field
from pathlib import Path

OFFLINE = Path(__file__).with_name("offline")
GENERATION = {"max_gen_toks": 512, "steps": 512}


@dataclass(frozen=True)
class PaperTask:
    """`task`: lm-eval's name. `items`: how many it has. `metric`: what we report of it; the paper does not say which accuracy it
    means. `offline`: its name over local files, where there is one. `gen_kwargs`: of a generative task."""

    title: str
    task: str
    shots: int
    items: int
    metric: str
    offline: str = ""
    gen_kwargs: dict[str, int] = field(default_factory=dict)


PAPER_TASKS = {
    "hellaswag": PaperTask("HellaSwag", "hellaswag", 0, 10042, "acc_norm", "hellaswag_local"),
    "arc_easy": PaperTask("ARC-Easy", "arc_easy", 0, 2376, "acc", "arc_easy_local"),
    "arc_challenge": PaperTask("ARC-Challenge", "arc_challenge", 0, 1172, "acc_norm", "arc_challenge_local"),
    "mmlu": PaperTask("MMLU", "mmlu", 5, 14042, "acc", "mmlu_local"),
    "mmlu_stem": PaperTask("MMLU-stem", "mmlu_stem", 5, 3153, "acc", "mmlu_stem_local"),
    "gpqa": PaperTask("GPQA", "gpqa_main_n_shot", 5, 448, "acc"),
    "gsm8k": PaperTask("GSM8K", "gsm8k", 4, 1319, "exact_match", "gsm8k_local", GENERATION),
    "math": PaperTask("MATH", "minerva_math", 4, 5000, "exact_match", "", GENERATION),
}


def is_gpqa(task: str) -> bool:
    """Whether a task's text must be neither stored nor printed: GPQA's authors ask that it is not posted in the clear."""
    return "gpqa" in task.lower()
