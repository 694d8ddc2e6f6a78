"""Files written whole or not at all, hashed, and locked."""

import errno
import fcntl
import glob
import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from mdlm_min.run.errors import REFUSALS, InputError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write to a temporary neighbour, flush it to the disk and rename it.

    A symbolic link stays and its target is replaced. A character device (/dev/null) or a pipe that is being read is written to as
    it is, and so is one of the process's own open files (/dev/stdout), whatever that leads to. Raises InputError for a directory
    or a disk, and where the system refuses (no space, no permission).
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if (descriptor := own_descriptor(path)) is not None:
            _write_to(descriptor, data)
            return
        if path.exists() and not path.is_file():
            _write_through(path, data)
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():  # it leads back to itself
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            with suppress(OSError):  # it is gone where all went well, and may never have been there
                temporary.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; what stood there before is unchanged") from error


@contextmanager
def open_bytes(path: Path) -> Iterator[BufferedIOBase]:
    """A file to be read, of a .gz what is packed in it. Raises InputError where it cannot be read to its end."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _remove_left_over(target: Path) -> None:
    """Remove what killed processes have left of this file."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        process = path.name.removesuffix(".tmp").rpartition(".")[2]
        if process.isascii() and process.isdecimal() and not _runs(int(process)):
            with suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def check_writable(path: Path, name: str) -> None:
    """Raise InputError, naming the field `name`, where the system would refuse a file at `path`. Nothing is left there."""
    if own_descriptor(path) is not None or path.is_char_device() or path.is_fifo():
        return
    if path.is_dir():
        raise InputError(f"{name}: {path} is a folder; allowed: a file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: {path} cannot be written ({error.strerror}); allowed: a path in a folder that can be"
        ) from error


def own_descriptor(path: Path) -> int | None:
    """The open file of this process that a path stands for: /dev/stdout, /dev/stderr, /dev/fd/N; None for any other path."""
    named = {"/dev/stdout": "1", "/dev/stderr": "2"}.get(str(path), str(path).removeprefix("/dev/fd/"))
    return int(named) if named.isascii() and named.isdecimal() and str(path).startswith("/dev/") else None


def _write_to(descriptor: int, data: bytes) -> None:
    sys.stdout.flush()  # what was printed before comes first
    while data:
        data = data[os.write(descriptor, data) :]


def _write_through(path: Path, data: bytes) -> None:
    """Write to a character device or to a pipe that has a reader."""
    if not (path.is_char_device() or path.is_fifo()):
        raise InputError(f"cannot write {path}: neither a regular file nor a character device nor a pipe")
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # fails for a pipe without a reader, which could keep us waiting
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, wait_seconds: float = 0.0, what: str = "") -> Iterator[None]:
    """Hold `path` as a lock file, which is gone afterwards; the lock dies with the process, and a file left by one that was
    killed is nobody's. Raises InputError naming the process that holds it. `what` is in use then (default: the lock file's
    folder)."""
    import time

    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise InputError(f"{what or path.parent} is in use by {holder}; wait for it, or stop it first") from None
                time.sleep(0.05)
                continue
            if not _is_at(file, path):  # its holder has removed it: this is the lock of nothing
                continue
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            try:
                yield
            finally:
                if _is_at(file, path):
                    path.unlink()  # while it is held: who waits for it finds it gone, and begins again
            return


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the path still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


@contextmanager
def no_empty_folder(path: Path) -> Iterator[None]:
    """Bad input, and no memory for what was asked, leave no empty folder behind."""
    try:
        yield
    except REFUSALS:
        with suppress(OSError):  # it holds something, or is not there
            path.rmdir()
        raise
