"""What the history proves of the golden tables: that each claim's rule was set before its runs, and that each run names the
sources that it was made with.

A row counts for a claim if the claim's judge says something else without the rows of its commit: of trained models in its
numbers, whatever else its note lists beside them; of exact claims in the note too, as they check rows that do not move the
number. For each such commit the rule of then is compared with that of now (rule_text.py says what a rule is), and the seeds that
the plan named then with those that it names now. Where they differ, the claim was set after the runs, and every table says so. A
row of uncommitted sources, or of a commit that is not in the history, proves nothing. Where an earlier version of the golden
table has the same metrics of an arm and seed by another commit, they were known before: that commit counts too (for exact claims
whatever the seed).
"""

import functools
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdlm_min.evidence import rule_text, verdicts
from mdlm_min.evidence.claim import Claim
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Place, Table, commits_of, place_of, starts_of
from mdlm_min.evidence.pairing import judged_part
from mdlm_min.evidence.plan_file import planned_seeds
from mdlm_min.evidence.statistics import Evidence
from mdlm_min.run.environment import ROOT, sources_sha256
from mdlm_min.run.errors import RunError

FOLDERS = ("mdlm_min", "experiments")
NOW = "now"  # in the place of a commit: the working tree
COMMIT = re.compile("[0-9a-f]{7,40}")


@dataclass(frozen=True)
class History:
    """The git history around a checkout."""

    root: Path

    def _git(self, *arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, check=True).stdout

    @property
    def missing(self) -> str:
        """Why there is no history to look at; empty where there is one."""
        try:
            top, shallow = self._git("rev-parse", "--show-toplevel", "--is-shallow-repository").decode().splitlines()
        except (OSError, subprocess.CalledProcessError):
            return f"{self.root} is in no git repository; a clone has the history"
        if Path(top).resolve() != self.root.resolve():
            return f"{self.root} is not the top of a git repository; a clone has the history"
        return "this clone is shallow; `git fetch --unshallow` brings the history" if shallow == "true" else ""

    @functools.cache  # noqa: B019
    def has(self, commit: str) -> bool:
        """Whether HEAD or one of its ancestors is this commit, by its own hexadecimal name: a branch or a tag, which can be
        called so, means another commit tomorrow."""
        try:
            whole = self._git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode()
            self._git("merge-base", "--is-ancestor", whole.strip(), "HEAD")
        except subprocess.CalledProcessError:
            return False
        return bool(COMMIT.fullmatch(commit)) and whole.startswith(commit)

    def day(self, commit: str) -> str:
        """The day of a commit that is in the history, such as 2026-11-26."""
        return self._git("show", "--no-patch", "--format=%cs", f"{commit}^{{commit}}").decode().strip()

    def text(self, commit: str, path: str) -> str:
        """A file at a commit; empty where it was not there."""
        try:
            return self._git("show", f"{commit}:{path}").decode()
        except subprocess.CalledProcessError:
            return ""

    def seeds(self, commit: str, experiment: str, tier: str) -> dict[Place, set[int]]:
        """The seeds that the plan named for every cell and arm of a tier at a commit or at NOW; empty where it cannot be read."""
        path = f"experiments/{experiment}/experiment.toml"
        try:
            text = (self.root / path).read_text() if commit == NOW else self.text(commit, path)
            return planned_seeds(tomllib.loads(text), tier)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a file of an older form
            return {}

    def records(self, experiment: str, tier: str) -> list[dict[str, Any]]:
        """The runs of all versions of a golden table."""
        path = f"results/{experiment}/{tier}/runs.json"
        found: list[dict[str, Any]] = []
        for commit in self._git("log", "--full-history", "--format=%H", "--", path).decode().split():
            try:
                for record in json.loads(self.text(commit, path) or "{}").values():
                    _same_run(record, exact=False)  # raises where something is missing
                    if all(isinstance(commit, str) for commit in commits_of(record)):
                        found.append(record)
            except (ValueError, KeyError, TypeError, AttributeError):  # a file of an older form, or a damaged one
                continue
        return found

    @functools.cache  # noqa: B019 - few commits, a few hundred kB each
    def sources(self, commit: str) -> dict[str, bytes]:
        """The Python files of the library and the experiments at a commit, by their path."""
        there = self._git("ls-tree", "--name-only", commit, *FOLDERS).decode().split()
        packed = self._git("archive", "--format=tar", commit, "--", *there) if there else b""
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.name.endswith(".py")}
            return {name: file.read() for name, file in files.items() if file is not None}


def untraceable(history: History, tables: Iterable[Table]) -> list[str]:
    """What runs say of their sources that the history does not bear out, a line for each table and commit."""
    lines = []
    for table in tables:
        named: dict[tuple[str, str], int] = {}
        for record in table.runs.values():
            for pair in commits_of(record).items():
                named[pair] = named.get(pair, 0) + 1
        for (commit, recorded), count in named.items():
            if commit.endswith("+changed"):
                why = "had changes that were never committed"
            elif not history.has(commit):
                why = "is not in the history"
            elif recorded != library_sha256(history.sources(commit)):
                why = "does not contain the sources that they recorded"
            else:
                continue
            lines.append(f"{table.experiment}/{table.tier}: the commit of {count} runs, {commit}, {why}")
    return lines


def library_sha256(sources: Mapping[str, bytes]) -> str:
    """What environment.source_sha256() was for these sources."""
    return sources_sha256({name: text for name, text in sources.items() if name.startswith("mdlm_min/")})


@dataclass(frozen=True)
class Proof:
    """What the history says of all golden tables: the claims that were set after their runs, with the reason, and a line for each
    commit whose sources cannot be found. Where there is no history, `unchecked` says why, and the claims are those that were
    accepted."""

    set_after: Mapping[str, str]
    untraceable: list[str]
    unchecked: str = ""


def prove(tables: list[Table], root: Path = ROOT) -> Proof:
    """Look at these golden tables, which are all, and at every claim. Raises InputError for damaged results and RunError for
    unreadable rules."""
    history = History(root)
    if history.missing:
        accepted = {name: str(record.get("set_after", "")) for name, record in verdicts.read_accepted().items()}
        return Proof({name: reason for name, reason in accepted.items() if reason}, [], history.missing)
    claims = {name: Experiment(name).module("claims").CLAIMS for name in {table.experiment for table in tables}}
    judged = [judged_part(Experiment(table.experiment), table) for table in tables]
    return Proof(set_after(history, claims, judged), untraceable(history, tables))


def set_after(history: History, claims: Mapping[str, Iterable[Claim]], tables: Iterable[Table]) -> dict[str, str]:
    """The claims (given by experiment) that were set after runs on which they rest: their ids, each with what differs at which
    commit. Raises RunError where the present rules cannot be read."""
    found = []
    for table in tables:
        earlier = history.records(table.experiment, table.tier)
        found += [(_with_earlier_starts(earlier, table, exact), exact) for exact in (True, False)]
    named = {name for table, _ in found for name in _names(table)}
    wanted: dict[str, set[str]] = {}
    for table, _ in found:
        for commit in _commits(table):
            if not commit.endswith("+changed") and history.has(commit):
                wanted.setdefault(commit, set()).add(table.experiment)
    rules = _read_rules(history, wanted, named)
    marks = {}
    for table, exact in found:
        reduced = {commit: _without(table, commit) for commit in _commits(table)}
        replanned = {commit: _without_replanned(history, table, commit) for commit in reduced}
        for claim in claims.get(table.experiment, ()):
            if (claim.kind == "exact") != exact:
                continue
            here = _said(claim, table) if claim.tier == table.tier else None
            reasons: dict[str, list[str]] = {}
            for commit, rest in reduced.items() if here else ():
                reason = _difference(rules, table.experiment, claim.id, commit, history)
                if reason and _said(claim, rest) != here:
                    reasons.setdefault(reason, []).append(commit)
                elif not reason and (others := replanned[commit]) and _said(claim, others) != here:
                    reasons.setdefault("other planned seeds", []).append(commit)
            if here and claim.set_after:
                marks[claim.id] = claim.set_after
            elif reasons:
                marks[claim.id] = "; ".join(f"{reason} at {', '.join(commits)}" for reason, commits in reasons.items())
    return marks


def _commits(table: Table) -> list[str]:
    return list(dict.fromkeys(commit for record in table.runs.values() for commit in commits_of(record)))


def _names(table: Table) -> set[str]:
    """Texts with a blank in them that name something in the table: columns, metrics, cells, arms, quantities."""
    frame = table.frame()
    values = {str(value) for column in frame.select_dtypes(exclude="number") for value in frame[column].unique()}
    metrics = {name for rows in table.curves.values() for name in rows[0]}
    return {text for text in {*map(str, frame.columns), *values, *metrics} if " " in text}


def _said(claim: Claim, table: Table) -> tuple[str, ...] | None:
    """What a claim's judge finds, without the note where that decides nothing; None where it cannot judge this table."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of the mean of no rows
            said = claim.judge(table)
            if isinstance(said, Evidence):
                tests = said.p_at_most(claim.least), said.p_at_least(claim.smallest)
                return tuple(map(repr, (said.estimate, said.interval(), said.seeds, *tests)))
            return tuple(map(repr, (said.verdict, said.ours, said.low, said.high, said.note)))
    except Exception:  # whatever half a table makes a judge raise
        return None


def _without(table: Table, commit: str) -> Table:
    return table.part(lambda record: commit not in commits_of(record))


def _without_replanned(history: History, table: Table, commit: str) -> Table | None:
    """The table without a commit's runs of the cells and arms that had other planned seeds then; None where there are none, and
    where the commit is not in the history."""
    if not history.has(commit):
        return None
    then, now = (history.seeds(at, table.experiment, table.tier) for at in (commit, NOW))
    rest = table.part(lambda record: commit not in commits_of(record) or then.get(place_of(record)) == now.get(place_of(record)))
    return rest if len(rest.runs) < len(table.runs) else None


def _with_earlier_starts(earlier: Iterable[Mapping[str, Any]], table: Table, exact: bool) -> Table:
    """The table whose runs also name the commits that earlier records have for the same run: an arm's, with the same metrics and,
    but for exact claims, to which a seed is nothing, the same seed."""
    known: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in earlier:
        known.setdefault(_same_run(record, exact), []).extend(starts_of(record))
    runs = {}
    for name, record in table.runs.items():
        starts = [*starts_of(record), *known.get(_same_run(record, exact), [])]
        runs[name] = {**record, "environment": {**record["environment"], "starts": starts}}
    return replace(table, runs=runs)


def _same_run(record: Mapping[str, Any], exact: bool) -> tuple[Any, ...]:
    """What stays where a run comes back in another cell, or by another commit."""
    config = record["config"]
    return config["arm"], record["finished"]["metrics_sha256"], None if exact else config["seed"]


def _difference(rules: Mapping[tuple[str, str], Any], experiment: str, claim: str, commit: str, history: History) -> str:
    """In what the rule of a claim at a commit differs from the present one; empty where it is the same."""
    if commit.endswith("+changed"):
        return "uncommitted sources"
    if not history.has(commit):
        return "unknown sources"
    then, now = rules[commit, experiment], rules[NOW, experiment]
    if isinstance(then, str):
        return "unreadable claims"
    if claim not in then:
        return "no such claim"
    old, new = then[claim], now[claim]
    parts = [name for name in new if name != "family" and old.get(name) != new[name]]
    if set(old.get("family", ())) - set(new.get("family", ())):  # fewer claims in a family make its p-values smaller
        parts.append("family")
    return f"other {' and '.join(parts)}" if parts else ""


def _read_rules(history: History, wanted: Mapping[str, Iterable[str]], names: Iterable[str]) -> dict[tuple[str, str], Any]:
    """The rules of experiments at commits, and at NOW those of the working tree: rule_text's answers by commit and experiment."""
    trees = tuple((commit, tuple(sorted(experiments))) for commit, experiments in sorted(wanted.items()))
    now = hashlib.sha256(
        b"".join(path.read_bytes() for folder in FOLDERS for path in sorted((history.root / folder).rglob("*.py")))
    )
    return _ask(history, trees, tuple(sorted(names)), now.hexdigest())


@functools.cache
def _ask(
    history: History, trees: tuple[tuple[str, tuple[str, ...]], ...], names: tuple[str, ...], now: str
) -> dict[tuple[str, str], Any]:
    """`now` is a hash of the working tree: another tree is another question."""
    everything = sorted({experiment for _, experiments in trees for experiment in experiments})
    with tempfile.TemporaryDirectory() as folder:
        asked = [(commit, _unpack(history.sources(commit), Path(folder, commit)), experiments) for commit, experiments in trees]
        asked.append((NOW, history.root, tuple(everything)))
        request = {"trees": [[str(path.resolve()), experiments] for _, path, experiments in asked], "names": names}
        # -P: the program's own folder has a statistics.py, which is not the library's
        command = [sys.executable, "-P", rule_text.__file__]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"the rules of claims cannot be read: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
    answers = zip(asked, json.loads(done.stdout), strict=True)
    rules = {(commit, experiment): rule for (commit, _, _), answer in answers for experiment, rule in answer.items()}
    if unread := [rule for (commit, _), rule in rules.items() if commit == NOW and isinstance(rule, str)]:
        raise RunError(f"the rules of claims cannot be read: {unread[0]}")
    return rules


def _unpack(sources: Mapping[str, bytes], folder: Path) -> Path:
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder
