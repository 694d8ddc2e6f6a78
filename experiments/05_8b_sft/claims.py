"""B3 and B4 at the paper's size, and scaled down: which window is best by likelihood, and which by what the model writes?"""

from pathlib import Path

import numpy as np

from mdlm_min.diffusion.generation_record import accuracy_under_parallelism
from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, MissingArmError, arms_of, by_seed, curves_of, in_cell, quarter, rows_of
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import Crossed, Evidence, Mean, Ratio, student_interval
from mdlm_min.tasks.summaries import DECODERS, SCORED_COLUMNS, TOKENS_PER_STEP

ARMS = {"middle": "U[.45,.55]", "from_0": "U[0,1]", "from_2": "U[.2,1]", "from_3": "U[.3,1]", "from_5": "U[.5,1]"}
ITEMS = (("arithmetic:3",), SCORED_COLUMNS)  # tasks and scores of items.csv
EDGES = {"from_0": 0.0, "from_2": 0.2, "from_3": 0.3, "from_5": 0.5}  # lower edges of the windows that end at 1
SCALED = {
    "arithmetic": "arithmetic in three steps, .11M",
    "arithmetic-slow": "the same at half the learning rate",
    "arithmetic-fresh": "arithmetic at half the rate, seeds 6 to 10",
    "gsm8k": "GSM8K, .24M",
}
DECODED = "arithmetic at half the rate, seeds 1 to 5"  # the models of "arithmetic-slow"
DECODING = "arithmetic-decoding"
FRESH = "arithmetic-decoding-fresh"
THRESHOLDS = ("exact", "threshold_0.95", "threshold_0.9", "threshold_0.8", "threshold_0.6")
STEPS = ("exact", "by_2", "by_4", "by_8")
DISCRIMINATIVE = ("mmlu", "mmlu_stem", "arc_challenge", "gpqa")
GENERATIVE = ("gsm8k", "math")
TABLE_2 = {"from_0": (0.659, 0.621, 0.468, 0.344), "middle": (0.669, 0.635, 0.480, 0.402)}  # in the order of DISCRIMINATIVE
TABLE_3 = {  # in the order of GENERATIVE
    "middle": (0.738, 0.342),
    "from_0": (0.768, 0.341),
    "from_2": (0.762, 0.358),
    "from_3": (0.774, 0.360),
    "from_5": (0.785, 0.375),
}


def published_mean(scores: dict[str, tuple[float, ...]], arm: str) -> float:
    """The mean over a table's tasks."""
    return float(np.mean(scores[arm]))


def _scores_text(table: Table, column: str) -> str:
    """The mean score of every arm that was run."""
    names = [arm for arm in ("untuned", *ARMS) if arm in arms_of(table)]
    return ", ".join(f"{ARMS.get(arm, 'base')} {by_seed(table, arm, column).mean():.3f}" for arm in names)


def _items(table: Table, arm: str, column: str) -> np.ndarray:
    """One column of the items, [seeds, items]. Raises MissingArmError where the arm was not scored on items."""
    frame = table.item_frame()
    found = frame[frame["arm"] == arm] if len(frame) else frame
    if not len(found):
        raise MissingArmError(arm)
    return found.pivot_table(index="seed", columns="item", values=column).to_numpy()


def _gain(column: str, arm: str, rival: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The arm's score less its rival's, paired by seed and item."""
        differences = _items(table, arm, column) - _items(table, rival, column)
        return Crossed(tuple(map(tuple, differences)), f"{_scores_text(table, column)}")

    return judge


def judge_nll(table: Table) -> Evidence:
    """Held-out answers are likelier after training on the middle window."""
    gain = by_seed(table, "from_0", "valid_loss") - by_seed(table, "middle", "valid_loss")
    return Mean(tuple(gain), f"NLL of held-out answers, nats per token: {_scores_text(table, 'valid_loss')}")


def judge_slope(table: Table) -> Evidence:
    """Open point 10: the share solved grows with the window's lower edge, by the slope of each seed's four windows."""
    edges = np.array(list(EDGES.values()))
    shares = np.array([by_seed(table, arm, "solved_1") for arm in EDGES])  # [windows, seeds]
    slopes = (edges - edges.mean()) @ shares / ((edges - edges.mean()) ** 2).sum()
    return Mean(tuple(slopes), _scores_text(table, "solved_1"))


def judge_both(table: Table) -> Evidence:
    """What the middle window gains by likelihood less what it gains by generation."""
    gains = {name: _items(table, "middle", name) - _items(table, "from_0", name) for name in ("acc", "solved_1")}
    arms = list(ARMS)
    best = {
        name: ", ".join(ARMS[arms[place]] for place in np.array([by_seed(table, arm, name) for arm in arms]).argmax(axis=0))
        for name in gains
    }
    note = (
        f"By likelihood: {_scores_text(table, 'acc')}. By generation: {_scores_text(table, 'solved_1')}. Best window of each "
        f"seed: {best['acc']} by likelihood, {best['solved_1']} by generation"
    )
    return Crossed(tuple(map(tuple, gains["acc"] - gains["solved_1"])), note)


def _written(table: Table, arm: str, column: str) -> dict[str, np.ndarray]:
    """What was measured of each way of writing: by way, a value for each seed."""
    ends = [rows[-1] for rows in curves_of(table, arm)]
    return {way: np.array([end[f"{column}_{way}"] for end in ends]) for way in DECODERS}


def _as_good(way: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The share solved in this way less that of the plain algorithm, paired by seed and item, after U[0,1]."""
        difference = _items(table, "from_0", f"solved_{way}") - _items(table, "from_0", "solved_exact")
        solved = _written(table, "from_0", "solved")
        note = ", ".join(f"{name} {shares.mean():.3f}" for name, shares in solved.items())
        return Crossed(tuple(map(tuple, difference)), f"Solved after U[0,1]: {note}")

    return judge


def judge_passes(table: Table) -> Evidence:
    """Forward passes for each answer, plain over cached, after U[0,1]."""
    passes = _written(table, "from_0", "passes")
    note = ", ".join(f"{name} {counts.mean():.1f}" for name, counts in passes.items())
    return Ratio(tuple(passes["exact"] / passes["cached"]), f"Passes for an answer after U[0,1]: {note}")


def parallelism(table: Table, arm: str, ways: tuple[str, ...]) -> np.ndarray:
    """AUP of each seed over some ways of writing; the best accuracy is the highest of that seed, over all arms and ways."""
    solved, pace = _written(table, arm, "solved"), _written(table, arm, "tokens_per_pass")
    best = np.max([shares for name in arms_of(table) for shares in _written(table, name, "solved").values()], axis=0)
    return np.array(
        [
            accuracy_under_parallelism([(pace[way][seed], 100 * solved[way][seed]) for way in ways], 100 * best[seed])
            for seed in range(len(best))
        ]
    )


def judge_parallelism(table: Table) -> Evidence:
    """AUP over thresholds, after U[.5,1] less after U[0,1]."""
    found = {arm: parallelism(table, arm, THRESHOLDS) for arm in ("from_0", "from_5", "middle")}
    fixed = parallelism(table, "from_0", STEPS)
    note = ", ".join(f"{ARMS[arm]} {values.mean():.1f}" for arm, values in found.items())
    return Mean(
        tuple(found["from_5"] - found["from_0"]), f"AUP over thresholds: {note}; over fixed steps, U[0,1]: {fixed.mean():.1f}"
    )


def _mean_gain(tasks: tuple[str, ...], arm: str, rival: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The mean gain over the paper's tasks, seed by seed."""
        found = {name: rows_of(table, name)[list(tasks)] for name in (arm, rival)}
        note = "; ".join(f"{task} " + " and ".join(f"{found[name][task].mean():.3f}" for name in (rival, arm)) for task in tasks)
        gain = found[arm].to_numpy().mean(axis=1) - found[rival].to_numpy().mean(axis=1)
        return Mean(tuple(gain), f"{ARMS[rival]} and {ARMS[arm]}: {note}")

    return judge


B3 = published_mean(TABLE_2, "middle") - published_mean(TABLE_2, "from_0")
B4 = published_mean(TABLE_3, "from_5") - published_mean(TABLE_3, "from_0")
B4_MIDDLE = published_mean(TABLE_3, "from_0") - published_mean(TABLE_3, "middle")
_PAPER = {
    "tier": "paper",
    "cost": "five arms of LLaDA-8B, 1,200 steps of 256 x 1,024: 1.2 hours of 8 H100 an arm at 40%, then the evaluation: 43 hours "
    "of one H100 a model, nearly all of them for 512 tokens in 512 steps (mdlm plan 8b_sft); five seeds need five times that",
}
_CROSSED = "interval over seeds and items above 0"


def _scaled(id: str, statement: str, quantity: str, published: str, judge: Judge, cell: str, **more: object) -> Claim:
    settings: dict[str, object] = {
        "kind": "statistical", "tolerance": _CROSSED, "tier": "cpu", "scale": "difference", "smallest": quarter(B3),
        "family": f"scorings, {cell}",
    }  # fmt: skip
    return Claim(
        id=id, statement=f"{statement}; {SCALED[cell]}", quantity=quantity, published=published, judge=in_cell(judge, cell),
        **(settings | more),
    )  # fmt: skip


def _arithmetic(cell: str) -> list[Claim]:
    """The questions that are asked of arithmetic, at one of its learning rates."""
    return [
        _scaled(
            f"B3-{cell}", "By likelihood among choices the middle window is better than U[0,1]", "accuracy, U[.45,.55] - U[0,1]",
            ".547 - .523 (Table 2's mean)", _gain("acc", "middle", "from_0"), cell,
        ),
        _scaled(
            f"B4-{cell}", "By what is written U[.5,1] is better than U[0,1]", "share solved, U[.5,1] - U[0,1]",
            ".580 - .555 (Table 3's mean)", _gain("solved_1", "from_5", "from_0"), cell, smallest=quarter(B4),
        ),
        _scaled(
            f"B4-middle-{cell}", "By what is written the middle window is worse than U[0,1] (open point 10)",
            "share solved, U[0,1] - U[.45,.55]", ".555 - .540 (Table 3's mean)", _gain("solved_1", "from_0", "middle"), cell,
            smallest=quarter(B4_MIDDLE),
        ),
        _scaled(
            f"B4-edge-{cell}", "The share solved grows with the window's lower edge (open point 10)",
            "share solved per unit of the edge", ".04 (GSM8K), .07 (MATH)", judge_slope, cell, tolerance="interval above 0",
            smallest=quarter(0.055),
        ),
        _scaled(
            f"B34-{cell}", "The best window differs between the two scorings: the middle one gains more by likelihood",
            "(accuracy - share solved), U[.45,.55] - U[0,1]", ".024 + .015", judge_both, cell, smallest=quarter(B3 + B4_MIDDLE),
        ),
    ]  # fmt: skip


LOSS = 0.02  # of the share solved, that a faster way of writing may cost


def _decoding(id: str, statement: str, quantity: str, judge: Judge, cell: str, **more: object) -> Claim:
    settings: dict[str, object] = {
        "kind": "statistical", "tier": "cpu", "published": "(ours)", "scale": "difference", "family": f"ways of writing, {cell}",
    }  # fmt: skip
    fresh = cell == FRESH
    return Claim(
        id=f"{id}-fresh" if fresh else id,
        statement=f"{statement}; {SCALED['arithmetic-fresh'] if fresh else DECODED}",
        quantity=quantity, judge=in_cell(judge, cell), **(settings | more),
    )  # fmt: skip


def _ways_of_writing(cell: str) -> list[Claim]:
    """The questions that are asked of the ways of writing, on some of the models."""
    return [
        _decoding(
            "G1", f"Fixing every token of confidence .9 or more costs less than {LOSS} of the sums solved",
            "share solved, threshold .9 - one token a pass", _as_good("threshold_0.9"), cell, null=-LOSS, smallest=0.0,
            tolerance=f"interval over seeds and items above -{LOSS}",
        ),
        _decoding(
            "G2", f"With keys and values cached too, and in three blocks, it costs less than {LOSS}",
            "share solved, cached - one token a pass", _as_good("cached"), cell, null=-LOSS, smallest=0.0,
            tolerance=f"interval over seeds and items above -{LOSS}",
        ),
        _decoding(
            "G3", "That takes less than a quarter of the forward passes", "passes, one token a pass / cached", judge_passes, cell,
            scale="ratio", null=4.0, smallest=4.4, tolerance="interval above 4",
        ),
        _decoding(
            "G4", "After U[.5,1] accuracy against tokens per pass is better than after U[0,1]", "AUP, U[.5,1] - U[0,1]",
            judge_parallelism, cell, smallest=2.0, tolerance="interval above 0",
        ),
    ]  # fmt: skip


CLAIMS = [
    Claim(
        id="B3",
        statement="Fine-tuned on the middle window, discriminative tasks are better than after U[0,1]; LLaDA-8B, tulu-3 math",
        kind="statistical",
        quantity="mean accuracy of MMLU, MMLU-stem, ARC-C, GPQA: U[.45,.55] - U[0,1]",
        published=".547 - .523",
        tolerance="interval above 0",
        judge=in_cell(_mean_gain(DISCRIMINATIVE, "middle", "from_0"), "evaluated"),
        scale="difference",
        paper=B3,
        smallest=quarter(B3),
        **_PAPER,
    ),
    Claim(
        id="B4",
        statement="Fine-tuned on U[.5,1], generative tasks are better than after U[0,1]; LLaDA-8B, tulu-3 math",
        kind="statistical",
        quantity="mean exact match of GSM8K, MATH: U[.5,1] - U[0,1]",
        published=".580 - .555",
        tolerance="interval above 0",
        judge=in_cell(_mean_gain(GENERATIVE, "from_5", "from_0"), "evaluated"),
        scale="difference",
        paper=B4,
        smallest=quarter(B4),
        **_PAPER,
    ),
    *_arithmetic("arithmetic"),
    *_arithmetic("arithmetic-slow"),
    _scaled(
        "B3-late-middle", "By likelihood U[.5,1] is better than the middle window (seen on seeds 1 to 5)",
        "accuracy, U[.5,1] - U[.45,.55]", "(ours)", _gain("acc", "from_5", "middle"), "arithmetic-fresh", family="late window",
    ),
    _scaled(
        "B3-late-uniform", "By likelihood U[.5,1] is better than U[0,1] (seen on seeds 1 to 5)",
        "accuracy, U[.5,1] - U[0,1]", "(ours)", _gain("acc", "from_5", "from_0"), "arithmetic-fresh", family="late window",
    ),
    _scaled(
        "B3-gsm8k", "By likelihood among results the middle window is better than U[0,1]", "accuracy, U[.45,.55] - U[0,1]",
        ".547 - .523 (Table 2's mean)", _gain("acc", "middle", "from_0"), "gsm8k",
    ),
    _scaled(
        "B3-nll-gsm8k", "Held-out answers are likelier after the middle window than after U[0,1]",
        "nats per token, U[0,1] - U[.45,.55]", "(ours)", judge_nll, "gsm8k", tolerance="interval above 0", smallest=0.05,
    ),
    *_ways_of_writing(DECODING),
    *_ways_of_writing(FRESH),
]  # fmt: skip


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Per tier: both scores against the window's lower edge, ours beside the paper's, and the share solved against the number of
    tokens that a step of generation fixes."""
    paths = []
    for tier, table in tables.items():
        cells = [cell for cell in SCALED if set(ARMS) <= set(arms_of(table.cell(cell)))]
        if not cells:
            continue
        ways, steps = table.cell(DECODING), "arithmetic" in cells
        count = 1 + len(cells) + steps + bool(ways.runs)
        fig, grid = figure.grid(-(-count // 3), 3, width=4.2)
        axes = grid.flat
        _draw_published(axes[0])
        for ax, cell in zip(axes[1:], cells, strict=False):
            _draw_edges(ax, table.cell(cell), cell)
        if steps:
            _draw_steps(axes[1 + len(cells)], table.cell("arithmetic"))
        if ways.runs:
            _draw_ways(axes[count - 1], ways)
        for ax in axes[count:]:
            ax.set_visible(False)
        paths.append(figure.save(fig, folder / f"05_8b_sft_{tier}.png"))
    return paths


SCORINGS = {"acc": (2, "by likelihood"), "solved_1": (3, "by what is written")}


def _draw_published(ax: figure.Axes) -> None:
    edges = list(EDGES.values())
    written = [published_mean(TABLE_3, arm) for arm in EDGES]
    ax.plot(edges, written, "o", color=figure.COLOURS[3], label="GSM8K, MATH", **figure.PUBLISHED)
    ax.plot([0.45], [published_mean(TABLE_3, "middle")], "s", color=figure.COLOURS[3])
    ax.plot([0.0], [published_mean(TABLE_2, "from_0")], "o", color=figure.COLOURS[2], label="four discriminative tasks")
    ax.plot([0.45], [published_mean(TABLE_2, "middle")], "s", color=figure.COLOURS[2])
    ax.set(xlabel="lower edge (squares: U[.45,.55])", ylabel="mean score", title="paper, Tables 2 and 3: LLaDA-8B")
    ax.legend(fontsize=8)


def _draw_edges(ax: figure.Axes, table: Table, cell: str) -> None:
    """Both scores of each window with their intervals over seeds, and those of the base."""
    for column, (colour, label) in SCORINGS.items():
        if not np.isfinite(by_seed(table, "from_0", column)).all():
            continue
        shade = figure.COLOURS[colour]
        means = []
        for arm, edge, mark in (*((arm, edge, "o") for arm, edge in EDGES.items()), ("middle", 0.45, "s")):
            values = by_seed(table, arm, column)
            means.append(values.mean())
            if len(values) > 1:
                ends = student_interval(means[-1], values.std(ddof=1) / len(values) ** 0.5, len(values) - 1)
                ax.plot([edge, edge], ends, color=shade, linewidth=1)
            ax.plot([edge], [means[-1]], mark, color=shade)
        ax.plot(list(EDGES.values()), means[:-1], color=shade, label=label)
        if "untuned" in arms_of(table):
            ax.axhline(by_seed(table, "untuned", column).mean(), color=shade, linestyle=":", linewidth=1)
    ax.set(
        xlabel="lower edge (squares: U[.45,.55])",
        ylabel="share right, 95% over seeds\n(dotted: before tuning)",
        title=f"ours, {SCALED[cell]}",
    )
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    ax.legend(fontsize=8, loc="upper left")


def _draw_steps(ax: figure.Axes, table: Table) -> None:
    """The share solved against the tokens that each step of generation fixes."""
    for index, (arm, label) in enumerate(ARMS.items()):
        shares = [by_seed(table, arm, f"solved_{count}").mean() for count in TOKENS_PER_STEP]
        ax.plot(TOKENS_PER_STEP, shares, "s-" if arm == "middle" else "o-", color=figure.ordered(index, len(ARMS)), label=label)
    ax.set(xscale="log", xticks=TOKENS_PER_STEP, xticklabels=TOKENS_PER_STEP)
    ax.minorticks_off()
    ax.set(xlabel="tokens per step of generation", ylabel="share solved", title="ours, arithmetic: fewer steps")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    ax.legend(fontsize=8, loc="upper center", ncols=2)


def _draw_ways(ax: figure.Axes, table: Table) -> None:
    """The share solved against the tokens of an answer for each forward pass: thresholds joined, fixed numbers dashed."""
    for arm in arms_of(table):
        solved, pace = _written(table, arm, "solved"), _written(table, arm, "tokens_per_pass")
        shade = figure.ordered(list(ARMS).index(arm), len(ARMS))
        for ways, line in ((THRESHOLDS, "o-"), (STEPS, "x--"), (("cached",), "s"), (("factor_1",), "^")):
            label = ARMS[arm] if ways is THRESHOLDS else None
            points = [[values[way].mean() for way in ways] for values in (pace, solved)]
            ax.plot(*points, line, color=shade, label=label, markersize=5)
    ax.set(
        xlabel="tokens per forward pass",
        ylabel="share solved",
        title="ours, arithmetic: ways to write",
    )
    for label, line in (("threshold", "o-"), ("fixed number", "x--"), ("threshold, cached", "s"), ("factor", "^")):
        ax.plot([], [], line, color="grey", label=label, markersize=5)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    ax.legend(fontsize=8, loc="upper center", ncols=2)
