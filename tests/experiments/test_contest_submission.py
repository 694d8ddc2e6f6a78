"""Submissions: what is consistent is read, what is not is refused by name."""

import math
import shutil
import subprocess

import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import entry_check, golden, submission
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError
from tests.experiments import made_contest
from tests.experiments.made_contest import COMMIT, LEADERBOARD, OWN, SECOND, forged_entry


@pytest.mark.parametrize(("track", "budget"), [("bytes", 1), ("answers", 4)])
def test_a_consistent_submission_is_read(track, budget, tmp_path, one_commit):
    assert len(submission.read(forged_entry(tmp_path / "sent", track=track, budget=budget))[1].runs) == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda runs, settings: runs[SECOND]["config"].update(seed=77), r"other settings \(seed\)"),
        (lambda runs, settings: runs[SECOND]["config"].update(arm="llada_0.001"), r"other settings \(arm\)"),
        (lambda runs, settings: runs[SECOND].update(cell="track=bytes_budget=4"), r"other settings \(cell\)"),
        (lambda runs, settings: runs[SECOND]["config"].update(schedule="own.py:Half"), "was not run with the class Low"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(step=4000.0), "540, 4000; allowed: 0, 60, .* 540, 600$"),
        (lambda runs, settings: runs[SECOND]["rows"].__delitem__(slice(0, -1)), "the steps 600; allowed: 0, 60, 120"),
        (lambda runs, settings: runs[SECOND]["rows"].insert(0, runs[SECOND]["rows"].pop(3)), "steps 180, 0, 60"),
        (lambda runs, settings: runs[SECOND]["rows"][4].update(valid_nll=math.nan), "valid_nll is nan at step 240"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(test_nll=-3.0), "test_nll is -3.0; allowed: at least 0"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(test_nll=math.nan), "test_nll is nan"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(test_nll=-math.inf), "test_nll is -inf"),
        (
            lambda runs, settings: runs[SECOND]["rows"][-1].update(gradient_noise=1.1),
            "gradient_noise is 1.1; allowed: 0 to 1.0667",
        ),
        (
            lambda runs, settings: runs[SECOND]["rows"][-1].update(test_bits_per_byte=0.1),
            "test_bits_per_byte is 0.1; allowed, by",
        ),
        (lambda runs, settings: [run.update(log="") for run in runs.values()], "is missing or empty; every run has its log"),
        (lambda runs, settings: [run.update(log="one") for run in runs.values()], "has the log of"),
        (
            lambda runs, settings: settings.update(name="puma", record=False),
            "submission.json: schedule: the name 'puma' is taken",
        ),
        (
            lambda runs, settings: settings.update(budgets=[1, 1]),
            r"budgets: \[1, 1\] is not allowed; allowed: at least one, each",
        ),
        (lambda runs, settings: settings.update(name="../x", record=False), "the name '../x' is not allowed"),
        (lambda runs, settings: settings.update(name="x](y)", record=False), "is not allowed"),
    ],
)
def test_a_run_that_is_not_what_its_name_says_is_refused(change, said, tmp_path, one_commit):
    with pytest.raises(InputError, match=said):
        submission.read(forged_entry(tmp_path / "sent", change))


@pytest.mark.parametrize("score", ["chosen", "written"])
@pytest.mark.parametrize("value", [-1.0, 1.01, 0.505, math.nan])
def test_a_share_that_no_count_of_answers_gives_is_refused(score, value, tmp_path, one_commit):
    def change(runs, settings):
        runs["track=answers_budget=1/low_half/seed7"]["rows"][-1][score] = value

    with pytest.raises(InputError, match=f"{score} is {value}; allowed: a share of 100 answers"):
        submission.read(forged_entry(tmp_path / "sent", change, track="answers"))


def test_a_rate_that_diverged_is_a_run_of_the_search_and_no_judged_run(tmp_path, one_commit):
    def diverges(cell):
        def change(runs, settings):
            rows = next(run["rows"] for run in runs.values() if run["cell"] == cell)
            del rows[4:]
            rows[-1] |= {"valid_nll": math.inf, "test_nll": math.nan}

        return change

    submission.read(forged_entry(tmp_path / "sent", diverges("track=bytes_learning_rate=0.008")))
    with pytest.raises(InputError, match="steps 0, 60, 120, 180; allowed"):
        submission.read(forged_entry(tmp_path / "bad", diverges("track=bytes_budget=1")))


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("finished", {"seconds": -5.0}, "finished.seconds is -5.0"),
        ("finished", {"steps": 6000}, "finished.steps is 6000; allowed: 600"),
        ("data", {"device": "tpu", "dtype": "int4"}, "was run on tpu in int4; allowed: cpu, float32"),
        ("environment", {"commit": "x|y"}, r"the commit of .* is 'x\|y'; allowed: that of committed sources"),
        ("environment", {"commit": f"{COMMIT}+changed"}, r"\+changed'; allowed: that of committed sources"),
        ("environment", {"commit": "0" * 12}, "the commit of 9 runs, 000000000000, is not in the history; allowed"),
        ("environment", {"source_sha256": "0" * 64}, "does not contain the sources that they recorded"),
    ],
)
def test_a_record_that_no_run_of_committed_sources_writes_is_refused(part, values, said, tmp_path, one_commit):
    folder = forged_entry(tmp_path / "sent", record=lambda name, record: record[part].update(values))
    with pytest.raises(InputError, match=said):
        submission.read(folder)


@pytest.mark.parametrize("track", ["bytes", "answers"])
def test_a_budget_that_nobody_has_run_yet_has_the_same_data(track, tmp_path, one_commit):
    def other(name, record):
        if "budget=4" in name:
            record["data"]["sha256"] = "0" * 64

    with pytest.raises(InputError, match="was run on other data"):
        submission.read(forged_entry(tmp_path / "sent", record=other, track=track, budget=4))


@pytest.mark.parametrize("name", ["README.md", "schedule.py", "table.csv", "submission.json"])
def test_a_file_that_is_no_text_is_refused_by_name(name, tmp_path, one_commit):
    folder = forged_entry(tmp_path / "sent")
    (folder / name).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=f"{name}: cannot be read .UnicodeDecodeError"):
        submission.read(folder)


@pytest.mark.parametrize("seeds", [[6, 7, 8, 9], [6, 7, 8, 9, 11], [6, 6, 7, 8, 9, 10]])
def test_seeds_that_submission_json_does_not_name_are_refused(seeds, tmp_path, one_commit):
    with pytest.raises(InputError, match=r"submission\.json: seeds: .*(are not those of its judged runs|each once)"):
        submission.read(forged_entry(tmp_path / "sent", lambda runs, settings: settings.update(seeds=seeds)))


@pytest.mark.parametrize("said", [{"tracks": ["bytes", "BPE"]}, {"tracks": ["BPE"]}, {"budgets": [1, 4]}, {"budgets": [4]}])
def test_tracks_and_budgets_without_runs_are_refused_of_what_is_no_record_too(said, tmp_path, one_commit):
    (name,) = said
    with pytest.raises(InputError, match=rf"submission\.json: {name}: .* are not those of its judged runs, \[('bytes'|1)\]"):
        submission.read(forged_entry(tmp_path / "sent", lambda runs, settings: settings.update(said, record=False)))


@pytest.mark.parametrize("folder", [path.parent for path in LEADERBOARD.SUBMISSIONS.glob("*/submission.json")], ids=str)
def test_every_folder_sent_in_is_accepted(folder):
    """With its class, which is executed: as `mdlm contest --check` does."""
    assert main(["contest", "--check", str(folder)]) == 0


def test_curves_of_an_accepted_run_are_mentioned(tmp_path, one_commit):
    table = submission.read(forged_entry(tmp_path / "sent"))[1]
    assert entry_check.copies(table, golden.accepted("07_contest", "cpu")) == []
    assert entry_check.copies(table, table.part(lambda record: record["config"]["seed"] == 7)) == [
        f"{SECOND} has the curves of {SECOND}"
    ]


def test_a_table_that_its_runs_do_not_give_is_refused(tmp_path, one_commit):
    folder = forged_entry(tmp_path / "sent")
    (folder / "table.csv").write_text((folder / "table.csv").read_text().replace("low_half,7,", "low_half,8,"))
    with pytest.raises(InputError, match=r"table.csv: is not the table"):
        submission.read(folder)


def test_two_submissions_share_no_run_that_differs(tmp_path, one_commit):
    forged_entry(tmp_path / "one")
    forged_entry(tmp_path / "two")
    assert len(submission.accepted_entries(tmp_path)[0]) == 2
    shutil.rmtree(tmp_path / "two")
    forged_entry(tmp_path / "two", lambda runs, settings: runs[SECOND]["rows"][-1].update(gradient_noise=0.4))
    with pytest.raises(InputError, match="two submissions have the run"):
        submission.accepted_entries(tmp_path)
    assert submission.accepted_entries(tmp_path, without="low_half") == ([], {})


def test_two_classes_are_not_two_halves_of_one_entry(tmp_path, one_commit, monkeypatch):
    forged_entry(tmp_path / "alice")
    monkeypatch.setattr(made_contest, "OWN", OWN + "# another class\n")
    forged_entry(tmp_path / "bob", track="answers")
    with pytest.raises(InputError, match="bob: another submission has the name 'low_half' and another schedule.py"):
        submission.accepted_entries(tmp_path)


def test_git_leaves_the_line_ends_of_a_submitted_class(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "core.autocrlf=true", *arguments], cwd=tmp_path, check=True, capture_output=True)

    file = tmp_path / "experiments/07_contest/submissions/mine/schedule.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one\ntwo\n")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "x")
    file.unlink()
    git("checkout", "--", ".")
    assert file.read_bytes() == b"one\ntwo\n"
