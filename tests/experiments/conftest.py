"""The contest on small tracks, and a history of one commit."""

import pytest

from mdlm_min.evidence import entry_check, golden
from mdlm_min.evidence import experiment as experiment_module
from tests.experiments.made_contest import COMMIT, CONTEST, OWN, SMALL


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The contest with small tracks, in an empty folder of results, from a folder that holds the user's module."""

    def smaller(self):
        for track, settings in SMALL.items():
            for name, value in settings.items():
                mine = self.plan["defaults"]["tracks"][track]
                mine[name] = mine[name] | value if isinstance(value, dict) else value

    original = experiment_module.Experiment.__init__

    def initialised(self, name):
        original(self, name)
        if self.name == "07_contest":
            smaller(self)

    monkeypatch.setattr(experiment_module.Experiment, "__init__", initialised)
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(entry_check, "_check_sources", lambda folder, table: None)  # nobody commits before each test
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    page = (CONTEST.folder / "README.md").read_text()
    (tmp_path / "my_module.py").write_text(page.split("```python\n")[1].split("```")[0])
    return tmp_path


@pytest.fixture
def one_commit(monkeypatch):
    """A history of one commit, whose sources are none."""

    class OneCommit:
        missing = ""

        def __init__(self, root):
            pass

        def has(self, commit):
            return commit == COMMIT

        def sources(self, commit):
            return {}

    monkeypatch.setattr(entry_check.history, "History", OneCommit)
