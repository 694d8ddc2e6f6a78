"""What the evaluation of Tables 2 and 3 takes: forward passes, tokens, hours, and how many texts are generated at a time.

Tokens of a prompt are estimates. For MMLU, ARC and GSM8K they are means over local files in GPT-2's tokens, times the number of
shots; for GPQA and MATH they are assumed.
"""

from dataclasses import dataclass, replace

from mdlm_min.evaluation.harness import HarnessConfig
from mdlm_min.evaluation.paper_tasks import GENERATION, PAPER_TASKS
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import training_operations
from mdlm_min.model.llada import parameter_count
from mdlm_min.run.time_left import duration_text
from mdlm_min.tasks.plan import GB, RESERVE, Gpu

TABLES = ("mmlu", "arc_challenge", "gpqa", "gsm8k", "math")  # MMLU-stem is a part of MMLU
CHOICES = 4
# Of each task: tokens of a prompt with its shots, tokens of a choice (0: it is generated), and choices that are read.
LENGTHS = {"mmlu": (670, 1), "arc_challenge": (31, 6), "gpqa": (1200, 1), "gsm8k": (680, 0), "math": (800, 0)}


@dataclass(frozen=True)
class Cost:
    """Of one task: forward passes of one sequence, tokens of each, the share of them that is scored on average."""

    passes: int
    length: int
    scored: float

    def operations(self, model: ModelConfig) -> float:
        """Of all passes: a third of a training step's."""
        return training_operations(replace(model, length=self.length), self.passes, self.scored) / 3


def cost(task: str, passes: int) -> Cost:
    """What a task of the paper takes with so many passes for an answer. Choices of one token are one input, read once
    (where a batch ends between them, twice: a third more at GPQA's length in batches of 8,192 tokens)."""
    items = PAPER_TASKS[task].items
    prompt, answer = LENGTHS[task]
    if answer:
        masks = passes if answer > 6 else min(passes, 2**answer - 1)
        inputs = CHOICES * masks if answer > 1 else 1
        return Cost(items * inputs, prompt + answer, answer / (prompt + answer) / 2)
    steps, length = GENERATION["steps"], prompt + GENERATION["max_gen_toks"]
    return Cost(items * steps, length, GENERATION["max_gen_toks"] / length / 2)


def generation_batch(model: ModelConfig, gpu: Gpu) -> int:
    """Texts that fit one GPU at a time, in bfloat16: besides the weights, a text takes the scores of its answer in bfloat16, one
    block's activations and the residual stream."""
    length = max(LENGTHS[task][0] for task in TABLES) + GENERATION["max_gen_toks"]
    scores = 2 * GENERATION["max_gen_toks"] * model.outputs
    activations = 2 * length * (8 * model.width + 3 * (model.mlp_width or 4 * model.width))
    free = gpu.memory - RESERVE - 2 * parameter_count(model)
    return max(0, int(free // (scores + activations)))


def describe(model: ModelConfig, gpus: int, gpu: Gpu, utilisation: float) -> str:
    """The plan of the evaluation of one model as text."""
    passes = HarnessConfig("").passes
    rate = gpus * gpu.operations * utilisation
    lines, total = [], 0.0
    for task in TABLES:
        found = cost(task, passes)
        operations = found.operations(model)
        total += operations
        kind = "generated" if not LENGTHS[task][1] else "by likelihood"
        lines.append(
            f"  {PAPER_TASKS[task].title:14} {PAPER_TASKS[task].items:6,} items {kind:13} {found.passes:10,} passes of about "
            f"{found.length:,} tokens: {duration_text(operations / rate)}"
        )
    size, steps, texts = GENERATION["max_gen_toks"], GENERATION["steps"], generation_batch(model, gpu)
    return "\n".join(
        [
            f"evaluation  of one model, Tables 2 and 3: {duration_text(total / rate)} at {utilisation:.0%} of the same rate",
            *lines,
            f"  generation  {size} tokens in {steps} steps, {texts} texts at a time in {gpu.memory / GB:.0f} GB",
        ]
    )
