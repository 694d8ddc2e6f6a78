"""Where the command's output goes: a reader that has ended, a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(arguments, stdout):
    """The command with its output buffered, as it is outside a terminal."""
    command = [sys.executable, "-m", "mdlm_min", *arguments.split()]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": ""}, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize("arguments", ["list", "--help", "run --help"])
def test_a_reader_that_has_ended_gets_no_traceback(arguments):
    read, write = os.pipe()
    os.close(read)
    done = run(arguments, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_behind_the_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = run("list", stdout=full)
    assert (done.returncode, done.stderr) == (3, b"mdlm: the output cannot be written or read: No space left on device\n")
