"""What the history proves, on a repository made for the test: an experiment, one run, and then changes."""

import dataclasses
import json
import shutil
import subprocess

import pytest

from mdlm_min.evidence import history
from mdlm_min.evidence.claim import Claim
from mdlm_min.evidence.golden import Table, commits_of
from mdlm_min.evidence.history import History, set_after, untraceable
from mdlm_min.evidence.statistics import Mean
from mdlm_min.run.environment import ROOT

CLAIMS = '''"""Claims."""

from mdlm_min.evidence.claim import Claim, Verdict, by_seed
from mdlm_min.evidence.statistics import Mean

LEAST = 0.25


def _differences(table):
    """Docstring."""
    return by_seed(table, "full", "masked_share") - by_seed(table, "window", "masked_share")


def judge_fewer(table):
    """Another docstring."""
    return Mean(tuple(_differences(table)), "the window masks fewer tokens")  # a comment


def judge_large(table):
    share = float(by_seed(table, "full", "masked_share").mean())
    return Verdict("reproduced" if share > LEAST else "not reproduced", "", share, share, share)


CLAIMS = [
    Claim("F1", "fewer", "statistical", "share", "", "above 0", "cpu", judge_fewer, scale="difference", smallest=0.1, family="f"),
    Claim("F2", "large", "exact", "share", "", f"above {LEAST}", "cpu", judge_large),
    Claim("F3", "again", "statistical", "share", "", "above 0", "cpu", judge_fewer, scale="difference", smallest=0.1, family="f"),
]
'''


def git(folder, *arguments):
    line = ["git", "-c", "user.name=someone", "-c", "user.email=someone@example.org", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


class Repository:
    """A checkout with an experiment, whose claims.py a test rewrites, and its commits."""

    def __init__(self, folder):
        self.folder = folder
        self.claims = folder / "experiments" / "20_counts" / "claims.py"
        shutil.copytree(ROOT / "templates" / "experiment", self.claims.parent)
        for name in ("", "evidence", "run"):  # of the library, what claims.py imports
            (folder / "mdlm_min" / name).mkdir(exist_ok=True)
            for path in (ROOT / "mdlm_min" / name).glob("*.py"):
                shutil.copy(path, folder / "mdlm_min" / name)
        git(folder, "init", "-q")
        self.first = self.commit(CLAIMS)

    def commit(self, claims):
        self.claims.write_text(claims)
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "--allow-empty", "-m", "x")
        return git(self.folder, "rev-parse", "--short=12", "HEAD")

    def module(self):
        scope = {}
        exec(compile(self.claims.read_text(), "claims", "exec"), scope)
        return scope["CLAIMS"]

    def marks(self, table):
        return set_after(History(self.folder), {"20_counts": self.module()}, [table])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def repository(made):
    """Back at the first commit: the history that a test makes stays in the test."""
    git(made.folder, "reset", "-q", "--hard", made.first)
    return made


def table(repository, commits):
    """One run of each arm for each of the commits."""
    runs, curves = {}, {}
    for seed, commit in enumerate(commits):
        sources = history.library_sha256(History(repository.folder).sources(commit.removesuffix("+changed")))
        for arm, share in (("full", 0.5 + 0.01 * seed), ("window", 0.1)):
            name = f"{arm}/seed{seed}"
            runs[name] = {
                "cell": "", "config": {"arm": arm, "seed": seed}, "data": {"sha256": "none", "device": "cpu", "dtype": "float64"},
                "environment": {"commit": commit, "source_sha256": sources, "torch": "t", "processor": "p"},
                "finished": {"seconds": 1.0, "log_sha256": "l", "metrics_sha256": "m"},
            }  # fmt: skip
            curves[name] = [{"step": 0.0, "masked_share": share}]
    return Table("20_counts", "cpu", runs, curves)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The table's rows without an experiment of that name in the repository."""
    monkeypatch.setattr("mdlm_min.evidence.golden.Experiment", lambda name: Summary)


class Summary:
    @staticmethod
    def summariser():
        return lambda rows: [{"masked_share": rows[-1]["masked_share"]}]


def test_a_rule_that_stays_is_no_mark_and_comments_docstrings_notes_and_names_do_not_count(repository):
    now = (
        CLAIMS.replace("# a comment", "# another comment").replace('"""Docstring."""', '"""Other words."""\n')
        .replace("Another docstring.", "Again.").replace("fewer tokens", "a smaller part of the tokens")
        .replace("_differences", "_paired").replace("share = float", "part = float").replace("share > LEAST", "part > LEAST")
        .replace("share, share, share)", "part, part, part)").replace('"again"', '"once more"')
    )  # fmt: skip
    assert now != CLAIMS
    repository.commit(now)
    assert repository.marks(table(repository, [repository.first])) == {}


@pytest.mark.parametrize(
    ("old", "new", "marks"),
    [
        ('"fewer", "statistical", "share", "", "above 0"', '"fewer", "statistical", "share", "", "1"', {"F1": "other tolerance"}),
        ("LEAST = 0.25", "LEAST = 0.2", {"F2": "other tolerance and judge"}),
        ("share > LEAST", "share >= LEAST", {"F2": "other judge"}),
        ('by_seed(table, "full", "masked_share") -', '2 * by_seed(table, "full", "masked_share") -',
         {"F1": "other judge", "F3": "other judge"}),
        ('smallest=0.1, family="f"),\n]', 'smallest=0.05, family="f"),\n]', {"F3": "other smallest effect"}),
        ('smallest=0.1, family="f"),\n]', 'smallest=0.1),\n]', {"F1": "other family", "F3": "other family"}),
        ('"F3"', '"F4"', {"F1": "other family", "F4": "no such claim"}),
        ("judge_large),", 'judge_large, family="f"),', {}),  # more claims in a family make its p-values larger
    ],
)  # fmt: skip
def test_what_decides_is_compared_and_named(repository, old, new, marks):
    assert old in CLAIMS
    repository.commit(CLAIMS.replace(old, new))
    found = repository.marks(table(repository, [repository.first]))
    assert found == {name: f"{reason} at {repository.first}" for name, reason in marks.items()}


def test_a_claim_can_say_itself_that_it_was_set_after_its_runs(repository):
    """Counts that were made again since leave nothing in the history."""
    said = 'f"above {LEAST}", "cpu", judge_large'
    second = repository.commit(CLAIMS.replace(said, f'{said}, set_after="the count was known"'))
    assert repository.marks(table(repository, [second])) == {"F2": "the count was known"}


def test_a_rule_of_the_library_counts_for_claims_about_trained_models(repository):
    path = repository.folder / "mdlm_min" / "evidence" / "statistics.py"
    path.write_text(path.read_text().replace("LEAST_SEEDS = 5", "LEAST_SEEDS = 2"))
    repository.commit(CLAIMS)
    assert set(repository.marks(table(repository, [repository.first]))) == {"F1", "F3"}


def test_runs_after_the_change_and_runs_that_a_claim_does_not_rest_on_give_no_mark(repository):
    second = repository.commit(CLAIMS.replace("LEAST = 0.25", "LEAST = 0.2"))
    assert repository.marks(table(repository, [second])) == {}
    assert set(repository.marks(table(repository, [second, repository.first]))) == {"F2"}
    rows = table(repository, [second, repository.first])
    runs = {name: record for name, record in rows.runs.items() if name != "full/seed1"}  # F2 reads the other arm alone
    assert repository.marks(dataclasses.replace(rows, runs=runs, curves={name: rows.curves[name] for name in runs})) == {}


def test_runs_that_a_note_alone_lists_give_no_mark(repository):
    """Such as those of a search, beside the seeds that are judged."""
    fresh = """    judged = table.part(lambda record: record["config"]["seed"] > 0)
    return Mean(tuple(_differences(judged)), f"{len(table.runs)} runs")"""
    line = '    return Mean(tuple(_differences(table)), "the window masks fewer tokens")  # a comment'
    assert line in CLAIMS
    later = repository.commit(CLAIMS.replace(line, fresh))
    assert "F1" not in repository.marks(table(repository, [repository.first, later, later]))
    assert "F1" in repository.marks(table(repository, [later, repository.first, later]))


def test_every_commit_at_which_the_rule_was_another_is_named(repository):
    second = repository.commit(CLAIMS)
    third = repository.commit(CLAIMS.replace("LEAST = 0.25", "LEAST = 0.2"))
    found = repository.marks(table(repository, [repository.first, third, second]))
    assert found == {"F2": f"other tolerance and judge at {repository.first}, {second}"}


def test_runs_that_move_the_note_of_an_exact_claim_alone_count(repository):
    said = 'else "not reproduced", ""'
    assert said in CLAIMS
    later = repository.commit(CLAIMS.replace("LEAST = 0.25", "LEAST = 0.2").replace(said, f'{said[:-2]}f"{{len(table.runs)}}"'))
    rows = table(repository, [later, repository.first])
    rows.curves["full/seed1"] = rows.curves["full/seed0"]
    assert set(repository.marks(rows)) == {"F2"}


@pytest.mark.parametrize(
    ("values", "note", "same"), [((1.0, 2.0), "b", True), ((0.0, 3.0), "a", False), ((1.0, 1.5, 2.0), "a", False)]
)
def test_a_claim_about_trained_models_says_its_interval_and_seeds_but_not_its_note(values, note, same):
    first, second = (
        history._said(
            Claim("X", "", "ordinal", "", "", "", "cpu", lambda table, said=said: said, scale="difference", smallest=0.1), None
        )
        for said in (Mean((1.0, 2.0), "a"), Mean(values, note))
    )
    assert first is not None
    assert (first == second) is same


def test_uncommitted_sources_and_unknown_commits_prove_nothing(repository):
    rows = table(repository, [repository.first])
    for commit, reason in ((f"{repository.first}+changed", "uncommitted sources"), ("0123456789ab", "unknown sources")):
        for record in rows.runs.values():
            record["environment"]["commit"] = commit
        assert set(repository.marks(rows).values()) == {f"{reason} at {commit}"}


def test_claims_of_then_that_cannot_be_read_prove_nothing(repository):
    broken = repository.commit(CLAIMS.replace("import Mean", "import Meen"))
    repository.commit(CLAIMS)
    assert set(repository.marks(table(repository, [broken])).values()) == {f"unreadable claims at {broken}"}


def test_every_start_of_a_run_counts(repository):
    second = repository.commit(CLAIMS.replace("LEAST = 0.25", "LEAST = 0.2"))
    rows = table(repository, [second])
    for record in rows.runs.values():
        start = record["environment"]
        record["environment"] = {**start, "starts": [{**start, "commit": repository.first}, start]}
        assert list(commits_of(record)) == [repository.first, second]
    assert set(repository.marks(rows)) == {"F2"}
    assert set(rows.frame()["commit"]) == {f"{repository.first} {second}"}


def test_a_commit_holds_the_sources_that_its_runs_recorded(repository):
    rows = table(repository, [repository.first])
    tables = [rows]
    assert untraceable(History(repository.folder), tables) == []
    record = rows.runs["full/seed0"]["environment"]
    for changes, why in (
        ({"source_sha256": "0" * 64}, "does not contain the sources that they recorded"),
        ({"commit": "0123456789ab"}, "is not in the history"),
        ({"commit": f"{repository.first}+changed"}, "had changes that were never committed"),
    ):
        rows.runs["full/seed0"]["environment"] = {**record, **changes}
        commit = changes.get("commit", repository.first)
        assert untraceable(History(repository.folder), tables) == [f"20_counts/cpu: the commit of 1 runs, {commit}, {why}"]


def test_a_commit_that_no_branch_leads_to_is_not_in_the_history(repository):
    aside = repository.commit(CLAIMS + "\n")
    rows = table(repository, [aside])
    git(repository.folder, "reset", "-q", "--hard", repository.first)
    assert untraceable(History(repository.folder), [rows]) == [
        f"20_counts/cpu: the commit of 2 runs, {aside}, is not in the history"
    ]


@pytest.mark.parametrize("name", ["HEAD", "HEAD~0", "main@{0}", "v1"])
def test_a_name_that_can_move_names_no_commit(name, repository):
    git(repository.folder, "tag", "-f", "v1")
    rows = table(repository, [repository.first])
    for record in rows.runs.values():
        record["environment"]["commit"] = name
    assert untraceable(History(repository.folder), [rows]) == [
        f"20_counts/cpu: the commit of 2 runs, {name}, is not in the history"
    ]
    assert set(repository.marks(rows).values()) == {f"unknown sources at {name}"}


def test_a_tag_that_is_called_like_a_commit_is_none(repository):
    rows, first = table(repository, [repository.first]), repository.first
    repository.commit(CLAIMS.replace("LEAST = 0.25", "LEAST = 0.2"))
    assert repository.marks(rows).keys() == {"F2"}
    git(repository.folder, "tag", first)
    History.has.cache_clear()
    try:
        assert repository.marks(rows).keys() == {"F1", "F2", "F3"}
        assert untraceable(History(repository.folder), [rows]) == [
            f"20_counts/cpu: the commit of 2 runs, {first}, is not in the history"
        ]
    finally:
        git(repository.folder, "tag", "-d", first)
        History.has.cache_clear()


def test_other_planned_seeds_are_named_where_a_claim_rests_on_their_runs(repository):
    plan = repository.claims.parent / "experiment.toml"
    text = plan.read_text()
    assert text.count("[tiers.cpu]\nseeds = ") == 1
    rows = table(repository, [repository.first])
    plan.write_text(text.replace("[tiers.cpu]\n", "[tiers.cpu]\njobs = 1\n"))
    assert repository.marks(rows) == {}
    plan.write_text(text.replace("[tiers.cpu]\n", "[tiers.cpu]\nfirst_seed = 1\n"))
    reason = f"other planned seeds at {repository.first}"
    assert repository.marks(rows) == dict.fromkeys(("F1", "F2", "F3"), reason)
    second = repository.commit(CLAIMS)
    assert repository.marks(table(repository, [second])) == {}


def test_metrics_that_the_table_had_before_count_by_their_first_commit(repository):
    """A later name in a record, or the same run again after its rule was changed, does not make it new."""
    path = repository.folder / "results" / "20_counts" / "cpu" / "runs.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(table(repository, [repository.first]).runs))
    repository.commit(CLAIMS)
    path.unlink()  # the rows leave the table, and come back by a later commit under another name
    second = repository.commit(CLAIMS.replace("LEAST = 0.25", "LEAST = 0.2"))
    again = table(repository, [second])
    again = dataclasses.replace(again, **{
        field: {f"new/{name}": value for name, value in getattr(again, field).items()} for field in ("runs", "curves")
    })  # fmt: skip
    assert repository.marks(again) == {"F2": f"other tolerance and judge at {repository.first}"}
    for record in again.runs.values():
        record["finished"]["metrics_sha256"] = "other"
    assert repository.marks(again) == {}


def test_a_shallow_clone_and_a_folder_without_history_say_so(repository, tmp_path):
    repository.commit(CLAIMS + "\n")
    git(tmp_path, "clone", "-q", "--depth", "1", repository.folder.as_uri(), "shallow")
    assert "shallow" in History(tmp_path / "shallow").missing
    (tmp_path / "plain").mkdir()
    assert "is in no git repository" in History(tmp_path / "plain").missing
    assert "is not the top" in History(repository.folder / "mdlm_min").missing
    assert History(repository.folder).missing == ""
