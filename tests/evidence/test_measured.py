"""What `mdlm run` says that it has measured."""

from dataclasses import replace

from mdlm_min.evidence.golden import accepted
from mdlm_min.evidence.measured import measured


def test_each_arm_has_its_mean_and_that_of_the_golden_table_where_all_seeds_are_in_it():
    golden = accepted("03_wikitext_lasting", "cpu")
    mine = golden.part(lambda record: record["cell"] == "bytes" and record["config"]["arm"] in ("uniform", "middle"))
    one = mine.part(lambda record: record["config"]["seed"] == 3)
    mean = golden.cell("bytes").frame().groupby("arm")["test_loss"].mean()
    lines = measured(mine, golden, ["test_loss"])
    assert sorted(lines) == [
        f"bytes {arm}, 5 seeds: test_loss {mean[arm]:.4g} (golden table: {mean[arm]:.4g})" for arm in ("middle", "uniform")
    ]
    assert all("5 seeds" in line and "golden" not in line for line in measured(mine, one, ["test_loss"]))
    assert all("1 seed:" in line and "golden" in line for line in measured(one, golden, ["test_loss"]))
    assert measured(one, None, ["test_loss"]) == measured(one, replace(golden, runs={}, curves={}), ["test_loss"])
    assert measured(accepted("00_theory", "cpu"), None, []) == []  # quantities, not runs
