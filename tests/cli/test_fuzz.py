"""Arbitrary command lines, over every command and option: an exit code and at most one line, never a traceback.

Stubbed is only what would take long once its input was accepted: the sweep of runs, training itself, judging and drawing all
results. Everything before that is real: reading, checking, planning, sampling, counting.
"""

import argparse
import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdlm_min.cli import main as module
from mdlm_min.evidence import golden, report, verdicts, verify
from mdlm_min.run.run_folder import RunFolder

FILES = {
    "text.txt": b"the cat sat on the mat and the dog sat on the log\n" * 400,
    "empty.txt": b"",
    "binary.txt": bytes(range(256)) * 20,
    "table.json": b"[1, 2, 3]",
    "prompts.jsonl": b'{"prompt": "the cat"}\n{"infill": "a__b"}\n',
    "folder/train.txt": b"abc\n" * 100,
    "run/config.json": b"{}",
    "run/finished.json": b"[]",
}
WORDS = [
    *FILES,
    "",
    " ",
    "'",
    '"',
    "$(x)",
    "a b",
    "ünï",
    "\n",
    "-1",
    "0",
    "1",
    "1e9",
    "10000000000000000000000",
    "nan",
    "all",
    "cpu",
    "smoke",
    "paper",
    "gpu",
    "cuda",
    "bytes",
    "gpt2",
    "bpe:300",
    "bpe:1",
    "words",
    "U[0,1]",
    "U[1,0]",
    "1/t",
    "none",
    "missing",
    "folder",
    "run",
    "/dev/null",
    "/proc/self/mem",
    "../..",
    "~",
    "parity",
    "01_parity",
    "theory",
    "8b_pt",
    "h100",
    "float32",
    "ancestral",
    "low-confidence",
    "x" * 5000,
]
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=12).filter(lambda text: "\0" not in text), st.integers().map(str))


def commands():
    """Every command with its own actions, from the parser itself."""
    [choices] = [action.choices for action in module._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: [action for action in parser._actions if action.dest != "help"] for name, parser in choices.items()}


COMMANDS = commands()


LIKELY = {
    "text": ["text.txt", "folder"],
    "experiment": ["parity", "8b_pt", "03_wikitext_bins"],
    "tier": ["smoke", "paper"],
    "run": ["run"],
    "model": ["run"],
    "prompts": ["prompts.jsonl"],
}


def values(action):
    """Values for an option: two in three of its own kind, the others anything."""
    own = words
    if action.type is int:
        own = st.integers(-2, 400).map(str)
    elif action.type is float:
        own = st.floats(-1, 2).map(str)
    elif action.dest in LIKELY:
        own = st.sampled_from(LIKELY[action.dest])
    return st.one_of(own, own, words)


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(sorted(COMMANDS)))
    line = [name]
    for action in COMMANDS[name]:
        if not action.option_strings:
            line += draw(st.lists(values(action), min_size=0 if draw(st.integers(0, 9)) == 0 else 1, max_size=1))
        elif action.required or draw(st.integers(0, 3)) == 0:
            line += [draw(st.sampled_from(action.option_strings))]
            line += [] if action.nargs == 0 else [draw(values(action))]
    if draw(st.integers(0, 9)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(words))
    return line


class StoppedError(Exception):
    """Training or a sweep would start here: the input was accepted."""


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A working directory with a few files, and stubs for what takes long."""
    import mdlm_min.evidence.sweep
    import mdlm_min.training.loop

    for name, content in FILES.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(verdicts, "judge_each", lambda tables: {})
    monkeypatch.setattr(verify, "judge_each", lambda tables: {})
    monkeypatch.setattr(report, "write", lambda *given: [])
    monkeypatch.setattr(report, "other_pages", lambda *given: {})

    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr(mdlm_min.evidence.sweep, "sweep", stop)
    monkeypatch.setattr(mdlm_min.training.loop.Trainer, "run", stop)
    monkeypatch.setattr(RunFolder, "finish", stop)
    monkeypatch.setattr("mdlm_min.tasks.plan.memory", stop)  # a planned step of 8B on fake tensors takes seconds
    return tmp_path


def outside(folder):
    """What lies beside the working directory and the results."""
    return sorted(str(path) for path in folder.iterdir())


@settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=command_lines())
def test_any_command_line_ends_in_an_exit_code(scratch, line):
    before = outside(scratch)
    device = Path("/dev/null").stat().st_mode
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = module.main(line)
        except SystemExit as ended:  # --help
            code = ended.code
            assert code == 0
        except StoppedError:
            code = 0
    assert code in (0, 1, 2, 3, 130)
    assert "Traceback" not in err.getvalue()
    if code == 2:
        assert err.getvalue().startswith("mdlm: ")
    assert outside(scratch) == before
    assert Path("/dev/null").stat().st_mode == device
