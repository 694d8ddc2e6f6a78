"""P5: parity without attention, and what the paper only describes or leaves open about it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, MissingArmError, arms_of, curves_of, in_cell, quarter
from mdlm_min.evidence.golden import Table, published
from mdlm_min.evidence.statistics import Evidence, Mean, Share, Sooner, Times
from mdlm_min.run.run_folder import Row
from mdlm_min.tasks.summaries import stays_above

HALFWAY = 0.75
LEARNED = 0.9  # the level by which runs are compared: Fig 5 itself never reaches .99
DELAY = 1.2  # times T_mem, within which a Transformer generalises without delay
PROMPT = 1.5  # times the steps of training accuracy, within which there is no delay
FIG5_STEPS = 25_000
PLATEAU = 13236  # the published step at which validation accuracy is at .75
FACTOR = 1.5  # by which steps to .75 may differ from it
MASKED_ARMS = ("adamw_gpt2", "adamw_pytorch", "nanogpt_gpt2", "sgd_gpt2", "sgd_pytorch", "sgd_momentum", "sgd_per_token")
JUDGED = {"paper": "sgd_momentum", "cpu": "adamw_gpt2"}
OUTPUT_ARMS = ("output_gpt2", "output_pytorch")
TRANSFORMER_ARMS = ("transformer_learned", "transformer_uniform")


def _first(table: Table, arm: str, metric: str, threshold: float) -> list[float]:
    """First step from which every seed stays at `threshold` for three evaluations; infinite where never."""
    return [stays_above(rows, metric, threshold) for rows in curves_of(table, arm)]


def _present(table: Table, arms: tuple[str, ...]) -> list[str]:
    return [arm for arm in arms if arm in arms_of(table)]


def _judged(table: Table) -> str:
    """The arm that is judged: the optimiser that came nearest to Fig 5 on seed 0, which is not judged; AdamW on the cpu tier."""
    return JUDGED[table.tier]


def _part(table: Table) -> Table:
    """The runs that are judged: on the paper's tier those beside the search, whose seed is not judged."""
    return table.cell("judged") if table.tier == "paper" else table


def _times(table: Table, arm: str, metric: str, threshold: float) -> Times:
    """`_first` of every seed, censored at the run's last step."""
    return Times.of(_first(table, arm, metric, threshold), [rows[-1]["step"] for rows in curves_of(table, arm)])


def judge_p5(table: Table) -> Evidence:
    """The final accuracy of the judged arm; the note has every arm's."""
    note = "Final validation accuracy (and the best on the way): " + "; ".join(
        f"{arm} "
        + ", ".join(
            f"{rows[-1]['validation_accuracy']:.3f} ({max(row['validation_accuracy'] for row in rows):.3f})"
            for rows in curves_of(table, arm)
        )
        + f" at step {curves_of(table, arm)[0][-1]['step']:.0f}"
        for arm in _present(table, MASKED_ARMS)
    )
    return Mean(tuple(rows[-1]["validation_accuracy"] for rows in curves_of(_part(table), _judged(table))), note)


def judge_delay(table: Table) -> Evidence:
    """Fig 5 itself: training accuracy stays at .9 from about 13,900, test accuracy from about 16,000. A seed whose test accuracy
    never stays there, although the run went on for half as long again, has a delay."""
    train, test = (_times(_part(table), _judged(table), metric, LEARNED) for metric in ("train_accuracy", "validation_accuracy"))
    held = failed = 0
    for learned, learned_seen, then, then_seen in zip(train.values, train.seen, test.values, test.seen, strict=True):
        held += then_seen and then <= PROMPT * learned
        failed += (then_seen or learned_seen) and then > PROMPT * learned
    unknown = len(train.values) - held - failed
    return Share(held, failed, unknown, f"Steps to .9 on training data {train.text()}; on validation data {test.text()}")


def judge_plateau(table: Table) -> Evidence:
    """The published plateau: a seed of the judged arm has it if its steps to .75 differ from the published 13,236 by at most a
    factor of 1.5. A run that ended before it could be seen is unknown."""
    steps = {arm: _times(table, arm, "validation_accuracy", HALFWAY) for arm in _present(table, MASKED_ARMS)}
    if _judged(table) not in steps:
        raise MissingArmError(_judged(table))
    judged = _times(_part(table), _judged(table), "validation_accuracy", HALFWAY)
    values, seen = np.array(judged.values), np.array(judged.seen)
    held = seen & (values >= PLATEAU / FACTOR) & (values <= PLATEAU * FACTOR)
    unknown = ~seen & (values <= PLATEAU * FACTOR)
    note = "Steps to .75: " + "; ".join(f"{arm} {times.text()}" for arm, times in steps.items())
    return Share(int(held.sum()), int((~held & ~unknown).sum()), int(unknown.sum()), note)


def distance_to_fig5(rows: Sequence[Row]) -> float:
    """Mean over a run's evaluations of how far its validation accuracy is from that of Fig 5."""
    paper = published("fig5_uniform_attention")
    there = np.interp([row["step"] for row in rows], paper["step"], paper["test_acc"])
    return float(np.abs(there - [row["validation_accuracy"] for row in rows]).mean())


def distances(table: Table) -> dict[str, float]:
    """`distance_to_fig5` of `sgd_momentum` and the arms of the cell fig5 on seed 0, at step 25,000; the nearest first."""
    found = {}
    for name, record in table.runs.items():
        arm, rows = record["config"]["arm"], table.curves[name]
        searched = (record["cell"], arm) == ("search", JUDGED["paper"]) or record["cell"] == "fig5"
        if searched and rows[-1]["step"] >= FIG5_STEPS:
            found[arm] = distance_to_fig5(rows)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def judge_output(table: Table) -> Evidence:
    """On the same MLP, initialisation and data: masked diffusion is at .75 before output supervision."""
    masked, output = (_times(table, arm, "validation_accuracy", HALFWAY) for arm in ("adamw_gpt2", "output_gpt2"))
    note = "Steps to .75 on validation data: " + "; ".join(
        f"{arm} {_times(table, arm, 'validation_accuracy', HALFWAY).text()}"
        for arm in _present(table, (*OUTPUT_ARMS, *MASKED_ARMS))
    )
    return Sooner(masked, output, note)


def judge_ablation(table: Table) -> Evidence:
    """The Transformer with uniform attention generalises without delay. A run that memorised and ended later than that without
    generalising has failed; one that did neither is unknown."""
    for arm in TRANSFORMER_ARMS:
        curves_of(table, arm)
    frame = table.frame().set_index("arm")
    fixed, learned = frame.loc[["transformer_uniform"]], frame.loc[["transformer_learned"]]
    held = np.isfinite(fixed["t_gen"]) & (fixed["t_gen"] <= DELAY * fixed["t_mem"])
    unknown = ~np.isfinite(fixed["t_gen"]) & ~(fixed["last_step"] > DELAY * fixed["t_mem"])
    texts = [
        f"{Times.of(rows['t_mem'], rows['last_step']).text()}; {Times.of(rows['t_gen'], rows['last_step']).text()}"
        for rows in (fixed, learned)
    ]
    note = f"(14,5), N=600, one layer. T_mem, T_gen with uniform attention {texts[0]}; with learned attention {texts[1]}"
    return Share(int(held.sum()), int((~held & ~unknown).sum()), int(unknown.sum()), note)


def _of_adamw(judge: Judge) -> Judge:
    """The cpu tier's judge of AdamW, for the cell "AdamW" of the paper's tier: other seeds, all 25,000 steps."""
    return in_cell(lambda part: judge(replace(part, tier="cpu")), "AdamW")


_COST = "5 runs of 25,000 steps, half an hour each on one core"


def _fig5(suffix: str, where: str, tier: str, cost: str = "") -> list[Claim]:
    """P5 and P5b on one tier's table."""
    return [
        Claim(
            id=f"P5{suffix}",
            statement=f"Attention is not needed: a two-layer MLP on the summed embeddings learns (20,6); {where}",
            kind="statistical",
            quantity="final validation accuracy",
            published=".973 at step 25,000",
            tolerance="mean over seeds above .923, which is .05 below the published one",
            tier=tier,
            judge=judge_p5,
            cost=cost,
            family="learned without attention",
            paper=0.973,
            null=0.923,
            smallest=quarter(0.973, 0.923),
        ),
        Claim(
            id=f"P5b{suffix}",
            statement=f"It shows no grokking delay; {where}",
            kind="statistical",
            quantity="share of seeds without delay",
            published="16,000 / 13,900 to reach .9",
            tolerance="validation at .9 within 1.5 times the steps of training; interval above 1/2",
            tier=tier,
            judge=judge_delay,
            cost=cost,
            scale="share",
            paper=1.0,
            smallest=quarter(1.0, 0.5),
        ),
    ]


P5D = Claim(
    id="P5d",
    statement="On the same MLP masked diffusion generalises before output supervision",
    kind="statistical",
    quantity="probability that masked diffusion is at .75 first",
    published="(ours)",
    tolerance="interval above 1/2",
    tier="cpu",
    judge=judge_output,
    scale="probability",
    smallest=quarter(1.0, 0.5),
)

CLAIMS = [
    *_fig5("", "gradient descent, 25,000 steps", "paper", _COST),
    *_fig5("-AdamW", "AdamW, 6,000 of 25,000 steps", "cpu"),
    replace(_fig5("-AdamW-25000", "AdamW, 25,000 steps", "paper", _COST)[0], judge=_of_adamw(judge_p5)),
    Claim(
        id="P5c",
        statement="Its plateau: chance level until about step 10,000 at rate 1e-3",
        kind="statistical",
        quantity="share of seeds within a factor of 1.5",
        published="13,236 to .75",
        tolerance="steps to .75 within a factor of 1.5 of the published; gradient descent, momentum .9; interval above 1/2",
        tier="paper",
        judge=judge_plateau,
        cost=_COST,
        scale="share",
        paper=1.0,
        smallest=quarter(1.0, 0.5),
    ),
    P5D,
    replace(
        P5D,
        id="P5d-25000",
        statement=f"{P5D.statement}; AdamW, 25,000 steps",
        tier="paper",
        judge=_of_adamw(judge_output),
        cost="the runs of P5-AdamW-25000, and five of output supervision, a minute each",
    ),
    Claim(
        id="P5e",
        statement="The Transformer with its attention fixed to uniform stays trainable, without grokking",
        kind="statistical",
        quantity="share of seeds without delay",
        published="described only",
        tolerance="T_gen <= 1.2 T_mem; interval above 1/2",
        tier="cpu",
        judge=judge_ablation,
        scale="share",
        smallest=quarter(1.0, 0.5),
    ),
]


NAMES = {  # of the arms in the figure
    "adamw_gpt2": "AdamW",
    "adamw_pytorch": "AdamW, PyTorch's initialisation",
    "sgd_gpt2": "gradient descent",
    "sgd_pytorch": "gradient descent, PyTorch's initialisation",
    "sgd_momentum": "gradient descent with momentum",
    "output_gpt2": "output supervision, AdamW",
}


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Training and validation accuracy of every MLP arm beside Fig 5, and of the Transformers."""
    paths = []
    paper = published("fig5_uniform_attention")
    for tier, table in tables.items():
        transformers = _present(table, TRANSFORMER_ARMS)
        fig, axes = figure.grid(1, 3 if transformers else 2, sharey=True)
        for ax, metric, name in ((axes[0, 0], "train_accuracy", "train_acc"), (axes[0, 1], "validation_accuracy", "test_acc")):
            for index, arm in enumerate(_present(table, (*MASKED_ARMS, *OUTPUT_ARMS))):
                curves = [pd.DataFrame(rows) for rows in curves_of(table, arm)]
                figure.seed_band(ax, curves, metric, figure.COLOURS[index], NAMES.get(arm, arm))
            ax.plot(paper["step"], paper[name], color="black", label="paper, Fig 5", **figure.PUBLISHED)
            ax.set(
                xlabel="step",
                ylabel="accuracy",
                xscale="symlog",
                xlim=(0, 25000),
                title=f"MLP, (20,6), N=5,000: {'training' if metric[0] == 't' else 'validation'} accuracy",
            )
            ax.set_xscale("symlog", linthresh=500)
        for index, arm in enumerate(TRANSFORMER_ARMS):
            if arm in transformers:
                for metric, style in (("train_accuracy", ":"), ("validation_accuracy", "-")):
                    for rows in curves_of(table, arm):
                        frame = pd.DataFrame(rows)
                        label = (
                            f"{arm.partition('_')[2]} attention, {metric.partition('_')[0]}"
                            if rows is curves_of(table, arm)[0]
                            else None
                        )
                        axes[0, 2].plot(
                            frame["step"], frame[metric], style, color=figure.COLOURS[index], label=label, linewidth=1.2
                        )
        if transformers:
            axes[0, 2].set(xlabel="step", title="Transformer, (14,5), N=600, every seed")
            axes[0, 2].legend(loc="center right", fontsize=8)
        figure.legend_below(fig, 3)
        paths.append(figure.save(fig, folder / f"02_uniform_attention_{tier}.png"))
        if len(found := distances(table)) > 1:
            paths.append(_draw_search(table, found, folder / f"02_uniform_attention_fig5_{tier}.png"))
    return paths


def _draw_search(table: Table, found: dict[str, float], path: Path) -> Path:
    """Validation accuracy on seed 0 of the arms that were searched for Fig 5, the nearest first, with their distances to it."""
    paper = published("fig5_uniform_attention")
    fig, axes = figure.grid(1, 1, width=7.5, height=4)
    for index, (arm, distance) in enumerate(found.items()):
        frame = pd.DataFrame(curves_of(table, arm)[0])  # of the least seed, 0
        colour = figure.COLOURS[index]
        axes[0, 0].plot(frame["step"], frame["validation_accuracy"], color=colour, linewidth=1.2, label=f"{arm}: {distance:.3f}")
    axes[0, 0].plot(paper["step"], paper["test_acc"], color="black", label="paper, Fig 5", **figure.PUBLISHED)
    axes[0, 0].set(xlabel="step", ylabel="validation accuracy", title="MLP, (20,6), seed 0, and the mean distance from Fig 5")
    figure.legend_below(fig, 2)
    return figure.save(fig, path)
