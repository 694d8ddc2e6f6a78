"""Records that survive a kill: each is a line, appended as it is made, behind a line that says of which configuration they are.

Every line has a checksum. A last line that a kill has torn is dropped; any other damage is refused: it could change a result.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdlm_min.run.config import differences
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole

Key = int | str


class RecordLog:
    """`records`: what was kept, by key. Without a path they are kept in memory only."""

    def __init__(self, path: Path | None, configuration: Mapping[str, Any], field: str) -> None:
        """Read what is there. Raises InputError, naming `field`, for a log of another configuration and for one that is
        damaged."""
        self.path = path
        self.records: dict[Key, Any] = {}
        self._field = field
        self._begun = False  # there is a file, with the line of the configuration
        self._head = _line("configuration", json.loads(json.dumps(configuration)))
        if path is not None and (lines := self._whole_lines(path)):
            self.records = self._read(path, lines)
            self._begun = True
            write_whole(path, "".join(f"{line}\n" for line in lines))

    def _whole_lines(self, path: Path) -> list[str]:
        if not path.exists():
            return []
        try:
            return path.read_text().split("\n")[:-1]
        except (OSError, ValueError) as error:
            raise InputError(f"{self._field}: {path} cannot be read ({error}); delete it to start again") from error

    def _read(self, path: Path, lines: list[str]) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        for number, line in enumerate(lines, 1):
            try:
                key, record = json.loads(line)["of"]
                if f"{line}\n" != _line(key, record):
                    raise ValueError("its checksum is another")
                found[key] = record
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())
                raise InputError(
                    f"{self._field}: {path} is damaged in line {number} ({said}); delete it to start again"
                ) from error
        there, asked = found.pop("configuration", {}), json.loads(self._head)["of"][1]
        if changed := differences(there, asked):
            raise InputError(
                f"{self._field}: {path} holds work of another configuration ({'; '.join(changed)}); delete it to start again, or "
                f"choose another {self._field}"
            )
        return found

    def add(self, records: Mapping[Any, Any]) -> None:
        """Keep more records and flush them to the disk. Raises InputError where the disk refuses; what was there is kept."""
        self.records |= records
        if self.path is None or not records:
            return
        lines = "".join(_line(key, record) for key, record in records.items())
        if not self._begun:
            write_whole(self.path, self._head + lines)
            self._begun = True
            return
        try:
            with self.path.open("a") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; what stands there is kept") from error

    def remove(self) -> None:
        """It has served."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _line(key: Key, record: Any) -> str:
    text = json.dumps([key, record])
    return f'{{"of": {text}, "crc32": {zlib.crc32(text.encode())}}}\n'
