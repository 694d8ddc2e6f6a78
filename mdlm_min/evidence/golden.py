"""Tables of results and the evidence that each can be rebuilt from.

A table folder (results/EXPERIMENT/TIER, and the same below runs/ for fresh runs) holds
    table.csv       one row per run (theory: one row per quantity)
    curves.csv.gz   the metrics over steps of every run
    runs.json       configuration, environment, data, duration and log hash of every run
    items.csv.gz    where runs were judged on test items: every item of every run
and table.csv is a function of the others.
"""

import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mdlm_min.evidence.experiment import Experiment, RunSpec
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import write_whole
from mdlm_min.run.run_folder import Row, RunFolder, config_sha256, format_number, metrics_sha256

RESULTS = ROOT / "results"
# The last columns of a table; the evaluator's where a run was judged by the contest's.
PROVENANCE = ("seconds", "device", "dtype", "commit", "config_sha256", "data_sha256", "log_sha256", "evaluator_sha256")
_RECORD: dict[str, tuple[type, ...]] = {  # what a table is made of: where it stands in a run's record, and its types
    "cell": (str,),
    "config.arm": (str,),
    "config.seed": (int,),
    "environment.commit": (str,),
    "environment.torch": (str,),
    "environment.processor": (str,),
    "data.sha256": (str,),
    "data.device": (str,),
    "data.dtype": (str,),
    "finished.seconds": (int, float),
    "finished.log_sha256": (str,),
    "finished.metrics_sha256": (str,),
}


@dataclass(frozen=True)
class Table:
    """The runs of one experiment at one tier. `runs` maps a run's name to its record, `curves` to its metrics, `items` to the
    text of its items.csv, where it has one."""

    experiment: str
    tier: str
    runs: dict[str, dict[str, Any]]
    curves: dict[str, list[Row]]
    items: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One table row per run (or quantity): what it is, what it measured, where it comes from."""
        return [row for rows in self._rows_by_run().values() for row in rows]

    def machines(self) -> set[tuple[str, str]]:
        """The versions of torch and the processors of the runs' last starts."""
        found = (record["environment"] for record in self.runs.values())
        return {(environment.get("torch", ""), environment.get("processor", "")) for environment in found}

    def _rows_by_run(self) -> dict[str, list[dict[str, Any]]]:
        summarise = Experiment(self.experiment).summariser()
        judged = any("evaluator_sha256" in record["data"] for record in self.runs.values())
        rows = {}
        for name, record in self.runs.items():
            config = record["config"]
            what = {"cell": record["cell"], "arm": config["arm"], "seed": config["seed"]}
            whence = {
                "seconds": record["finished"]["seconds"],
                "device": record["data"]["device"],
                "dtype": record["data"]["dtype"],
                "commit": " ".join(commits_of(record)),
                "config_sha256": config_sha256(config)[:16],
                "data_sha256": record["data"]["sha256"][:16],
                "log_sha256": record["finished"]["log_sha256"][:16],
            }
            if judged:
                whence["evaluator_sha256"] = record["data"].get("evaluator_sha256", "")[:16]
            rows[name] = [{**what, **measured, **whence} for measured in summarise(self.curves[name])]
        return rows

    def csv(self) -> str:
        """table.csv as text."""
        rows = self.rows()
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: format_number(value) if isinstance(value, float) else value for name, value in row.items()})
        return out.getvalue()

    @functools.cached_property
    def _frame(self) -> pd.DataFrame:
        rows = self._rows_by_run()
        return pd.DataFrame([row for found in rows.values() for row in found], [name for name in rows for _ in rows[name]])

    def frame(self) -> pd.DataFrame:
        """table.csv as a frame; the caller's own."""
        return self._frame.reset_index(drop=True)

    def forged(self) -> list[str]:
        """Runs whose curves or items do not have the hash that was recorded when the run finished."""
        return [
            name
            for name, record in self.runs.items()
            if written_order(self.curves[name], record) is None
            or record["finished"].get("items_sha256") != _text_sha256(self.items.get(name))
        ]

    def cell(self, cell: str) -> "Table":
        """The part of the table in one cell of the grid."""
        return self.part(lambda record: bool(record["cell"] == cell))

    def part(self, belongs: Callable[[dict[str, Any]], bool]) -> "Table":
        """The table of the runs whose records belong to it."""
        runs = {name: record for name, record in self.runs.items() if belongs(record)}
        items = {name: text for name, text in self.items.items() if name in runs}
        part = Table(self.experiment, self.tier, runs, {name: self.curves[name] for name in runs}, items)
        if "_frame" in self.__dict__:  # its rows are known already
            part.__dict__["_frame"] = self._frame[self._frame.index.isin(list(runs))]
        return part

    def item_frame(self) -> pd.DataFrame:
        """Every item of every run: columns run, arm, seed, task, item and what was measured."""
        frames = []
        for name, text in self.items.items():
            config = self.runs[name]["config"]
            frames.append(_item_rows(text).assign(run=name, arm=config["arm"], seed=config["seed"]))
        return pd.concat(frames) if frames else pd.DataFrame()

    def write(self, folder: Path) -> None:
        """Write the files. Raises InputError where the folder cannot be written."""
        table = self.csv()  # before any file is written: a damaged record leaves what is there
        out = io.StringIO()
        columns: list[str] = []
        for rows in self.curves.values():
            columns += [name for name in rows[0] if name not in columns]
        writer = csv.DictWriter(out, ["run", *columns], lineterminator="\n")
        writer.writeheader()
        for name, rows in self.curves.items():
            for row in rows:
                writer.writerow({"run": name, **{key: format_number(value) for key, value in row.items()}})
        write_whole(folder / "curves.csv.gz", gzip.compress(out.getvalue().encode(), 9, mtime=0))
        write_whole(folder / "runs.json", json.dumps(self.runs, indent=1) + "\n")
        (folder / "items.csv.gz").unlink(missing_ok=True)
        if self.items:
            lines, above = [], ""
            for name, text in self.items.items():
                header, *rest = text.splitlines()
                lines += [f"run,{header}"] * (header != above) + [f"{name},{line}" for line in rest]
                above = header
            write_whole(folder / "items.csv.gz", gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
        write_whole(folder / "table.csv", table)


@functools.lru_cache(maxsize=4096)
def _item_rows(text: str) -> pd.DataFrame:
    """items.csv of one run, which every judge of its table asks for; not to be changed."""
    return pd.read_csv(io.StringIO(text))


Place = tuple[str, str]  # cell and arm


def place_of(record: Mapping[str, Any]) -> Place:
    """Where a run stands in the plan."""
    return record["cell"], record["config"]["arm"]


def commits_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The commits of a run's starts, in their order, each with the hash of its sources."""
    return {start["commit"]: start.get("source_sha256", "") for start in starts_of(record)}


def starts_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The environments of a run's starts, in their order; older records have one."""
    return record["environment"].get("starts") or [record["environment"]]


def collect(specs: list[RunSpec], runs: Path) -> Table:
    """The table of finished runs. Raises RunError where one is not finished or its metrics were changed afterwards, and
    InputError where it is of another configuration, or what it says of itself is damaged."""
    records, curves, items = {}, {}, {}
    for spec in specs:
        folder = RunFolder(spec.folder(runs))
        folder.check_config(spec.config)
        if not folder.is_finished(spec.config):
            raise RunError(
                f"{folder.path}: this run is not finished; `mdlm run {spec.experiment} --tier {spec.tier}` finishes it"
            )
        finished = folder.read_json("finished.json")
        if altered := folder.altered():
            raise RunError(f"{altered}; delete the folder to run again")
        records[spec.name] = {
            "cell": spec.cell,
            "config": spec.config,
            "environment": folder.read_json("environment.json"),
            "data": folder.read_json("data.json"),
            "finished": finished,
        }
        curves[spec.name] = rows = folder.metrics()
        records[spec.name]["columns"] = list(rows[0])
        if "items_sha256" in finished:
            items[spec.name] = (folder.path / "items.csv").read_text()
        try:
            _check_records({spec.name: records[spec.name]})
        except ValueError as error:
            raise InputError(f"{folder.path}: {error}; delete the folder to run again") from error
    return Table(specs[0].experiment, specs[0].tier, records, curves, items)


def accepted(experiment: str, tier: str) -> Table:
    """The golden table of a tier; one without runs where nothing was published yet."""
    folder = RESULTS / experiment / tier
    return read(folder, experiment, tier) if (folder / "runs.json").exists() else Table(experiment, tier, {}, {})


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise InputError naming the file where reading it fails: whatever a parser raises, the file is damaged."""
    try:
        yield
    except (InputError, ImportError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing") from error
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: cannot be read ({said[:200]})") from error


def read(folder: Path, experiment: str, tier: str) -> Table:
    """Read a table folder. Raises InputError naming the file that is missing or damaged."""
    runs = read_records(folder)
    with reading(folder / "curves.csv.gz"):
        text = gzip.decompress((folder / "curves.csv.gz").read_bytes()).decode()
        curves: dict[str, list[Row]] = {name: [] for name in runs}
        for row in csv.DictReader(io.StringIO(text)):
            curves[row["run"]].append({key: float(value) for key, value in row.items() if key != "run" and value != ""})
        if without := [name for name, rows in curves.items() if not rows]:
            raise ValueError(f"{without[0]} has no curves")
        for name, record in runs.items():
            if "columns" in record:  # in the order in which the run wrote them
                curves[name] = ordered(curves[name], record["columns"])
    with reading(folder / "items.csv.gz"):
        items = _read_items(folder / "items.csv.gz")
        if unknown := sorted(items.keys() - runs.keys()):
            raise ValueError(f"{unknown[0]} is no run of runs.json")
    table = Table(experiment, tier, runs, curves, items)
    with reading(folder / "curves.csv.gz"):  # has it every column that the table is made of?
        table.frame()
    return table


def read_records(folder: Path) -> dict[str, Any]:
    """The record of every run of a table folder, by name. Raises InputError where runs.json is missing or damaged."""
    with reading(folder / "runs.json"):
        runs: dict[str, Any] = json.loads((folder / "runs.json").read_text())
        _check_records(runs)
    return runs


def _check_records(runs: Any) -> None:
    """Raise ValueError naming the run and the value that is not what a table is made of."""
    if not isinstance(runs, dict) or not runs:
        raise ValueError("no runs")
    for name, record in runs.items():
        for path, kinds in _RECORD.items():
            value: Any = record
            for key in path.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if type(value) not in kinds:
                raise ValueError(f"{path} of {name} is {value!r:.40}; allowed: a {kinds[-1].__name__}")
        starts = record["environment"].get("starts", [])
        if not isinstance(starts, list) or not all(
            isinstance(one, dict) and isinstance(one.get("commit"), str) for one in starts
        ):
            raise ValueError(f"environment.starts of {name} is no list of starts with their commits")
        if not 0 <= record["config"]["seed"] < 2**63:
            raise ValueError(f"config.seed of {name} is out of range")


def written_order(rows: list[Row], record: dict[str, Any]) -> list[str] | None:
    """The columns in the order in which the run wrote them; None where the rows are not those that it recorded."""
    # Records without their columns do not say in which order a short run wrote them: it is one of all orders.
    shuffled = itertools.permutations(rows[0]) if "columns" not in record and len(rows[0]) <= 6 else ()
    for order in itertools.chain([tuple(rows[0])], shuffled):
        if metrics_sha256(ordered(rows, order)) == record["finished"]["metrics_sha256"]:
            return list(order)
    return None


def ordered(rows: list[Row], columns: Iterable[str]) -> list[Row]:
    names = list(columns)
    return [{name: row[name] for name in names} for row in rows]


def _text_sha256(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _read_items(path: Path) -> dict[str, str]:
    """items.csv of every run, as text. A line of column names, whose first is "run", stands above the runs that have them."""
    if not path.exists():
        return {}
    texts: dict[str, list[str]] = {}
    header = ""
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        name, _, rest = line.partition(",")
        if name == "run":
            header = rest
        elif not header:
            raise ValueError("its first line does not name the columns")
        else:
            texts.setdefault(name, [header]).append(rest)
    return {name: "\n".join(found) + "\n" for name, found in texts.items()}


def golden_tables() -> list[Table]:
    """Every golden table under results/, by experiment and tier."""
    return [read(path.parent, path.parent.parent.name, path.parent.name) for path in sorted(RESULTS.glob("*/*/runs.json"))]


def golden_by_tier(experiment: str) -> dict[str, Table]:
    """The golden tables of one experiment, by tier."""
    return {
        path.parent.name: read(path.parent, experiment, path.parent.name)
        for path in sorted((RESULTS / experiment).glob("*/runs.json"))
    }


def published(name: str) -> pd.DataFrame:
    """A table of the paper's numbers, results/published/NAME.csv. Raises InputError where it is missing or damaged."""
    path = RESULTS / "published" / f"{name}.csv"
    with reading(path):
        return pd.read_csv(path, comment="#")
