"""Files that can be made again, kept in the cache with their SHA-256 beside them."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mdlm_min.run.errors import InputError
from mdlm_min.run.files import locked, sha256, write_whole


def cached(path: Path, write: Callable[[Path], None]) -> Path:
    """`path`, a file whose bytes have the SHA-256 in PATH.sha256; `write` makes it where it is missing or damaged.

    `write` is given a temporary neighbour of the same ending, which is renamed when it is whole. A damaged file is replaced with
    one line on standard error. Raises InputError where the folder cannot be read or written.
    """
    try:
        if _is_whole(path):
            return path
        with locked(path.with_name(f"{path.name}.lock"), wait_seconds=3600):
            if _is_whole(path):  # another process has made it meanwhile
                return path
            if path.exists():
                print(f"{path}: damaged, or without its SHA-256; it is made again", file=sys.stderr, flush=True)
            temporary = path.with_name(f".{os.getpid()}.{path.name}")
            try:
                write(temporary)
                write_whole(_hash_file(path), sha256(temporary) + "\n")
                temporary.replace(path)
            finally:
                with suppress(OSError):  # it is gone where all went well
                    temporary.unlink()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; allowed: MDLM_CACHE set to a folder that can be read and written") from error
    return path


def _is_whole(path: Path) -> bool:
    try:
        return sha256(path) == _hash_file(path).read_text().strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
