"""W1 to W4 at the paper's size and at two cores' size, their controls, the predictors (W5) and F.4's weights (T9b, T10)."""

from pathlib import Path

import numpy as np

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import (
    Claim,
    Judge,
    Verdict,
    arms_of,
    by_seed,
    curves_of,
    in_cell,
    mean_curve,
    quarter,
    rows_of,
)
from mdlm_min.evidence.golden import Table, published
from mdlm_min.evidence.statistics import AllOf, Evidence, Mean, Quotient, Share
from mdlm_min.run.run_folder import Row
from mdlm_min.tasks.summaries import RATES as CENTRES  # a probe measures at the windows' centres
from mdlm_min.tasks.summaries import suggested_rate
from mdlm_min.theory.formulas import ORDERS, WIKITEXT_WEIGHTS, mixture_optimum, mixture_signal

BINS = tuple(f"bin_{index / 10:.1f}_{(index + 1) / 10:.1f}" for index in range(10))
CELLS = {"bytes": "tokenizer=bytes", "BPE": "tokenizer=bpe:512"}
LABELS = {"uniform_0_1": "U[0,1]", "middle": "U[.45,.55]"}
MIDDLE_BINS, END_BINS = ("bin_0.4_0.5", "bin_0.5_0.6"), ("bin_0.0_0.1", "bin_0.9_1.0")


def _losses(table: Table, arm: str) -> np.ndarray:
    """Test loss of every seed, in the order of the seeds."""
    return by_seed(table, arm, "test_loss")


def _means(table: Table) -> np.ndarray:
    return np.array([_losses(table, arm).mean() for arm in BINS])


def _bins_text(table: Table) -> str:
    return "Test loss of the ten windows: " + " ".join(f"{value:.3f}" for value in _means(table))


def _best_windows(table: Table) -> list[float]:
    """Centre of the best of the ten windows, seed by seed."""
    losses = np.array([_losses(table, arm) for arm in BINS])
    return [CENTRES[index] for index in losses.argmin(axis=0)]


def judge_depth(table: Table) -> Evidence:
    """W1: the better end of the U lies above its middle, seed by seed."""
    middle = np.mean([_losses(table, arm) for arm in MIDDLE_BINS], axis=0)
    ends = np.min([_losses(table, arm) for arm in END_BINS], axis=0)
    return Mean(tuple(ends - middle), f"{_bins_text(table)}; U[0,1] {_losses(table, 'uniform_0_1').mean():.3f}")


def judge_place(table: Table) -> Evidence:
    """W1b: the best of the ten windows lies within [.2, .8], seed by seed."""
    best = _best_windows(table)
    held = sum(0.2 < centre < 0.8 for centre in best)
    return Share(held, len(best) - held, note=f"Best window of each seed: {', '.join(map(str, best))}")


def judge_middle(table: Table) -> Evidence:
    """W2: U[.45,.55] ends below U[0,1]."""
    uniform, middle = _losses(table, "uniform_0_1"), _losses(table, "middle")
    better = int((_means(table) < uniform.mean()).sum())
    note = f"U[0,1] {uniform.mean():.3f}, U[.45,.55] {middle.mean():.3f}; {better} of the ten windows end below U[0,1]"
    if "autoregressive" in arms_of(table):
        others = ", ".join(f"{arm} {_losses(table, arm)[0]:.3f}" for arm in ("autoregressive", "bigram", "unigram"))
        note += f". Of the same size, exact: {others}"
    return Mean(tuple(uniform - middle), note)


def judge_ends(table: Table) -> Evidence:
    """W3: both end windows end above U[0,1]."""
    uniform = _losses(table, "uniform_0_1")
    ends = {arm: _losses(table, arm) - uniform for arm in END_BINS}
    note = "Above U[0,1] by: " + ", ".join(f"{arm} {values.mean():.3f}" for arm, values in ends.items())
    return AllOf(tuple(Mean(tuple(values), note) for values in ends.values()))


def judge_early(table: Table) -> Evidence:
    """W4: from a sixth of the run on (the paper's first logged step) both middle bins are below U[0,1] at every evaluation: of
    each seed the smallest gap counts."""
    smallest = []
    for seed, rows in enumerate(curves_of(table, "uniform_0_1")):
        late = [index for index, row in enumerate(rows) if row["step"] >= rows[-1]["step"] / 6]
        middle = [curves_of(table, arm)[seed] for arm in MIDDLE_BINS]
        smallest.append(min(rows[index]["valid_loss"] - curve[index]["valid_loss"] for index in late for curve in middle))
    return Mean(tuple(smallest), f"Smallest gap of each seed: {', '.join(f'{value:.3f}' for value in smallest)}")


def _control(arm: str, rival: str, text: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The window still wins once this control is in place."""
        first, second = _losses(table, rival), _losses(table, arm)
        gain = _losses(table, "uniform_0_1") - _losses(table, "middle")
        note = f"{text}: {first.mean():.3f} against {second.mean():.3f}; the gain without the control is {gain.mean():.3f}"
        return Mean(tuple(first - second), note)

    return judge


def judge_weight(table: Table) -> Evidence:
    """W7: the share of the window's gain that goes when neither arm has the weight 1/t."""
    gain = _losses(table, "uniform_0_1") - _losses(table, "middle")
    left = _losses(table, "uniform_unweighted") - _losses(table, "middle_unweighted")
    note = (
        f"Test loss without 1/t: U[0,1] {_losses(table, 'uniform_unweighted').mean():.3f}, U[.45,.55] "
        f"{_losses(table, 'middle_unweighted').mean():.3f}; of a gain of {gain.mean():.3f} nats {left.mean():.3f} are left"
    )
    return Quotient(tuple(gain - left), tuple(gain), note)


def _predictions(table: Table, name: str, corpus: str) -> dict[int, float]:
    """A predictor's mask rate for one corpus, seed by seed: F.4 on its token n-grams, or a measure of the seed's probe."""
    if name == "n-grams":
        if corpus == "parities":  # its orders are what it was made of: F.4 is given them, not counts of its bits
            rate = mixture_optimum(tuple(float(order == 4) for order in ORDERS))
        else:
            rate = curves_of(table, "ngrams")[0][0]["occurrences_linear"]
        return dict.fromkeys(_seeds(table, BINS[0]), rate)
    seeds = _seeds(table, "probe")
    return {seed: suggested_rate(rows, name) for seed, rows in zip(seeds, curves_of(table, "probe"), strict=True)}


def _seeds(table: Table, arm: str) -> list[int]:
    return rows_of(table, arm)["seed"].tolist()


def _predictor(name: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """W5: the predicted rate lies within .1 of the seed's best window, on each of three corpora."""
        found = []
        for corpus, cell in (*CELLS.items(), ("parities", "parities")):
            part = table.cell(cell)
            best = dict(zip(_seeds(part, BINS[0]), _best_windows(part), strict=True))
            predicted = _predictions(part, name, corpus)
            pairs = [(rate, best[seed]) for seed, rate in predicted.items() if seed in best]
            held = sum(abs(rate - centre) <= 0.1 + 1e-9 for rate, centre in pairs)
            text = ", ".join(f"{rate:.2f} and {centre:.2f}" for rate, centre in pairs)
            found.append((held, len(pairs) - held, f"{corpus}: {text}"))
        note = f"Predicted rate and best window of each seed. {'; '.join(text for *_, text in found)}"
        return AllOf(tuple(Share(held, failed, note=note) for held, failed, _ in found))

    return judge


def _counts(table: Table, cell: str) -> Row:
    return curves_of(table.cell(cell), "ngrams")[0][0]


def judge_weights(table: Table) -> Verdict:
    """T10: some reading of F.4 gives every published weight to .005."""
    differences, parts = {}, []
    for corpus in ("wikitext-2", "wikitext-103"):
        for tokenizer in ("words", "gpt2"):
            row = _counts(table, f"corpus={corpus}_tokenizer={tokenizer}")
            for reading in ("occurrences", "types"):
                weights = [row[f"{reading}_w{order}"] for order in ORDERS]
                name = f"{corpus}, {tokenizer}, {reading}"
                differences[name] = float(np.abs(np.array(weights) - WIKITEXT_WEIGHTS).max())
                parts.append(f"{name}: {' '.join(f'{weight:.4f}' for weight in weights)}")
    best = min(differences, key=lambda name: differences[name])
    note = (
        f"Nearest: {best}, largest difference {differences[best]:.4f}. Words are lower-cased runs of letters and digits. Of "
        f"WikiText-2 we have 88% of the training split; of WikiText-103 half a percent, articles of WikiText-2 too. "
        f"All readings: {'; '.join(parts)}"
    )
    return Verdict("reproduced" if differences[best] <= 0.005 else "not reproduced", note, differences[best])


def judge_optimum(table: Table) -> Verdict:
    """T9b: the optimum with our own counts, in the reading that T10 finds, against .46."""
    row = _counts(table, "corpus=wikitext-2_tokenizer=words")
    linear = row["occurrences_linear"]
    others = "; ".join(
        f"{label} {_counts(table, cell)['occurrences_linear']:.3f}"
        for label, cell in (
            ("bytes", CELLS["bytes"]),
            ("BPE of 512", CELLS["BPE"]),
            ("GPT-2 BPE", "corpus=wikitext-2_tokenizer=gpt2"),
        )
    )
    note = (
        f"Linear {linear:.3f} (published weights: {mixture_optimum():.3f}), with the order factor "
        f"{row['occurrences_order']:.3f}, sum of squares "
        f"{row['occurrences_sum_of_squares']:.3f}, types instead of occurrences {row['types_linear']:.3f}. On the tokens that "
        f"models see: {others}"
    )
    return Verdict("reproduced" if abs(linear - 0.46) <= 0.01 else "not reproduced", note, linear)


_PAPER = {
    "tier": "paper",
    "cost": "50M parameters, 0.92 G tokens a run, 13 arms, 5 seeds: about 17 hours of one H100 at 1M tokens a second",
}
_ABOVE = "interval above 0"
# Of the quantity and the paper's number of it; a quarter of that is the smallest value that would matter.
_MAIN = (
    ("W1", "Test loss is U-shaped in the window", "ordinal", "nearer end - middle windows", "1.14", judge_depth, 1.140),
    ("W2", "The middle window beats U[0,1]", "statistical", "U[0,1] - U[.45,.55]", "3.88 - 3.62", judge_middle, 0.264),
    ("W3", "The end windows are worse than U[0,1]", "statistical", "nearer end - U[0,1]", ".88", judge_ends, 0.876),
    ("W4", "The middle is ahead from the earliest stages", "ordinal", "least gap of a run", ".26", judge_early, 0.264),
)
_CONTROLS = (
    ("W6", "that of even draws of t", "uniform_stratified", "middle", "U[0,1] with stratified t"),
    ("W8", "that of larger steps", "uniform_unit_gradient", "middle_unit_gradient", "both with gradients of norm 1"),
)


def _main(where: str, suffix: str = "", cell: str = "", **tier: str) -> list[Claim]:
    """W1 to W4 on one tier, or one cell of it."""
    claims = [
        Claim(
            id=id + suffix,
            statement=f"{text}; {where}",
            kind=kind,
            quantity=f"test loss, {quantity}" if id != "W4" else f"validation loss, {quantity}",
            published=value,
            tolerance=_ABOVE,
            judge=in_cell(judge, cell) if cell else judge,
            scale="difference",
            paper=paper,
            smallest=quarter(paper),
            family=f"windows{suffix}",
            **tier,
        )
        for id, text, kind, quantity, value, judge, paper in _MAIN
    ]
    place = Claim(
        id=f"W1b{suffix}",
        statement=f"The best of the ten windows lies within [.2,.8]; {where}",
        kind="ordinal",
        quantity="share of seeds",
        published="at .45",
        tolerance="interval above 1/2",
        judge=in_cell(judge_place, cell) if cell else judge_place,
        scale="share",
        paper=1.0,
        smallest=quarter(1.0, 0.5),
        family="W1b",
        **tier,
    )
    return [*claims, place]


CLAIMS = [
    *_main("50M, WikiText-103", **_PAPER),
    *(claim for label, cell in CELLS.items() for claim in _main(f"WikiText-2, {label}, .35M", f"-{label}", cell, tier="cpu")),
    *(
        Claim(
            id=f"{id}-bytes",
            statement=f"The window's gain is not {text} (open point 12)",
            kind="statistical",
            quantity="test loss, U[0,1] - U[.45,.55]",
            published="(ours)",
            tolerance=_ABOVE,
            tier="cpu",
            judge=in_cell(_control(arm, rival, words), CELLS["bytes"]),
            scale="difference",
            smallest=quarter(0.264),
            family="controls",
        )
        for id, text, rival, arm, words in _CONTROLS
    ),
    *(
        Claim(
            id=f"W7-{label}",
            statement=f"Part of the window's gain is due to the weight 1/t, {label} (open points 1, 12)",
            kind="statistical",
            quantity="share of the gain that goes without 1/t",
            published="(ours)",
            tolerance=_ABOVE,
            tier="cpu",
            judge=in_cell(judge_weight, cell),
            scale="share",
            null=0.0,
            smallest=0.25,
            family="weight",
        )
        for label, cell in CELLS.items()
    ),
    *(
        Claim(
            id=f"W5-{id}",
            statement=f"{text} predicts the best window within .1 on bytes, BPE and parities",
            kind="ordinal",
            quantity="share of seeds, least of three corpora",
            published=value,
            tolerance="interval above 1/2 on every corpus",
            tier="cpu",
            judge=_predictor(name),
            scale="share",
            smallest=quarter(1.0, 0.5),
        )
        for id, name, text, value in (
            ("ngrams", "n-grams", "F.4 on the corpus's n-grams", ".46 against .45"),
            ("snr", "snr", "The gradient's signal-to-noise ratio", "(ours)"),
            ("gain", "gain", "The first-order gain of a step", "(ours)"),
        )
    ),
    Claim(
        id="T10",
        statement="F.4: weights of the 2- to 6-grams of WikiText seen at least five times",
        kind="exact",
        quantity="largest difference of a weight",
        published=".7427 .2063 .0401 .0084 .0024",
        tolerance=".005 in some reading",
        tier="cpu",
        judge=judge_weights,
        set_after="the reading was searched for first, and .005 written down once it was found",
    ),
    Claim(
        id="T9b",
        statement="F.4: mixture optimum from our own counts",
        kind="exact",
        quantity="t*",
        published="0.46",
        tolerance=".01",
        tier="cpu",
        judge=judge_optimum,
        paper=0.46,
    ),
]


def conclusions(table: Table) -> list[str]:
    """What a sweep over a corpus of the user's own says: its best window, and what it gains over U[0,1]."""
    lines = []
    for cell in dict.fromkeys(record["cell"] for record in table.runs.values()):
        part = table.cell(cell)
        if not {*BINS, "uniform_0_1"}.issubset(arms_of(part)):
            continue
        means = _means(part)
        gain = Mean(tuple(_losses(part, "uniform_0_1") - _losses(part, BINS[int(means.argmin())])))
        (low, high), mean = gain.interval(), gain.estimate
        lines.append(
            f"{cell or 'this corpus'}: best window {BINS[int(means.argmin())].removeprefix('bin_').replace('_', '-')}, test "
            f"loss {means.min():.3f}; "
            f"{mean:.3f} [{low:.3f}, {high:.3f}] nats a token below U[0,1]. {_bins_text(part)}"
        )
    return lines or ["no cell has all ten windows and U[0,1]: nothing to conclude"]


def _window_panel(ax: figure.Axes, table: Table, title: str) -> None:
    frame = table.frame()
    for seed in sorted(frame["seed"].unique()):
        rows = frame[frame["seed"] == seed].set_index("arm")["test_loss"]
        there = [arm for arm in BINS if arm in rows]
        ax.plot([CENTRES[BINS.index(arm)] for arm in there], rows[there], color=figure.COLOURS[0], linewidth=0.6, alpha=0.5)
    there = [arm for arm in BINS if arm in arms_of(table)]
    ax.plot(
        [CENTRES[BINS.index(arm)] for arm in there],
        [_losses(table, arm).mean() for arm in there],
        "o-",
        color=figure.COLOURS[0],
        label="ten windows, mean over seeds",
    )
    lines = (("uniform_0_1", 3, "-"), ("middle", 2, "-"), ("autoregressive", 4, ":"), ("bigram", 6, ":"), ("unigram", 7, ":"))
    for arm, colour, style in lines:
        if arm in arms_of(table):
            ax.axhline(
                _losses(table, arm).mean(),
                color=figure.COLOURS[colour],
                linewidth=1.2 if style == "-" else 2.0,
                linestyle=style,
                label=f"{LABELS.get(arm, arm)}: test loss",
            )
    ax.set(xlabel="centre of the window", ylabel="test loss, nats per token", title=title)


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Per tier: Fig 3 and Fig 7 with the paper's own beside ours, and the loss over t of every arm."""
    paths = []
    for tier, table in tables.items():
        frame = table.frame()
        found = [cell for cell in dict.fromkeys(frame["cell"]) if BINS[4] in arms_of(table.cell(cell))]
        fig, axes = figure.grid(len(found) + 1, 3, width=4.6)
        _draw_paper(axes[0])
        for row, cell in zip(axes[1:], found, strict=True):
            _draw_cell(row, table.cell(cell), cell)
        figure.legend_below(fig, 6)
        paths.append(figure.save(fig, folder / f"03_wikitext_bins_{tier}.png"))
    return paths


def _draw_paper(axes: np.ndarray) -> None:
    bins, curves = published("fig3_bins"), published("fig7_bin_trajectories")
    windows = bins[bins["t_high"] - bins["t_low"] < 0.5]
    axes[0].plot(windows["midpoint"], windows["test_loss"], "o--", color="black", label="paper, Fig 3")
    axes[0].axhline(bins["test_loss"].iloc[-1], color=figure.COLOURS[3], linestyle="--", label="paper, U[0,1]")
    axes[0].set(
        xlabel="centre of the window", ylabel="test loss, nats per token", title="paper, Fig 3: 50M parameters, 6,000 steps"
    )
    axes[0].legend(loc="upper center")
    for index, name in enumerate([*BINS, "uniform_0_1"]):
        axes[1].plot(curves["step"], curves[name], color=_colour(index), linewidth=1.2, linestyle="--")
    axes[1].set(xlabel="step", ylim=(3.4, 7), title="paper, Fig 7")
    t = np.linspace(0, 1, 200)
    for form, text in (("linear", "as published"), ("order", "with the order factor"), ("sum_of_squares", "sum of squares")):
        values = mixture_signal(t, form=form)
        axes[2].plot(t, values / values.max(), label=f"{text}: {mixture_optimum(form=form):.3f}", linestyle="--")
    axes[2].set(xlabel="mask rate t", ylabel="Signal(t)", title="F.4: Signal(t) with the published weights")
    axes[2].legend(loc="lower center")


def _colour(index: int) -> str:
    return "black" if index == len(BINS) else figure.ordered(index, len(BINS))


def _draw_cell(axes: np.ndarray, table: Table, cell: str) -> None:
    _window_panel(axes[0], table, f"ours, {cell}")
    for index, arm in enumerate([*BINS, "uniform_0_1"]):
        if arm not in arms_of(table):
            continue
        mean = mean_curve(table, arm)
        label = f"U[{arm.removeprefix('bin_').replace('_', ',')}]" if arm in BINS else "U[0,1]"
        axes[1].plot(mean.index, mean["valid_loss"], color=_colour(index), linewidth=1.2, label=label)
        levels = [mean.iloc[-1][f"test_t{low / 10:.1f}"] for low in range(10)]
        axes[2].plot(CENTRES, levels, color=_colour(index), linewidth=1.2)
    axes[1].set(xlabel="step", ylabel="validation loss", title="validation loss (Fig 7)")
    axes[2].set(xlabel="mask rate t", ylabel="test loss at t, nats per token", title="what a window buys, and what it costs")
