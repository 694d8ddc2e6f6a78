"""The verdicts on runs made elsewhere: each claim judged if the table has what it needs, else what is missing, in one line.

Families, Holm's adjustment and the least number of seeds are those of our own tables (verdicts.py, statistics.py).
"""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from mdlm_min.evidence import verdicts
from mdlm_min.evidence.asked import AskedTable, MissingDataError, place
from mdlm_min.evidence.claim import Claim, MissingArmError, Verdict, arms_of
from mdlm_min.evidence.elsewhere import Plan, Run, run_name, run_of
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.needs import Need, made_up, trace
from mdlm_min.evidence.statistics import Evidence
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import format_number


def judge(experiment: Experiment, table: AskedTable) -> verdicts.Judged:
    """The verdicts of this tier's claims on such a table. A claim that it lacks something for is `not run`, and its note says
    what it needs."""
    plan, complete = Plan.of(experiment, table.tier), functools.cache(lambda: made_up(experiment, table.tier))
    try:
        return verdicts.judge(
            experiment, {table.tier: table}, table.tier, lambda _, claim, __: _say(claim, table, plan, complete)
        )
    except (ArithmeticError, ValueError) as error:  # of numbers near the ends of what a float can hold
        raise InputError(f"the rules cannot be applied to this table ({type(error).__name__}: {error})") from error


def _say(claim: Claim, table: AskedTable, plan: Plan, complete: Callable[[], AskedTable]) -> Verdict | Evidence:
    """What the claim's judge says, if the table has what it needs; `complete` makes a table that lacks nothing."""
    table.log.reads.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numbers so large, or alike, that a test is undefined
            said = claim.judge(table)
    except MissingDataError as missing:
        return Verdict("not run", f"needs {missing}")
    except MissingArmError as missing:
        return Verdict("not run", f"needs {_missing_arms(str(missing), trace(claim, complete()), table)}")
    except (LookupError, ArithmeticError, TypeError, ValueError) as error:
        unlike = _unlike(table, plan)
        return Verdict("not run", unlike or f"cannot be judged on this table ({type(error).__name__}: {error})")
    if isinstance(said, Verdict):
        return Verdict("not run", "its number is not a number") if math.isnan(said.ours) else said
    unlike = _unlike(table, plan)
    return Verdict("not run", unlike) if unlike else said


def _missing_arms(arm: str, need: Need, table: AskedTable) -> str:
    """The arm that the judge asked for first, with all others that the claim needs and that its cells lack."""
    found = {cell: [one for one in arms if one not in _arms(table, cell)] for cell, arms in need.arms.items()}
    lacking = {cell: arms for cell, arms in found.items() if arms}
    if not lacking and any(read.source == "items" for read in table.log.reads):
        return f"the items of the arm {arm}"
    places = (lacking or {"": [arm]}).items()
    return "; ".join(
        f"the arm{'s' * (len(arms) > 1)} {', '.join(arms)}{f' in the cell {cell}' if cell else ''}" for cell, arms in places
    )


def _arms(table: Table, cell: str) -> list[str]:
    return arms_of(table.part(lambda record: bool(record["cell"] == cell)))


def _unlike(table: AskedTable, plan: Plan) -> str:
    """What is not alike in two arms or curves that a claim read. Judges pair runs by the order of their seeds, and points of
    curves by their place. So arms of a cell that have the same seeds in the plan need the same seeds here; across cells, where
    not all are paired, other seeds of the same number (or a single one, which numpy repeats) are refused. Curves that the plan
    evaluates at the same steps need the same steps here, as far as both go."""
    seeds = {
        (cell, arm): sorted(seed for one, other, seed in map(run_of, table.runs.values()) if (one, other) == (cell, arm))
        for cell, arm in sorted({(read.cell, read.arm) for read in table.log.reads} & plan.configs.keys())
    }
    for first, second in itertools.combinations(seeds, 2):
        same_plan = [config["seed"] for config in plan.configs[first]] == [config["seed"] for config in plan.configs[second]]
        counts = {len(seeds[first]), len(seeds[second])}
        if same_plan and seeds[first] != seeds[second] and (first[0] == second[0] or len(counts) == 1 or 1 in counts):
            return (
                f"needs the same seeds in both of {place(*first)} ({_shown(seeds[first])}) and {place(*second)} "
                f"({_shown(seeds[second])})"
            )
    longest: dict[tuple[Any, ...], tuple[Run, list[float]]] = {}
    steps = {run: [dict.__getitem__(point, "step") for point in table.curves[run_name(run)]] for run in _curves_read(table, plan)}
    for run, found in sorted(steps.items(), key=lambda pair: -len(pair[1])):
        train = plan.configs[run[:2]][0].get("train", {})
        other, wanted = longest.setdefault((run[0], train.get("steps"), train.get("eval_every")), (run, found))
        if found != wanted[: len(found)]:
            return (
                f"needs curves at the same steps in both of {place(*run)} ({_shown(found)}) and {place(*other)} "
                f"({_shown(wanted)})"
            )
    return ""


def _curves_read(table: AskedTable, plan: Plan) -> list[Run]:
    """The runs of the plan's arms and cells whose curves were read."""
    return sorted({read[2:] for read in table.log.reads if read.source == "curves" and read[2:4] in plan.configs})


def _shown(values: Sequence[float]) -> str:
    texts = [format_number(value) for value in values]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:3], "...", *texts[-3:]])
