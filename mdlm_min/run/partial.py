"""Work in pieces that survives a kill: each piece is appended to a partial file beside the output, and found there by the same
command."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdlm_min.run.config import differences
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import locked, own_descriptor, write_whole

Record = dict[str, Any]


def partial_path(output: Path) -> Path | None:
    """Where the work for an output is kept until it is whole; None where the output is no file that can be replaced."""
    stream = own_descriptor(output) is not None or (output.exists() and not output.is_file())
    return None if stream else output.with_name(f"{output.name}.partial")


@contextmanager
def one_writer(output: Path) -> Iterator[None]:
    """Hold an output and its partial file. Raises InputError where another process does: two would mix their work."""
    path = partial_path(output)
    if path is None:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, what=str(output)):
        yield
        lock.unlink(missing_ok=True)  # it stays where the work is not done


class Partial:
    """`OUTPUT.partial`: a line with the configuration, then one for each item that is done. `done` has their records by number.

    An output that is no regular file (/dev/stdout, a pipe) has no partial file.
    """

    def __init__(self, output: Path, configuration: Mapping[str, Any], fields: Collection[str] = ()) -> None:
        """Read what is there; a last line that a kill has torn is dropped. Raises InputError for a partial file of another
        configuration, and for one that is damaged: each record has all of `fields`."""
        self.output, self.fields = output, fields
        self.path = partial_path(output)
        self.done: dict[int, Record] = {}
        if self.path is None:
            return
        self._head = json.dumps({"configuration": configuration}, sort_keys=True) + "\n"
        if lines := self._whole_lines():
            self.done = self._read(lines, json.loads(self._head)["configuration"])
            write_whole(self.path, "".join(f"{line}\n" for line in lines))

    def _whole_lines(self) -> list[str]:
        assert self.path is not None
        if not self.path.exists():
            return []
        try:
            return self.path.read_text().split("\n")[:-1]
        except (OSError, ValueError) as error:
            raise InputError(f"output: {self.path} cannot be read ({error}); delete it to start again") from error

    def _read(self, lines: list[str], configuration: Mapping[str, Any]) -> dict[int, Record]:
        try:
            there, *items = map(json.loads, lines)
            changed = differences(there["configuration"], configuration)
            done = {item["item"]: item["record"] for item in items}
            if broken := [number for number, record in done.items() if not {*self.fields} <= record.keys()]:
                raise ValueError(f"item {broken[0]} lacks a field")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"output: {self.path} is damaged ({type(error).__name__}: {error}); delete it to start again"
            ) from error
        if changed:
            raise InputError(
                f"output: {self.path} holds work of another configuration ({'; '.join(changed)}); delete it to start again, or "
                "choose another output"
            )
        return done

    def add(self, records: Mapping[int, Record]) -> None:
        """Add what is known of more items and flush it to the disk. Raises InputError where the disk refuses; what was there is
        kept."""
        begun = bool(self.done)
        self.done |= records
        if self.path is None:
            return
        lines = "".join(json.dumps({"item": item, "record": record}) + "\n" for item, record in records.items())
        if not begun:
            write_whole(self.path, self._head + lines)
            return
        try:
            with self.path.open("a") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; what stands there is kept") from error

    def finish(self, content: str) -> None:
        """Write the output whole; the partial file has served."""
        write_whole(self.output, content)
        if self.path is not None:
            self.path.unlink(missing_ok=True)
