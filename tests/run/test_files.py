import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mdlm_min.run.errors import InputError
from mdlm_min.run.files import check_writable, write_whole
from mdlm_min.run.run_folder import RunFolder, config_sha256, format_number


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_whole(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="table.csv: No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, busy, other = (
        tmp_path / name for name in (f".a[1].{ended.pid}.tmp", f".a[1].{os.getppid()}.tmp", f".b.{ended.pid}.tmp")
    )
    for path in (left, busy, other, tmp_path / ".a[1].x.tmp"):
        path.write_text("half")
    write_whole(tmp_path / "a[1]", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".a[1].x.tmp", "a[1]", busy.name, other.name])


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "new")
    write_whole(link, "new")
    write_whole(dangling, "made")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert dangling.is_symlink()
    assert (tmp_path / "new").read_text() == "made"
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", "dangling", "new"}


def test_a_link_to_itself_is_one_line_and_stays(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="loop: Too many levels of symbolic links"):
        write_whole(tmp_path / "loop", "text")
    assert (tmp_path / "loop").is_symlink()


def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        null.symlink_to("/dev/null")  # not root: nobody can do harm to the device, only to the link
    write_whole(null, "text")
    assert null.is_char_device()
    assert list(tmp_path.iterdir()) == [null]


def test_a_disk_is_refused(tmp_path):
    disk = tmp_path / "disk"
    try:
        os.mknod(disk, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    with pytest.raises(InputError, match="disk: neither a regular file"):
        write_whole(disk, "text")
    assert disk.is_block_device()


def test_a_pipe_is_written_to_its_reader_and_refused_without_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="pipe: No such device or address"):
        write_whole(pipe, "text")
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    long, received = b"x" * 1_000_000, bytearray()  # more than the pipe holds

    def read():
        while part := os.read(reading, 65536):
            received.extend(part)

    reader = threading.Thread(target=read)
    writer = threading.Thread(target=write_whole, args=(pipe, long))
    writer.start()
    while not received and writer.is_alive():
        received.extend(os.read(reading, 1))
    reader.start()
    writer.join()
    reader.join()
    os.close(reading)
    assert received == long
    assert pipe.is_fifo()


def test_a_directory_and_a_parent_that_is_a_file_are_one_line(tmp_path):
    with pytest.raises(InputError, match="neither a regular file"):
        write_whole(tmp_path, "text")
    (tmp_path / "file").write_text("kept")
    for below in ("file/report.md", "file/deep/report.md"):
        with pytest.raises(InputError, match=f"cannot write .*{below}: (Not a directory|File exists)"):
            write_whole(tmp_path / below, "text")
    assert (tmp_path / "file").read_text() == "kept"


def test_what_could_not_be_written_is_known_beforehand_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("kept")
    for below in ("file/out", "file/deep/out"):
        with pytest.raises(
            InputError, match=f"output: .*{below} cannot be written .Not a directory.; allowed: a path in a folder"
        ):
            check_writable(tmp_path / below, "output")
    for allowed in (tmp_path / "new", tmp_path / "new" / "deep" / "out", tmp_path / "file", Path("/dev/null")):
        check_writable(allowed, "output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_one_line(tmp_path):
    """In a process of another user: root may write anywhere."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o555)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mdlm_min.run.errors import InputError\n"
        "from mdlm_min.run.files import write_whole\n"
        "os.getuid() or os.setuid(65534)\n"
        "try:\n    write_whole(Path(sys.argv[1]), 'text')\n"
        "except InputError as error:\n    print(error)\n"
    )
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    result = subprocess.run([sys.executable, "-c", code, str(folder / "tokens")], capture_output=True, text=True)
    assert result.stdout == f"cannot write {folder / 'tokens'}: Permission denied; what stood there before is unchanged\n"
    assert result.stderr == ""


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, -2.5e17, 12345678901234567890.0, 3.0, float("inf"), float("nan")])
def test_numbers_are_written_so_that_they_read_back_the_same(value, tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1.0, "value": value})
    read = folder.metrics()[0]["value"]
    assert read == value or (read != read and value != value)


def test_whole_numbers_have_no_point():
    assert format_number(2000.0) == "2000"


def test_the_hash_of_a_configuration_ignores_the_order_of_its_keys():
    assert (
        config_sha256({"a": 1, "b": {"c": 2, "d": 3}})
        == config_sha256({"b": {"d": 3, "c": 2}, "a": 1})
        != config_sha256({"a": 2})
    )


def test_the_process_s_own_output_is_written_to_not_replaced(tmp_path):
    """A shell's `>>` leads /dev/stdout to a regular file, which a rename would replace."""
    path = tmp_path / "all.jsonl"
    path.write_text("precious\n")
    code = "from pathlib import Path; from mdlm_min.run.files import write_whole; write_whole(Path('/dev/stdout'), 'more\\n')"
    with path.open("a") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert path.read_text() == "precious\nmore\n"
    assert list(tmp_path.iterdir()) == [path]
