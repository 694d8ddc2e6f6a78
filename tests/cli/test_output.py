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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_path_that_the_output_cannot_encode_is_escaped(encoding, tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 500)
    figure = os.fsencode(tmp_path) + b"/w\xff.png"
    command = [sys.executable, "-m", "mdlm_min", "window", "--text", tmp_path / "text.txt", "--figure", figure]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"/w\\udcff.png\n")
    assert Path(os.fsdecode(figure)).exists()


def test_a_closed_output_is_none():
    done = subprocess.run(["sh", "-c", '"$0" -m mdlm_min list >&-', sys.executable], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
