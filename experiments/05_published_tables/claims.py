"""B2t, B3t, B4t: Tables 1 to 3 as published, judged as they stand. No run of ours is in these verdicts."""

import itertools
import math
from pathlib import Path

import numpy as np
from scipy import stats

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, Verdict, arms_of, rows_of
from mdlm_min.evidence.golden import Table, published

EDGES = {"U[0,1]": 0.0, "U[0.2,1]": 0.2, "U[0.3,1]": 0.3, "U[0.5,1]": 0.5}
FLOORS = {  # where `floor` of experiment.toml was measured (shared fact sheet on the field)
    "gpqa": "LLaDA-8B-Base scores .252 in one framework and .319 in another",
    "gsm8k": "one model scores .775 on an H200 and .728 on an A100",
    "math": "bf16 moves MATH500 by 2 points between GPUs",
}


def _judge_gain(arm: str) -> Judge:
    def judge(table: Table) -> Verdict:
        """The published gain against the sampling noise of its items and against the noise floor."""
        row = rows_of(table, arm).iloc[0]
        half = float(stats.norm.ppf(0.975)) * row["error"]
        low, high = row["gain"] - half, row["gain"] + half
        note = (
            f"The published numbers, not ours. z = {row['z']:.2f} over {row['items']:.0f} items, unpaired (p = {row['p']:.2g}); "
            f"these items show a gain of {row['detectable']:.3f} in 80% of cases"
        )
        task = arm.removesuffix("_middle")
        if row["gain"] < 0:
            note += "; the numbers point the other way than the text"
        if row["floor"]:
            note += f"; noise floor {row['floor']:.3f}: {FLOORS[task]}"
        if task == "math":
            note += f". If it was MATH500, z is {row['z'] * math.sqrt(500 / row['items']):.2f}"
        note += ". One training run each: how much runs differ is not in it"
        verdict = "reproduced" if low > 0 and row["gain"] > row["floor"] else "not reproduced" if high < 0 else "underpowered"
        return Verdict(verdict, note, row["gain"], low, high)

    return judge


def trend(accuracies: list[float], edges: list[float], items: int) -> float:
    """Linear trend of accuracy over the windows' lower edges, in its standard errors, for independent items:
    Cochran-Armitage with each accuracy's own variance."""
    centred = np.asarray(edges) - np.mean(edges)
    values = np.asarray(accuracies)
    return float(centred @ values / math.sqrt(float(centred**2 @ (values * (1 - values))) / items))


def _judge_scale(task: str) -> Judge:
    def judge(table: Table) -> Verdict:
        """Each step of the lower edge is a step up."""
        items = int(rows_of(table, task).iloc[0]["items"])
        rows = published("tables_1_to_3").query("task == @task").set_index("window")["accuracy"]
        values = [float(rows[window]) for window in EDGES]
        steps = [after - before for before, after in itertools.pairwise(values)]
        note = (
            f"The published numbers, not ours. From U[0,1] to U[.5,1]: {', '.join(f'{value:.3f}' for value in values)}; z of the "
            f"linear trend {trend(values, list(EDGES.values()), items):.2f}"
        )
        return Verdict("reproduced" if min(steps) > 0 else "not reproduced", note, min(steps))

    return judge


_TABLES = {
    "B2t": ("Table 1", "U[.45,.55] - U[0,1], trained from scratch", ("hellaswag", "arc_easy")),
    "B3t": ("Table 2", "U[.45,.55] - U[0,1], fine-tuned", ("mmlu", "mmlu_stem", "arc_challenge", "gpqa")),
    "B4t": ("Table 3", "U[.5,1] - U[0,1], fine-tuned", ("gsm8k", "math")),
}
_NAMES = {
    "hellaswag": "HellaSwag", "arc_easy": "ARC-Easy", "mmlu": "MMLU", "mmlu_stem": "MMLU-stem", "arc_challenge": "ARC-Challenge",
    "gpqa": "GPQA", "gsm8k": "GSM8K", "math": "MATH",
}  # fmt: skip
_GAINS = {
    "hellaswag": (".400 - .354", 0.046), "arc_easy": (".430 - .342", 0.088), "mmlu": (".669 - .659", 0.010),
    "mmlu_stem": (".635 - .621", 0.014), "arc_challenge": (".480 - .468", 0.012), "gpqa": (".402 - .344", 0.058),
    "gsm8k": (".785 - .768", 0.017), "math": (".375 - .341", 0.034), "gsm8k_middle": (".768 - .738", 0.030),
    "math_middle": (".341 - .342", -0.001),
}  # fmt: skip
_TOLERANCE = "95% interval over items, unpaired, above 0, and gain above the noise floor where one is known"


def _gain(name: str, arm: str, statement: str, quantity: str) -> Claim:
    text, paper = _GAINS[arm]
    judge = _judge_gain(arm)
    return Claim(name, statement, "exact", quantity, text, _TOLERANCE, "cpu", judge, scale="difference", paper=paper)


CLAIMS = [
    *(
        _gain(f"{name}-{task}", task, f"{place} as published: the gain on {_NAMES[task]} is larger than its noise", quantity)
        for name, (place, quantity, tasks) in _TABLES.items()
        for task in tasks
    ),
    *(
        _gain(
            f"B4t-middle-{task}",
            f"{task}_middle",
            f"Table 3 as published: U[.45,.55] is below U[0,1] on {_NAMES[task]} (section 5.2.2) by more than the noise",
            "U[0,1] - U[.45,.55], fine-tuned",
        )
        for task in ("gsm8k", "math")
    ),
    *(
        Claim(
            id=f"B4t-scales-{task}",
            statement=f"Table 3 as published: {_NAMES[task]} rises with every step of the window's lower edge (section 5.2.2)",
            kind="exact",
            quantity="smallest step",
            published="scales positively",
            tolerance="every step above 0",
            tier="cpu",
            judge=_judge_scale(task),
            scale="difference",
        )
        for task in ("gsm8k", "math")
    ),
]


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Each published gain with its 95% interval, what its items could show, and the noise floor."""
    if "cpu" not in tables:
        return []
    table = tables["cpu"]
    arms = [arm for arm in arms_of(table) if not arm.endswith("_middle")]
    fig, axes = figure.grid(1, 1, width=8.0)
    ax = axes[0, 0]
    for place, arm in enumerate(arms):
        row = rows_of(table, arm).iloc[0]
        colour = figure.COLOURS[0 if arm in ("hellaswag", "arc_easy") else 1 if arm in _TABLES["B3t"][2] else 2]
        first = "gain, with its 95% interval over items" if not place else ""
        ax.errorbar(place, row["gain"], yerr=1.96 * row["error"], fmt="o", color=colour, capsize=3, label=first)
        ax.plot(
            [place - 0.3, place + 0.3],
            [row["detectable"]] * 2,
            color="grey",
            label="least gain seen in 80% of cases" if not place else "",
        )
        if row["floor"]:
            ax.plot(place, row["floor"], "x", color="#222", label="noise floor, same weights" if arm == "gpqa" else "")
    ax.axhline(0, color="#222", linewidth=0.8)
    ax.set_xticks(range(len(arms)), [_NAMES[arm] for arm in arms], rotation=20)
    ax.set(
        ylabel="gain of accuracy",
        title="Table 1 (blue), 2 (orange) and 3 (green) as published: gains and the noise of their items",
    )
    ax.set_ylim(top=0.2)  # room for the legend
    ax.legend(loc="upper right")
    return [figure.save(fig, folder / "05_published_tables.png")]
