"""The two networks that the search selects for 01_parity, by the rules of README.md."""

import math
from dataclasses import dataclass

from mdlm_min.evidence.golden import Table
from mdlm_min.run.config import build
from mdlm_min.run.run_folder import settings_of
from mdlm_min.tasks.parity import ParityRunConfig

EQUAL = 0.02  # of accuracy: smaller differences do not count


@dataclass(frozen=True)
class Candidate:
    """One network of the search: its cell, how output supervision and masked diffusion ended on it, and its parameters."""

    cell: str
    output: float
    masked: float
    t_gen_output: float
    t_gen_masked: float
    parameters: int


def candidates(table: Table) -> list[Candidate]:
    """The networks on which both arms ran, in the order of the plan."""
    found = []
    frame = table.frame()
    for cell in dict.fromkeys(frame["cell"]):
        rows = frame[frame["cell"] == cell].set_index("arm")
        if {"output", "masked"} <= set(rows.index):
            config = next(record["config"] for record in table.runs.values() if record["cell"] == cell)
            network = build(ParityRunConfig, settings_of(config)).make_network(seed=0)
            measured = (*rows["final_validation"][["output", "masked"]], *rows["t_gen"][["output", "masked"]])
            found.append(Candidate(cell, *measured, sum(parameter.numel() for parameter in network.parameters())))
    return found


def nearest(found: list[Candidate]) -> Candidate:
    """Rule 1: the largest lead of masked diffusion in final validation accuracy; of equal ones the smaller T_gen of masked
    diffusion, then the smaller network."""
    best = max(one.masked - one.output for one in found)
    equal = [one for one in found if one.masked - one.output >= best - EQUAL]
    return min(equal, key=lambda one: (one.t_gen_masked, one.parameters))


def best_for_output(found: list[Candidate]) -> Candidate:
    """Rule 2: the smallest T_gen of output supervision; where it is never reached, the largest final validation accuracy."""
    if any(math.isfinite(one.t_gen_output) for one in found):
        return min(found, key=lambda one: one.t_gen_output)
    return max(found, key=lambda one: one.output)
