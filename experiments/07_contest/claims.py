"""C1 to C3: does the paper's window win the contest against U[0,1], does it still at four times the budget, and is there one
schedule for both ways of scoring?"""

from pathlib import Path
from types import ModuleType

import numpy as np

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, Verdict, by_seed, curves_of, quarter
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import AllOf, Evidence, Mean

# A quarter of these is the smallest gain that matters: the paper's on text (W2); all that parities can give, ln 2 / 3; ours.
TRACKS = {"bytes": 0.264, "BPE": 0.264, "parities": 0.231, "answers": 0.2}
_COST_FRESH = "2 arms of 24 or 30 seeds at both budgets: about one hour of two cores"
UNIFORM, WINDOW, MIXTURE = "llada_0.001", "signal_rich_window", "window_mixture"


def _leaderboard() -> ModuleType:
    return Experiment("contest").module("leaderboard")


def _losses(table: Table, track: str, budget: int, arm: str) -> np.ndarray:
    part = _leaderboard().checked(table.cell(f"track={track}_budget={budget}"))
    return by_seed(part, arm, "test_nll")


def _window(track: str, budget: int) -> Judge:
    def judge(table: Table) -> Evidence:
        """U[.45,.55] ends below U[0,1], each at its own learning rate."""
        uniform, window = (_losses(table, track, budget, arm) for arm in (UNIFORM, WINDOW))
        note = f"Test NLL: U[0,1] {uniform.mean():.3f}, U[.45,.55] {window.mean():.3f}"
        return Mean(tuple(uniform - window), note)

    return judge


def _shrinks(track: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """An early lead: the window gains at 1x, and its gain at 1x is larger than that at 4x, by seed."""
        gains = [_losses(table, track, budget, UNIFORM) - _losses(table, track, budget, WINDOW) for budget in (1, 4)]
        note = f"Gain at 1x {gains[0].mean():.3f}, at 4x {gains[1].mean():.3f}"
        return AllOf((Mean(tuple(gains[0]), note), Mean(tuple(gains[0] - gains[1]), note)))

    return judge


def _fresh_losses(table: Table, cell: str, arm: str) -> np.ndarray:
    return by_seed(_leaderboard().checked(table.cell(cell)), arm, "test_nll")


def _window_again(cell: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """U[.45,.55] ends below U[0,1], each at its own learning rate: of fresh seeds, in a cell of their own."""
        uniform, window = (_fresh_losses(table, cell, arm) for arm in (UNIFORM, WINDOW))
        return Mean(tuple(uniform - window), f"Test NLL: U[0,1] {uniform.mean():.3f}, U[.45,.55] {window.mean():.3f}")

    return judge


def _shrinks_again(cells: tuple[str, str]) -> Judge:
    def judge(table: Table) -> Evidence:
        """An early lead, of fresh seeds: a gain at 1x, and a larger one than at 4x, by seed."""
        gains = [_fresh_losses(table, cell, UNIFORM) - _fresh_losses(table, cell, WINDOW) for cell in cells]
        note = f"Gain at 1x {gains[0].mean():.3f}, at 4x {gains[1].mean():.3f}"
        return AllOf((Mean(tuple(gains[0]), note), Mean(tuple(gains[0] - gains[1]), note)))

    return judge


def _both(budget: int) -> Judge:
    def judge(table: Table) -> Verdict | Evidence:
        """The mixture writes more right answers than the window alone. Where both write none, or all, nothing is compared."""
        part = _leaderboard().checked(table.cell(f"track=answers_budget={budget}"))
        shares = {arm: by_seed(part, arm, "written") for arm in (UNIFORM, WINDOW, MIXTURE)}
        chosen = ", ".join(f"{arm} {by_seed(part, arm, 'chosen').mean():.3f}" for arm in shares)
        written = ", ".join(f"{arm} {values.mean():.3f}" for arm, values in shares.items())
        note = f"Written: {written}. Chosen: {chosen}"
        if len({*shares[MIXTURE], *shares[WINDOW]}) == 1:
            return Verdict("underpowered", f"{note}. Every run of both writes the same share", 0.0, seeds=len(shares[WINDOW]))
        return Mean(tuple(shares[MIXTURE] - shares[WINDOW]), note)

    return judge


def _claim(id: str, statement: str, quantity: str, judge: Judge, smallest: float, family: str, cost: str = "") -> Claim:
    return Claim(
        id=id,
        statement=statement,
        kind="statistical",
        quantity=quantity,
        published="(ours)",
        tolerance="interval above 0",
        tier="cpu",
        judge=judge,
        cost=cost,
        scale="difference",
        smallest=smallest,
        family=family,
    )


CLAIMS = [
    *(
        _claim(
            f"C1-{track}-{budget}x",
            f"The paper's window trains better than U[0,1], each at its own learning rate; {track}, budget {budget}x",
            "test NLL, U[0,1] - U[.45,.55]",
            _window(track, budget),
            quarter(gain),
            f"window, {budget}x",
        )
        for budget in (1, 4)
        for track, gain in TRACKS.items()
    ),
    *(
        _claim(
            f"C2-{track}",
            f"The window's lead over U[0,1] is an early one: a gain at 1x, and a smaller one at four times the budget; {track}",
            "the lesser of the gain at 1x, and what of it is gone at 4x",
            _shrinks(track),
            quarter(gain),
            "early lead",
        )
        for track, gain in TRACKS.items()
    ),
    *(
        _claim(
            f"C1-{track}-{budget}x-fresh",
            f"The paper's window trains better than U[0,1], each at its own learning rate; {track}, budget {budget}x, "
            f"{seeds} fresh seeds",
            "test NLL, U[0,1] - U[.45,.55]",
            _window_again(f"{track}-{budget}x-fresh"),
            quarter(TRACKS[track]),
            f"window, {budget}x",
            _COST_FRESH,
        )
        for track, budget, seeds in (("parities", 1, 24), ("answers", 1, 24), ("answers", 4, 24))
    ),
    *(
        _claim(
            f"C2-{track}-fresh",
            "The window's lead over U[0,1] is an early one: a gain at 1x, and a smaller one at four times the budget; "
            f"{track}, {seeds} fresh seeds",
            "the lesser of the gain at 1x, and what of it is gone at 4x",
            _shrinks_again((f"{track}-1x-fresh", f"{track}-4x-fresh")),
            quarter(TRACKS[track]),
            "early lead",
            _COST_FRESH,
        )
        for track, seeds in (("BPE", 30), ("parities", 24), ("answers", 24))
    ),
    *(
        _claim(
            f"C3-{budget}x",
            f"A mixture of both windows writes more right answers than U[.45,.55] alone; budget {budget}x",
            "share written, mixture - U[.45,.55]",
            _both(budget),
            0.05,
            "one schedule",
        )
        for budget in (1, 4)
    ),
]


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Validation NLL against training tokens, the mean over seeds, of each board, named with its winner: every entry grey,
    the three best, U[0,1] and the paper's window in colour; an entry that leaves a panel at the top is worse than these."""
    if "cpu" not in tables:
        return []
    table, leaderboard = tables["cpu"], _leaderboard()
    found = leaderboard.boards(table)
    if not found:
        return []
    places = sorted(found, key=lambda place: list(TRACKS).index(place[0]))  # both budgets of a track side by side
    fig, axes = figure.grid(-(-len(places) // 2), 2, width=5.4)
    for ax, place in zip(axes.flat, places, strict=False):
        _draw_board(ax, table, *place, found[place])
    for ax in axes.flat[len(places) :]:
        ax.set_visible(False)
    return [figure.save(fig, folder / "07_contest_cpu.png")]


def _draw_board(ax: figure.Axes, table: Table, track: str, budget: int, lines: list) -> None:  # type: ignore[type-arg]
    part = table.cell(f"track={track}_budget={budget}")
    settings = next(iter(part.runs.values()))["config"]["tracks"][track]
    tokens = settings["batch"] * settings["data"]["length"]
    shown = {line.name: figure.COLOURS[place] for place, line in enumerate(lines[:3])} | {
        UNIFORM: "black",
        WINDOW: figure.COLOURS[3],
    }
    told = {UNIFORM: ": U[0,1]", WINDOW: ": the paper's"}
    named: list[np.ndarray] = []
    for line in sorted(lines, key=lambda line: line.name in shown):
        curves = curves_of(part, line.name)
        steps = np.array([row["step"] for row in curves[0]])[1:]
        mean = np.mean([[row["valid_nll"] for row in rows] for rows in curves], axis=0)[1:]
        colour = shown.get(line.name)
        named += [mean] if colour else []
        label = f"{line.ranked.place}. {line.name}{told.get(line.name, '')}" if colour else None
        ax.plot(steps * tokens / 1e6, mean, color=colour or "lightgrey", linewidth=1.6 if colour else 0.7, label=label)
    ax.plot([], [], color="lightgrey", linewidth=0.7, label="the others")
    ax.set(xlabel="million tokens", ylabel="validation NLL, nats", title=f"{track}, budget {budget}x, first: {lines[0].name}")
    low, high = np.min(named), np.max(named)
    ax.set_ylim(low - 0.05 * (high - low), high + 0.4 * (high - low))  # room for the legend
    ax.legend(fontsize=8, loc="upper right")


def pages(tables: dict[str, Table]) -> dict[str, str]:
    """The leaderboard and the advice."""
    found: dict[str, str] = _leaderboard().pages(tables["cpu"]) if "cpu" in tables else {}
    return found
