"""Tables and submissions of the contest that nothing trained, and schedules of one's own."""

import json
import math

import numpy as np

from mdlm_min.evidence import entry_check, golden, submission
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.history import library_sha256
from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import metrics_sha256

CONTEST = Experiment("contest")
LEADERBOARD = CONTEST.module("leaderboard")
CLAIMS = {claim.id: claim for claim in CONTEST.module("claims").CLAIMS}
SCORES = ("valid_nll", *CONTEST.module("run").SCORES, "learning_rate")
FIELD = dict.fromkeys(CONTEST.plan["arms"], 4.0)  # every entry of the plan
MEANS = {"llada_0.001": 2.0, "signal_rich_window": 1.5, "window_mixture": 1.5, "puma": 3.0}


def made(means, track="bytes", budget=1, evaluator="", written=None, seeds=5):
    """A table of one board, in which an entry's losses fall in a straight line to its mean, and differ by seed a little."""
    runs, curves = {}, {}
    noise = np.random.default_rng(0)
    for arm, mean in means.items():
        for seed in range(1, 1 + seeds):
            end = mean + 0.01 * noise.normal()
            cell = f"track={track}_budget={budget}"
            name = f"{cell}/{arm}/seed{seed}"
            tracks = {track: {"batch": 32, "data": {"length": 64}, "rates": [1e-3, 2e-3, 4e-3]}}
            judged_by = evaluator or sha256(LEADERBOARD.EVALUATOR)
            runs[name] = {
                "cell": cell,
                "config": {"arm": arm, "seed": seed, "track": track, "tracks": tracks},
                "environment": {"commit": "c0ffee" * 4},
                "data": {"sha256": "d", "device": "cpu", "dtype": "float32", "evaluator_sha256": judged_by},
                "finished": {"seconds": 1.0, "log_sha256": "l", "metrics_sha256": "m"},
            }
            rows = [
                dict.fromkeys(SCORES, math.nan) | {"step": 10.0 * step, "valid_nll": 5 - (5 - end) * step / 10}
                for step in range(11)
            ]
            rows[-1] |= {"test_nll": end, "learning_rate": 1e-3, "written": (written or {}).get(arm, math.nan)}
            curves[name] = rows
    return Table("07_contest", "cpu", runs, curves)


def joined(*tables):
    return Table(
        "07_contest",
        "cpu",
        {k: v for t in tables for k, v in t.runs.items()},
        {k: v for t in tables for k, v in t.curves.items()},
    )


OWN = """
import torch
from mdlm_min import MaskSchedule


class Low(MaskSchedule):
    name = "low_half"

    def sample(self, context, generator):
        return 0.001 + 0.499 * torch.rand(context.rows, generator=generator)


class Negative(Low):
    name = "negative"

    def weight(self, rate, mask, context):
        return -1 / rate


class Outside(Low):
    name = "outside"

    def mask(self, rate, context, generator):
        return torch.rand(context.rows, context.length, generator=generator) < rate[:, None]


class Half(Low):
    name = "half"

    def mask(self, rate, context, generator):
        return super().mask(rate / 2, context, generator)


class Needs(Low):
    def __init__(self, value):
        pass


class Taken(Low):
    name = "puma"


class All(Low):
    name = "all"


class Five(Low):
    name, copies = "five", 5


class Marked(Low):
    name, needs = "marked", ("marks",)
"""
SMALL = {
    "parities": {"rounds": 2, "batch": 16, "model": {"layers": 1, "heads": 2, "width": 16}, "train": {"steps": 20, "warmup": 2}},
    "answers": {
        "items": 4, "answer_tokens": 4, "batch": 4, "validation_answers": 4, "data": {"source": "arithmetic:2:60", "held_out": 8},
        "model": {"layers": 1, "heads": 2, "width": 16}, "train": {"steps": 20, "warmup": 2},
    },
}  # fmt: skip


COMMIT = "c0ffee" * 2
SECOND = "track=bytes_budget=1/low_half/seed7"


def forged_entry(folder, change=lambda runs, settings: None, record=lambda name, record: None, track="bytes", budget=1, name=""):
    """A submission that nothing trained: every number as a run has it, every hash as it should be. `change` alters the parts
    before the hashes are taken, `record` the records after that."""
    (folder / "logs").mkdir(parents=True)
    (folder / "README.md").write_text("# low_half\n\nMade up.\n")
    (folder / "schedule.py").write_text(OWN)
    settings = {"name": name or "low_half", "schedule": "Low", "tracks": [track], "budgets": [budget], "record": True}
    settings["seeds"] = [6, 7, 8, 9, 10]
    run = CONTEST.module("run")
    runs = {}
    for number, spec in enumerate(submission.entry_runs(CONTEST, settings["name"], "own.py:Low", [track], [budget], 0)):
        rate = spec.settings.get("learning_rate", CONTEST.plan["defaults"]["tracks"][track]["rates"][0])
        nll = 1 + rate + number / 1e6
        rows = [
            {"step": float(step), "loss": 1.0} | run._whole({"valid_nll": nll}, rate) for step in run.evaluated_at(spec.settings)
        ]
        rows[-1] |= {"test_nll": nll, "gradient_noise": 0.5}
        rows[-1] |= {"chosen": 0.5, "written": 0.25} if track == "answers" else {"test_bits_per_byte": nll / math.log(2)}
        log = f"the log of {spec.name}"
        runs[spec.name] = {"cell": spec.cell, "config": json.loads(json.dumps(spec.config)), "rows": rows, "log": log}
    change(runs, settings)
    accepted = golden.accepted("07_contest", "cpu").runs.values()
    ours = {entry_check._data_of(one): one["data"]["sha256"] for one in accepted}
    records, curves = {}, {}
    for place, made in runs.items():
        log = folder / "logs" / made["cell"] / f"seed{made['config']['seed']}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(made["log"])
        data = {"sha256": ours.get(entry_check._data_of(made), "d")}
        records[place] = {
            "cell": made["cell"],
            "config": made["config"],
            "environment": {"commit": COMMIT, "source_sha256": library_sha256({}), "torch": "2", "processor": "p"},
            "data": data
            | {"device": "cpu", "dtype": "float32", "schedule_sha256": sha256(folder / "schedule.py")}
            | {"evaluator_sha256": sha256(LEADERBOARD.EVALUATOR)},
            "finished": {
                "steps": int(made["rows"][-1]["step"]),
                "seconds": 1.0,
                "log_sha256": sha256(log),
                "metrics_sha256": metrics_sha256(made["rows"]),
            },
            "columns": list(made["rows"][0]),
        }
        record(place, records[place])
        curves[place] = made["rows"]
    Table("07_contest", "cpu", records, curves).write(folder)
    (folder / "submission.json").write_text(json.dumps(settings))
    return folder
