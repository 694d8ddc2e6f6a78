"""A run folder: everything that one run read and wrote.

config.json       the configuration; its hash says whether a finished run may be skipped
environment.json  what it ran on: the last start, and in "starts" every start
data.json         hashes of the data, and what else the run was given
metrics.csv       one row per evaluation, the same bytes however often the run was interrupted
log.txt           progress with times, across all starts
checkpoints/      the newest two states
items.csv         where there are test items: one row per item (task, item, then numbers), written with the last evaluation
finished.json     written last: steps, seconds, and hashes of the files above that say what was run and measured

Of a language model also model.json and tokenizer.json; of a run on several processes launch.txt, deepspeed.json and, after a
failure, error.json.
"""

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdlm_min.run import environment
from mdlm_min.run.config import differences, shown
from mdlm_min.run.errors import REFUSALS, InputError
from mdlm_min.run.files import locked, no_empty_folder, sha256, write_whole

Row = dict[str, float]
BEFORE_A_RUN = ("lock", "stop")  # may lie in a folder that holds no run yet
OF_A_RUN = ("config.json", "environment.json")  # in the folder of every run
GIVEN = ("config.json", "model.json", "tokenizer.json")  # what a finished run is used by, beside what it measured
MEASURED = ("metrics.csv", "items.csv")


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash of a JSON-able configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without its arm and seed."""
    return {name: value for name, value in config.items() if name not in ("arm", "seed")}


class RunFolder:
    """Reads and writes one run folder. Use `open_run` to write; a RunFolder alone only reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read_json(self, name: str, fields: Collection[str] = ()) -> dict[str, Any]:
        """A JSON file of the folder. Raises InputError where it is missing, not JSON, or lacks one of `fields`."""
        try:
            value = json.loads((self.path / name).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path / name} cannot be read ({error}); delete the folder to run again") from error
        if not isinstance(value, dict):
            raise InputError(f"{self.path / name} holds no JSON object; delete the folder to run again")
        if lacking := [field for field in fields if field not in value]:
            raise InputError(f"{self.path / name} has no field {lacking[0]!r}; delete the folder to run again")
        return value

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(value, indent=1, sort_keys=True) + "\n")

    def record_data(self, data: Mapping[str, Any], what: str) -> None:
        """Write data.json. Raises InputError where the run was begun on other data, by their "sha256" (`what` names them there),
        or with anything else in data.json than now, such as another schedule's file: the whole run is to be what it says."""
        if (self.path / "data.json").exists():
            before, now = self.read_json("data.json", ["sha256"]), json.loads(json.dumps(data))
            self._refuse_other_text(before["sha256"], now["sha256"], what)
            if changed := differences(before, now):
                raise InputError(f"{self.path} was begun otherwise ({'; '.join(changed)}); bring that back, or delete the folder")
        self.write_json("data.json", data)

    def check_text(self, sha256: str, what: str) -> None:
        """Raise InputError where the run was begun on another text (`what` names it there)."""
        self._refuse_other_text(self.read_json("data.json", ["sha256"])["sha256"], sha256, what)

    def _refuse_other_text(self, before: str, sha256: str, what: str) -> None:
        if before != sha256:
            raise InputError(
                f"{what} has changed since this run began (SHA-256 {before[:12]}, now {sha256[:12]}); "
                f"bring it back as it was, or delete {self.path}"
            )

    def record_start(self) -> None:
        """Add this start to environment.json. What was written before starts were listed is the first one."""
        before = self.read_json("environment.json") if (self.path / "environment.json").exists() else {}
        now = environment.describe()
        starts = [*before.get("starts", [before] if before else []), now]
        self.write_json("environment.json", {**now, "starts": starts})

    def is_finished(self, config: Mapping[str, Any]) -> bool:
        """Whether this very configuration has run to its end here."""
        return (self.path / "finished.json").exists() and is_same_run(self.read_json("config.json"), config)

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raise InputError where a run of another configuration is here."""
        if (self.path / "config.json").exists() and (old := _what(self.read_json("config.json"))) != (new := _what(config)):
            changed = "; ".join(differences(old, new))
            raise InputError(f"{self.path} holds a run of another configuration ({changed}); delete it, or name another folder")

    def metrics(self) -> list[Row]:
        """The rows of metrics.csv; an incomplete last line, left by a kill, is dropped."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        try:
            text = path.read_text()
            reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
            return [{name: float(value) for name, value in row.items()} for row in reader]
        except (OSError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); delete the folder to run again") from error

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append one row and flush it to the disk; floats are written so that reading gives the same bits."""
        path = self.path / "metrics.csv"
        line = ",".join(format_number(value) for value in row.values()) + "\n"
        try:
            with path.open("a") as file:
                if file.tell() == 0:
                    file.write(",".join(row) + "\n")
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; the last checkpoint is kept") from error

    def drop_metrics(self) -> None:
        """Delete metrics.csv: the run starts again."""
        (self.path / "metrics.csv").unlink(missing_ok=True)

    def metrics_mark(self) -> dict[str, Any]:
        """What a checkpoint records of metrics.csv: the number of rows and the hash of the text."""
        rows = self.metrics()
        return {"rows": len(rows), "sha256": metrics_sha256(rows)}

    def restore_metrics(self, mark: Mapping[str, Any]) -> list[Row]:
        """Go back to the rows that `mark` (of `metrics_mark`) counted; later ones are written again by the resumed run.

        Returns the rows. Raises InputError where metrics.csv no longer begins with them.
        """
        rows = self.metrics()[: mark["rows"]]
        if len(rows) < mark["rows"] or metrics_sha256(rows) != mark["sha256"]:
            raise InputError(
                f"{self.path / 'metrics.csv'} has lost or changed rows that its checkpoint counted ({mark['rows']} rows); "
                f"bring the file back, or delete {self.path} to run again"
            )
        self._replace_metrics(metrics_csv(rows))
        return rows

    def _replace_metrics(self, text: str) -> None:
        write_whole(self.path / "metrics.csv", text)

    def write_items(self, rows: list[dict[str, str | float]]) -> None:
        """Write items.csv whole."""
        lines = [",".join(rows[0])]
        lines += [",".join(value if isinstance(value, str) else format_number(value) for value in row.values()) for row in rows]
        write_whole(self.path / "items.csv", "\n".join(lines) + "\n")

    def stop_requested(self) -> bool:
        """Whether a file `stop` lies in the folder: the run writes its checkpoint and ends."""
        return (self.path / "stop").exists()

    def clear_stop_request(self) -> None:
        """The request is granted; the next start is not to find it."""
        (self.path / "stop").unlink(missing_ok=True)

    def log(self, line: str) -> None:
        try:
            with (self.path / "log.txt").open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        except OSError as error:
            raise InputError(f"cannot write {self.path / 'log.txt'}: {error.strerror}; the last checkpoint is kept") from error

    def finish(self, record: Mapping[str, Any]) -> None:
        """Mark the run as done, with the hashes of what it leaves."""
        hashes = {f"{Path(name).stem}_sha256": found for name, found in self._hashes((*MEASURED, "log.txt")).items()}
        self.write_json("finished.json", {**record, **hashes, "given_sha256": self._hashes(GIVEN)})

    def _hashes(self, names: Collection[str]) -> dict[str, str]:
        return {name: sha256(self.path / name) for name in names if (self.path / name).exists()}

    def altered(self, names: Collection[str] = (*GIVEN, *MEASURED)) -> str:
        """The first of the files `names` that is no longer what finished.json has the hash of, and what became of it ("... is
        gone"); empty where there is none. A log may grow, and a run of before a file was hashed is believed."""
        finished = self.read_json("finished.json", ["metrics_sha256"])
        given = finished.get("given_sha256", {})
        if not isinstance(finished["metrics_sha256"], str) or not isinstance(given, dict):
            raise InputError(f"{self.path / 'finished.json'} is damaged: its hashes are none; delete the folder to run again")
        hashes = {name: finished.get(f"{Path(name).stem}_sha256") for name in MEASURED} | given
        for file in (self.path / name for name in names if hashes.get(name)):
            if not file.exists():
                return f"{file} is gone"
            if sha256(file) != hashes[file.name]:
                return f"{file} was altered after the run"
        return ""

    def finish_at_once(self, row: Row, data_sha256: str, seconds: float) -> None:
        """The whole record of a run without steps: `row` is its one evaluation, on the CPU in float64. Such a run is short, so
        an interrupted one starts again."""
        self.drop_metrics()
        self.append_metrics({"step": 0.0, **row})
        self.write_json("data.json", {"sha256": data_sha256, "device": "cpu", "dtype": "float64"})
        self.log(f"{len(row)} values")
        self.finish({"steps": 0, "seconds": round(seconds, 3)})


class Follower(RunFolder):
    """A run folder as the other processes of a run see it: the first one writes."""

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Nothing."""

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Nothing."""

    def drop_metrics(self) -> None:
        """Nothing."""

    def _replace_metrics(self, text: str) -> None:
        """Nothing."""

    def write_items(self, rows: list[dict[str, str | float]]) -> None:
        """Nothing."""

    def clear_stop_request(self) -> None:
        """Nothing."""

    def log(self, line: str) -> None:
        """Nothing."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Nothing."""


def metrics_sha256(rows: list[Row]) -> str:
    """Hash of the metrics.csv that these rows were read from, or would be written to."""
    return hashlib.sha256(metrics_csv(rows).encode()).hexdigest()


def metrics_csv(rows: list[Row]) -> str:
    """metrics.csv as text."""
    if not rows:
        return ""
    lines = [",".join(rows[0])] + [",".join(format_number(value) for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def format_number(value: float) -> str:
    """Shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def is_same_run(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations are of the same run: all but their engines are equal."""
    return _what(config) == _what(other)


def _what(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its engine: the number of processes may change while a run is resumed, the run itself may not."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return {name: value for name, value in plain.items() if name != "engine"}


@contextmanager
def open_run(path: Path, config: Mapping[str, Any], wait_seconds: float = 0.0) -> Iterator[RunFolder]:
    """Lock `path` and prepare it for `config`: an unfinished run is resumed, another configuration is refused. A run whose data
    or settings are refused, or whose model finds no memory, before it has begun leaves nothing behind.

    Raises InputError where another process holds the folder, where it belongs to another configuration, or holds files of
    anything but a run.
    """
    _check_free(path)
    with no_empty_folder(path), locked(path / "lock", wait_seconds):
        folder, begins = RunFolder(path), not (path / "config.json").exists()
        folder.check_config(config)
        if not folder.is_finished(config):
            folder.write_json("config.json", config)
            folder.record_start()
        try:
            yield folder
        except REFUSALS:
            if begins and not (path / "data.json").exists():
                for name in OF_A_RUN:
                    (path / name).unlink(missing_ok=True)
            raise


def _check_free(path: Path) -> None:
    """Raise InputError for a path at which no run can be: a file, or a folder with something else in it."""
    if file := next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None):
        raise InputError(f"run: {file} is a file; allowed: a new or empty folder, or one of a run")
    if run := next((folder for folder in path.resolve().parents if all((folder / name).is_file() for name in OF_A_RUN)), None):
        raise InputError(f"run: {path} lies in the folder of another run, {run}; allowed: a folder outside it")
    if path.is_dir() and not (path / "config.json").exists():
        names = sorted(entry.name for entry in path.iterdir())
        if other := [name for name in names if name not in BEFORE_A_RUN and not name.startswith(".")]:
            allowed = "a new or empty folder, or one of a run"
            raise InputError(f"run: {path} holds something else ({shown(other[0])}); allowed: {allowed}")
