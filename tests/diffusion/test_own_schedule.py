"""A schedule of the user's own is made anew for each run."""

import pytest
import torch

from mdlm_min.diffusion.mask_schedule import Context
from mdlm_min.diffusion.own_schedule import load_schedule, schedule_file
from mdlm_min.diffusion.schedule_alone import name_alone
from mdlm_min.run.errors import InputError

COUNTS = """
import torch
from mdlm_min import MaskSchedule

SEEN = []

class Counts(MaskSchedule):
    name = "counts"
    steps = torch.zeros(1)  # of the class: all its objects share it

    def sample(self, context, generator):
        Counts.steps += 1
        SEEN.append(context.step)
        return (self.steps / 10 + len(SEEN)).expand(context.rows)
"""


@pytest.mark.parametrize("place", ["counts_in_its_class", "counts_in_its_class.py"])
def test_nothing_of_a_run_is_left_in_the_class_for_the_next_one(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counts_in_its_class.py").write_text(COUNTS)
    first = load_schedule(f"{place}:Counts")
    draws = [first.sample(Context(1, 1), torch.Generator()).item() for _ in range(3)]
    second = load_schedule(f"{place}:Counts")
    assert [second.sample(Context(1, 1), torch.Generator()).item() for _ in range(3)] == draws
    assert first.sample(Context(1, 1), torch.Generator()).item() == pytest.approx(4.4)
    assert schedule_file(f"{place}:Counts") == tmp_path / "counts_in_its_class.py"


def test_a_module_or_class_that_ends_the_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)")
    with pytest.raises(InputError, match=r"schedule: ends.py cannot be imported \(SystemExit: 0\)"):
        load_schedule("ends.py:Own")
    with pytest.raises(InputError, match=r"is not whole by itself: .*SystemExit"):
        name_alone(tmp_path / "ends.py", "Own")
    (tmp_path / "leaves.py").write_text("import os\nos._exit(0)")
    with pytest.raises(InputError, match=r"is not whole by itself: it ends the process"):
        name_alone(tmp_path / "leaves.py", "Own")


def test_an_error_of_the_module_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails.py").write_text('raise ValueError("two\\nlines")')
    with pytest.raises(
        InputError, match=r"schedule: fails.py cannot be imported \(ValueError: two lines\); allowed: module:Class"
    ):
        load_schedule("fails.py:Own")
