"""07_contest: its plan, its boards, its advice and its judges, on made tables."""

import copy
import dataclasses
import math
import re
import shutil

import pytest

from mdlm_min.evidence import golden
from mdlm_min.evidence.golden import Table
from mdlm_min.run.errors import DivergedError, InputError, RunError
from mdlm_min.run.run_folder import open_run
from tests.experiments.made_contest import CLAIMS, CONTEST, FIELD, LEADERBOARD, MEANS, joined, made


def test_every_schedule_of_the_field_is_an_entry_with_the_same_search():
    from baselines.schedules import SCHEDULES

    arms = CONTEST.plan["arms"]
    assert {settings["schedule"] for settings in arms.values()} == set(SCHEDULES)
    assert all(settings == {"schedule": arm} for arm, settings in arms.items())
    specs = CONTEST.runs("cpu")
    searched, judged = (
        [spec for spec in specs if "learning_rate" in spec.cell and "repeat" not in spec.settings],
        [spec for spec in specs if "budget=" in spec.cell],
    )
    assert ({spec.seed for spec in searched}, {spec.seed for spec in judged}) == ({0}, {6, 7, 8, 9, 10})
    assert all("learning_rate" not in spec.settings for spec in judged)
    for arm in arms:
        for track, settings in CONTEST.plan["defaults"]["tracks"].items():
            rates = [spec.settings["learning_rate"] for spec in searched if (spec.arm, spec.settings["track"]) == (arm, track)]
            assert sorted(rates) == sorted(settings["rates"])


def test_a_board_ranks_ties_and_compares_with_the_reference():
    lines = LEADERBOARD.board(made(MEANS), "bytes", 1)
    assert {line.name for line in lines if line.is_tie} == {"signal_rich_window", "window_mixture"}
    assert [line.name for line in lines][2:] == ["llada_0.001", "puma"]
    by_name = {line.name: line for line in lines}
    assert by_name["puma"].gain.estimate == pytest.approx(-1, abs=0.02)
    assert by_name["puma"].adjusted < 1e-6
    assert by_name["signal_rich_window"].steps[0] == pytest.approx(100 * 3 / 3.5, abs=1)  # on the straight line from 5 to 1.5
    assert all(math.isinf(steps) for steps in by_name["puma"].steps)
    assert math.isnan(by_name["llada_0.001"].adjusted)


def test_an_entry_without_all_seeds_is_not_ranked():
    table = made(MEANS)
    gone = "track=bytes_budget=1/puma/seed3"
    table = Table(
        "07_contest",
        "cpu",
        {k: v for k, v in table.runs.items() if k != gone},
        {k: v for k, v in table.curves.items() if k != gone},
    )
    assert {line.name for line in LEADERBOARD.board(table, "bytes", 1)} == set(MEANS) - {"puma"}
    assert LEADERBOARD.board(made({"puma": 1.0}), "bytes", 1) == []


def test_a_run_on_other_data_or_without_a_score_is_not_ranked_and_told_why(small, monkeypatch, capsys):
    table = made(MEANS)
    table.runs["track=bytes_budget=1/puma/seed3"]["data"]["sha256"] = "other"
    table.curves["track=bytes_budget=1/window_mixture/seed2"][-1]["test_nll"] = math.nan
    assert {line.name for line in LEADERBOARD.board(table, "bytes", 1)} == {"llada_0.001", "signal_rich_window"}
    why = LEADERBOARD.unranked(table, "bytes", 1)
    assert why == {
        "puma": "its data are not those of llada_0.001 (seed 3)",
        "window_mixture": "its test NLL on seed 2 is nan",
    }
    page = LEADERBOARD.leaderboard_page(table, LEADERBOARD.boards(table))
    assert "\nNot ranked: puma; its data are not those of llada_0.001 (seed 3).\n" in page

    from mdlm_min.cli import contest

    specs = [spec for spec in CONTEST.runs("cpu", "puma") if spec.cell == "track=bytes_budget=1"]
    golden_table = copy.deepcopy(table)
    monkeypatch.setattr(golden, "collect", lambda specs, runs: table)
    monkeypatch.setattr(golden, "accepted", lambda name, tier: golden_table)
    contest._print_boards(CONTEST, specs, small / "runs", "puma")
    said = capsys.readouterr().out
    assert "bytes 1x: puma is not ranked; its data are not those" in said
    frame = table.frame().set_index(["arm", "seed"]).test_nll
    first = f"seed 1: {frame['puma', 1]:.3f} (U[0,1] {frame['llada_0.001', 1]:.3f}), seed 2: "
    assert f"bytes 1x: test NLL of puma: {first}" in said
    assert "another processor" not in said
    for record in table.runs.values():
        record["environment"] = record["environment"] | {"processor": "another"}
    contest._print_boards(CONTEST, specs, small / "runs", "puma")
    said = capsys.readouterr().out
    assert "puma ran on another processor or torch than the others" in said
    cell = small / "runs" / "07_contest" / "cpu" / "track=bytes_budget=1"
    assert f"mdlm run contest --arms llada_0.001 --cells {cell.name} --runs {small / 'runs'}\n" in said
    assert f"mdlm compare {cell / 'puma'} {cell / 'llada_0.001'} --metric test_nll\n" in said


def test_rows_of_another_evaluator_are_refused():
    with pytest.raises(InputError, match="another evaluator"):
        LEADERBOARD.board(made(MEANS, evaluator="0" * 64), "bytes", 1)
    with pytest.raises(InputError, match="another evaluator"):
        CLAIMS["C1-bytes-1x"].judge(made(MEANS, evaluator="0" * 64))


def test_judges():
    table = joined(made(MEANS), made(MEANS | {"signal_rich_window": 1.9}, budget=4))
    assert CLAIMS["C1-bytes-1x"].judge(table).estimate == pytest.approx(0.5, abs=0.02)
    assert CLAIMS["C1-bytes-4x"].judge(table).estimate == pytest.approx(0.1, abs=0.02)
    assert CLAIMS["C2-bytes"].judge(table).estimate == pytest.approx(0.4, abs=0.03)
    loses = joined(made(MEANS | {"signal_rich_window": 2.2}), made(MEANS | {"signal_rich_window": 2.9}, budget=4))
    assert CLAIMS["C2-bytes"].judge(loses).estimate == pytest.approx(-0.2, abs=0.02)  # no lead, however much more it loses later
    shares = {"llada_0.001": 0.2, "signal_rich_window": 0.3, "window_mixture": 0.45, "puma": 0.1}
    assert CLAIMS["C3-1x"].judge(made(MEANS, "answers", written=shares)).estimate == pytest.approx(0.15)


def fresh(table, cell):
    """A board's table as that of fresh seeds."""
    return dataclasses.replace(table, runs={name: record | {"cell": cell} for name, record in table.runs.items()})


def test_fresh_seeds_are_judged_alone_and_stand_on_no_board():
    """By the judges of the first seeds, on the same numbers; the boards' own cells are not looked at."""
    other = MEANS | {"signal_rich_window": 9.0}
    first = [made(means, "answers", budget) for budget, means in ((1, MEANS), (4, MEANS | {"signal_rich_window": 1.9}))]
    again = joined(*(fresh(table, f"answers-{budget}x-fresh") for table, budget in zip(first, (1, 4), strict=True)))
    both = joined(made(other, "answers"), again)
    for name in ("C1-answers-1x", "C1-answers-4x", "C2-answers"):
        said, before = CLAIMS[f"{name}-fresh"].judge(again), CLAIMS[name].judge(joined(*first))
        assert (said.estimate, said.interval(), said.note) == (before.estimate, before.interval(), before.note)
        assert CLAIMS[f"{name}-fresh"].family == CLAIMS[name].family
        assert CLAIMS[f"{name}-fresh"].smallest == CLAIMS[name].smallest
    assert CLAIMS["C1-answers-1x-fresh"].judge(both).estimate == pytest.approx(0.5, abs=0.02)
    assert LEADERBOARD.boards(again) == {}
    with pytest.raises(InputError, match="another evaluator"):
        CLAIMS["C1-answers-1x-fresh"].judge(fresh(made(MEANS, "answers", evaluator="0" * 64), "answers-1x-fresh"))


def test_fresh_seeds_are_no_others_and_have_the_settings_of_the_board():
    specs = CONTEST.runs("cpu")
    cells = {spec.cell for spec in specs if spec.cell.endswith("-fresh")}
    assert cells == {f"{track}-{budget}x-fresh" for track in ("BPE", "parities", "answers") for budget in (1, 4)}
    for cell in cells:
        track, budget = cell.removesuffix("x-fresh").split("-")
        board = {spec.arm: spec.settings for spec in specs if spec.cell == f"track={track}_budget={budget}"}
        runs = [spec for spec in specs if spec.cell == cell]
        assert all(spec.settings == board[spec.arm] for spec in runs)
        assert {spec.arm for spec in runs} == {LEADERBOARD.REFERENCE, "signal_rich_window"}
        seeds = {spec.seed for spec in runs}
        assert not seeds & {spec.seed for spec in specs if not spec.cell.endswith("-fresh")}
        for name in (f"C1-{track}-{budget}x-fresh", f"C2-{track}-fresh"):
            assert name not in CLAIMS or f", {len(seeds)} fresh seeds" in CLAIMS[name].statement


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_nothing_is_written_nothing_is_decided(share):
    said = CLAIMS["C3-1x"].judge(made(MEANS, "answers", written=dict.fromkeys(MEANS, share)))
    assert said.verdict == "underpowered"
    assert "Every run of both writes the same share" in said.note


def test_the_entries_that_are_advised_may_be_the_best_wherever_anything_is_surely_better():
    """To beat the reference everywhere is not enough where another entry is surely better still."""
    first = made({"llada_0.001": 2.0, "behind": 1.7, "split": 1.2, "ahead": 1.0, "level": 1.0})
    second = made({"llada_0.001": 2.0, "behind": 1.7, "split": 3.0, "level": 1.0, "ahead": 1.0}, "BPE")
    flat = made({"llada_0.001": 2.0, "behind": 2.0, "split": 2.0, "ahead": 3.0, "level": 2.0}, "parities")
    found = LEADERBOARD.boards(joined(first, second, flat))
    assert list(LEADERBOARD.decided(found)) == [("bytes", 1), ("BPE", 1)]
    assert LEADERBOARD.advised(found) == ["ahead", "level"]
    answer = LEADERBOARD._answer(found)
    assert answer.startswith(
        "**Take `ahead` or `level` on text in bytes (1x), text in a BPE of 512 (1x).** Each is surely better"
    )
    assert "Nothing is surely better than U[0,1] on the other 1 boards" in answer
    assert answer.endswith("But `ahead` is surely worse than U[0,1] on parities of three bits (1x).")


def test_where_no_entry_is_surely_better_there_is_no_one_answer():
    flat = dict.fromkeys(FIELD, 2.0)
    assert "**No entry is surely better than U[0,1]" in LEADERBOARD.pages(made(flat))["WHICH_SCHEDULE.md"]
    one, other = ({"llada_0.001": 2.0, "mdlm": 1.0, "cart": 3.0}, {"llada_0.001": 2.0, "mdlm": 3.0, "cart": 1.0})
    boards = LEADERBOARD.boards(joined(made(one), made(other, "BPE")))
    assert LEADERBOARD._answer(boards).startswith("**No entry is both surely better than U[0,1] and perhaps the best on all of")


def test_the_one_entry_that_is_advised():
    alone = made(dict.fromkeys(FIELD, 4.0) | {"llada_0.001": 2.0, "mdlm": 1.0})
    page = LEADERBOARD.pages(alone)["WHICH_SCHEDULE.md"]
    assert "**Take `mdlm` on text in bytes (1x).** It is surely better than U[0,1] there, and may be the best of 28." in page
    assert "the other" not in page.split("\n")[4]


def test_an_entry_that_is_merely_uncertain_is_not_advised():
    steady = made({"llada_0.001": 2.0, "steady": 1.02, "fair": 1.5})
    wild = made({"wild": 1.0})
    for seed, (name, rows) in enumerate(wild.curves.items()):
        rows[-1]["test_nll"] = 1.0 + 2.0 * (seed - 2)
        assert "wild" in name
    lines = LEADERBOARD.board(joined(steady, wild), "bytes", 1)
    assert lines[0].name == "wild"
    assert lines[0].is_tie
    assert LEADERBOARD.advised({("bytes", 1): lines}) == ["steady"]


def test_a_rate_that_diverges_in_the_search_has_lost_and_a_judged_run_that_does_is_an_error(tmp_path, monkeypatch):
    run = CONTEST.module("run")
    specs = {spec.cell: spec for spec in CONTEST.runs("cpu", "puma") if spec.settings["track"] == "parities"}
    wild: set[float] = {0.00075, 0.0015, 0.012, 0.006}

    def trained(settings, config, seed, folder, progress):
        rate = config["train"]["learning_rate"]
        steps = run.evaluated_at(settings)
        for step in steps[:3] if rate in wild else steps:
            folder.append_metrics({"step": float(step), "loss": 1.0} | run._whole({"valid_nll": 1 + rate}, rate))
        if rate in wild:
            raise DivergedError("loss is nan")
        folder.finish({"steps": steps[-1], "seconds": 1.0})

    monkeypatch.setattr(run, "_run_text", trained)

    def executed(spec):
        with open_run(spec.folder(tmp_path), spec.config) as folder:
            run.run(spec.settings, spec.seed, folder, lambda line: None)
        return folder

    for rate in (0.00075, 0.0015, 0.003, 0.012, 0.006):
        folder = executed(specs[f"track=parities_learning_rate={rate}"])
    assert [row["step"] for row in folder.metrics()] == [0, 80, 160, 240]  # the next evaluation has the infinite loss
    assert folder.metrics()[-1]["valid_nll"] == math.inf
    assert folder.read_json("finished.json")["steps"] == 240
    assert "diverged: loss is nan" in (folder.path / "log.txt").read_text()
    judged = specs["track=parities_budget=1"]
    assert executed(judged).metrics()[-1]["learning_rate"] == 0.003
    shutil.rmtree(judged.folder(tmp_path))
    wild.add(0.003)
    with pytest.raises(DivergedError, match="loss is nan"):
        executed(judged)
    with pytest.raises(RunError, match="every learning rate of the search diverged"):
        run.best_rate({0.1: math.inf, 0.2: math.nan})


def test_a_text_board_has_the_nll_of_every_tenth_of_t():
    table = made(MEANS)
    assert "<details>" not in LEADERBOARD.pages(table)["LEADERBOARD.md"]  # not measured
    for place, rows in enumerate(table.curves.values()):
        rows[-1] |= {f"test_t{low / 10:.1f}": place + low / 10 for low in range(10)}
    text = LEADERBOARD.pages(table)["LEADERBOARD.md"]
    means = [2 + low / 10 for low in range(10)]  # of five seeds, 0 to 4, of the entry that was made first
    assert f"| {next(iter(MEANS))} | {' | '.join(f'{value:.2f}' for value in means)} |" in text


def test_the_pages_say_who_ties_and_what_is_advised():
    table = joined(made(FIELD | MEANS), made(FIELD | MEANS | {"window_mixture": 1.0}, "BPE"))
    pages = LEADERBOARD.pages(table)
    board, advice = pages["LEADERBOARD.md"], pages["WHICH_SCHEDULE.md"]
    assert board.count("\n## ") == 2
    assert "| **signal_rich_window** |" in board.split("## ")[1]
    assert "| signal_rich_window |" in board.split("## ")[2]
    assert "**Take `window_mixture` on text in bytes (1x), text in a BPE of 512 (1x).** It is surely better" in advice
    assert "100 x 32 (1x)" in advice
    assert "budgets beyond 1x. A gain at 1x may be an early lead" in advice
    assert "How sure: 5 seeds each" in advice
    assert "0.001*" in board
    assert len(advice) < 4000  # a screen
    assert LEADERBOARD.pages(made({"puma": 1.0})) == {}
    assert "nothing here is decided" in LEADERBOARD.pages(made(MEANS, seeds=3))["WHICH_SCHEDULE.md"]


def test_a_board_that_lacks_entries_does_not_turn_the_advice():
    whole = made(FIELD | MEANS)
    advised = LEADERBOARD.advice_page(whole, LEADERBOARD.boards(whole))
    part = joined(whole, made({"llada_0.001": 2.0, "puma": 1.0}, budget=4))
    page = LEADERBOARD.advice_page(part, LEADERBOARD.boards(part))
    assert page.split("\n")[4] == advised.split("\n")[4]  # the answer
    assert "100 x 32 (4x) | `puma`" in page
    assert "budgets beyond 4x" in page
    assert "**No answer yet" in LEADERBOARD.advice_page(made(MEANS), LEADERBOARD.boards(made(MEANS)))


def test_runs_made_elsewhere_are_judged():
    table = made(MEANS)
    elsewhere = {name: {key: record[key] for key in ("cell", "config")} for name, record in table.runs.items()}
    assert LEADERBOARD.checked(Table(table.experiment, table.tier, elsewhere, table.curves)).runs == elsewhere


def test_gains_are_paired_by_seed_in_whatever_order_the_runs_stand():
    table = made(MEANS)
    puma = {name: run for name, run in table.runs.items() if "/puma/" in name}
    turned = dict(reversed(puma.items())) | {name: run for name, run in table.runs.items() if name not in puma}
    other = Table(table.experiment, table.tier, turned, table.curves)
    gains = [{line.name: line.gain.values for line in LEADERBOARD.board(one, "bytes", 1)} for one in (table, other)]
    assert gains[0] == gains[1]


def test_the_loss_to_be_reached_is_the_median_of_the_reference_s():
    table = made(MEANS)
    table.curves["track=bytes_budget=1/llada_0.001/seed1"][-1]["valid_nll"] = 4.0  # one seed that went wrong
    line = next(line for line in LEADERBOARD.board(table, "bytes", 1) if line.name == "signal_rich_window")
    assert line.steps[0] == pytest.approx(100 * 3 / 3.5, abs=2)


def test_a_line_of_the_board():
    line = LEADERBOARD.board(made(MEANS), "bytes", 1)[0]
    assert line.scores["test_nll"] == pytest.approx(line.ranked.mean, abs=1e-12)
    assert dataclasses.replace(line, adjusted=0.05).is_better
    assert not dataclasses.replace(line, adjusted=0.051).is_better
    assert LEADERBOARD._steps(dataclasses.replace(line, steps=(10.0, 20.0, 30.0, math.inf, math.inf))) == "30"
    assert LEADERBOARD._steps(dataclasses.replace(line, steps=(10.0, 20.0, *[math.inf] * 3))) == "not within 100"
    small = dataclasses.replace(line, gain=dataclasses.replace(line.gain, values=(-4e-5, -4e-5)), adjusted=1.0)
    assert LEADERBOARD.gain_text(small) == "-4e-05 [-4e-05, -4e-05], p = 1"
    assert re.fullmatch(r"\+\d\.\d{3} \[\+\d\.\d{3}, \+\d\.\d{3}\], p = .*", LEADERBOARD.gain_text(line))


def test_one_board_of_few_seeds_leaves_all_undecided():
    table = joined(made(MEANS, seeds=3), made(MEANS, "BPE"))
    assert "nothing here is decided" in LEADERBOARD.advice_page(table, LEADERBOARD.boards(table))


def test_the_advice_counts_who_is_surely_better_and_who_ties_with_the_best():
    table = made(MEANS | {"best": 1.0, "nearly": 1.0})
    page = LEADERBOARD.advice_page(table, LEADERBOARD.boards(table))
    row = next(line for line in page.splitlines() if line.startswith("| text"))
    assert row.split(" | ")[3:5] == ["4 of 5", "1"]


def test_the_first_by_the_answers_themselves_at_the_largest_budget():
    shares = {1: {"llada_0.001": 0.2, "puma": 0.3}, 4: {"llada_0.001": 0.2, "puma": 0.1}}
    tables = [made(dict.fromkeys(its, 2.0), "answers", budget, written=its) for budget, its in shares.items()]
    for table in tables:
        for rows in table.curves.values():
            rows[-1]["chosen"] = 0.5
    table = joined(*tables)
    assert "`llada_0.001` (0.20" in LEADERBOARD.advice_page(table, LEADERBOARD.boards(table))
    assert (
        "seeds at 1x, without a test: first by the share of questions answered rightly by writing `puma` (0.30"
        in LEADERBOARD.advice_page(tables[0], LEADERBOARD.boards(tables[0]))
    )


def test_every_judged_run_of_the_golden_table_has_the_best_rate_of_its_search():
    """That of the boards, or the one that was made again for the fresh seeds (`repeat=2`)."""
    run, table = CONTEST.module("run"), golden.accepted("07_contest", "cpu")
    frame = table.frame()
    tracks = CONTEST.plan["defaults"]["tracks"]
    last = {name: rows[-1]["valid_nll"] for name, rows in table.curves.items()}
    judged = frame[~frame["cell"].str.contains("learning_rate=")]
    for (cell, arm), rows in judged.groupby(["cell", "arm"]):
        track = cell.removeprefix("track=").partition("_")[0].partition("-")[0]
        search = f"track={track}_{'repeat=2_' * cell.endswith('-fresh')}learning_rate="
        losses = {rate: last[f"{search}{rate}/{arm}/seed0"] for rate in tracks[track]["rates"]}
        assert set(rows["learning_rate"]) == {run.best_rate(losses)}, (cell, arm)
