"""results/ as an artifact to cite: ro-crate-metadata.json names every file with its hash (RO-Crate 1.1).

The text is a function of the results and of the history: its date is that of the newest commit that a run was made with. The
library `rocrate` puts it together where it is written; to compare it with the results, nothing but JSON is needed.
"""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mdlm_min.evidence import golden
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table, commits_of
from mdlm_min.evidence.history import History
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256, write_whole

NAME = "ro-crate-metadata.json"
VERSION = "1.1"
FORMATS = {
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
}
CODE, AUTHORS = "#mdlm-min", "#authors"
PAPER, SECOND_PAPER = "https://arxiv.org/abs/2601.22450", "https://arxiv.org/abs/2603.15803"
PUBLISHED_LICENSE = "https://creativecommons.org/licenses/by/4.0/"  # of the paper's numbers, see published/README.md
_WHAT = {
    "table.csv": "one row per run",
    "curves.csv.gz": "the metrics over steps of every run",
    "runs.json": "configuration, environment, data and hashes of every run",
    "items.csv.gz": "every test item of every run",
    "verdicts.json": "the verdict of every claim",
    "hashes.json": "the accepted hashes of all tables",
    "report.md": "every figure, table and verdict",
    "FINDINGS.md": "the findings on one page",
    "record.json": "what each figure was drawn from",
}  # of a file's name
_TERMS = {"sha256": "http://schema.org/sha256"}  # which the vocabulary of RO-Crate 1.1 lacks
Entity = dict[str, Any]


def files() -> list[Path]:
    """What belongs to results/, by its path there; report.html is built from it and left out, as is the crate itself."""
    found = (path for path in golden.RESULTS.rglob("*") if path.suffix in FORMATS and path.is_file())
    return sorted(path for path in (one.relative_to(golden.RESULTS) for one in found) if path != Path(NAME))


def entities(tables: Iterable[Table]) -> list[Entity]:
    """The root, the golden tables, the files, the code, its authors and the paper, in this order. Raises InputError where the
    results cannot be dated."""
    found = {f"{table.experiment}/{table.tier}/": table for table in tables}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code_license = f"https://spdx.org/licenses/{project['license']}"
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Results of {project['name']}",
        "description": f"{project['description']}: golden tables, the metrics of every run, verdicts and figures.",
        "datePublished": _date(found.values()),
        "version": project["version"],
        "license": {"@id": code_license},
        "author": {"@id": AUTHORS},
        "citation": [{"@id": PAPER}, {"@id": SECOND_PAPER}],
    }
    paths = [path.as_posix() for path in files()]
    sets = [_table(name, table, [path for path in paths if path.startswith(name)]) for name, table in found.items()]
    if published := [path for path in paths if path.startswith("published/")]:
        sets.append(
            {
                "@id": "published/", "@type": "Dataset", "name": "The paper's numbers",
                "license": {"@id": PUBLISHED_LICENSE}, "isBasedOn": {"@id": PAPER}, "hasPart": _named(published),
            }
        )  # fmt: skip
    code = {
        "@id": CODE, "@type": "SoftwareSourceCode", "name": project["name"], "version": project["version"],
        "license": {"@id": code_license}, "author": {"@id": AUTHORS},
    }  # fmt: skip
    authors = {"@id": AUTHORS, "@type": "Organization", "name": f"The {project['name']} developers"}
    papers = [
        {"@id": PAPER, "@type": "ScholarlyArticle", "name": "The paper whose claims are tested, arXiv:2601.22450"},
        {"@id": SECOND_PAPER, "@type": "ScholarlyArticle", "name": "Information-density masking, arXiv:2603.15803"},
    ]
    licenses = [
        {"@id": code_license, "@type": "CreativeWork", "name": project["license"]},
        {"@id": PUBLISHED_LICENSE, "@type": "CreativeWork", "name": "CC BY 4.0"},
    ]
    return [
        root | {"hasPart": _named([one["@id"] for one in sets] + paths)},
        *sets,
        *map(_file, paths),
        code,
        authors,
        *papers,
        *licenses,
    ]


def _named(names: Iterable[str]) -> list[Entity]:
    return [{"@id": name} for name in names]


def _table(name: str, table: Table, paths: list[str]) -> Entity:
    commits = sorted({commit for record in table.runs.values() for commit in commits_of(record)})
    return {
        "@id": name,
        "@type": "Dataset",
        "name": f"{table.experiment}, tier {table.tier}: golden table",
        "description": f"{Experiment(table.experiment).title}: {len(table.runs)} runs, made at the commits {', '.join(commits)}",
        "isBasedOn": {"@id": CODE},
        "hasPart": _named(paths),
    }


def _file(name: str) -> Entity:
    path = golden.RESULTS / name
    more = {"description": _WHAT[path.name]} if path.name in _WHAT else {}
    return {
        "@id": name, "@type": "File", "name": name, **more, "encodingFormat": FORMATS[path.suffix],
        "contentSize": str(path.stat().st_size), "sha256": sha256(path),
    }  # fmt: skip


def _date(tables: Iterable[Table]) -> str:
    """The day of the newest commit that a run was made with. Where none is in the history, or there is no history, the date that
    the crate has; where it has none, that of the newest commit of all."""
    history = History(ROOT)
    if not history.missing:
        named = {commit for table in tables for record in table.runs.values() for commit in commits_of(record)}
        if days := [history.day(commit) for commit in sorted(named) if history.has(commit)]:
            return max(days)
    if (date := _read().get("./", {}).get("datePublished")) is not None:
        return str(date)
    if history.missing:
        raise InputError(f"{golden.RESULTS / NAME}: the results cannot be dated: {history.missing}")
    return history.day("HEAD")


def _read() -> dict[str, Entity]:
    """The entities of the crate as it stands, by id; empty where it cannot be read."""
    try:
        graph = json.loads((golden.RESULTS / NAME).read_text())["@graph"]
        return {one["@id"]: one for one in graph}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def write(tables: Iterable[Table]) -> Path:
    """Write results/ro-crate-metadata.json for the files that are there. Raises ModuleNotFoundError without the library."""
    from rocrate.model import ContextEntity, Dataset, File
    from rocrate.rocrate import ROCrate

    kinds = {"Dataset": Dataset, "File": File}
    crate = ROCrate(version=VERSION)
    crate.metadata.extra_terms.update(_TERMS)
    root, *others = entities(tables)
    for one in others:
        more = {name: value for name, value in one.items() if name != "@id"}
        kind = kinds.get(one["@type"])
        crate.add(kind(crate, dest_path=one["@id"], properties=more) if kind else ContextEntity(crate, one["@id"], more))
    for name, value in root.items():
        if name not in ("@id", "@type", "hasPart"):  # the library has added the parts
            crate.root_dataset[name] = value
    path = golden.RESULTS / NAME
    write_whole(path, json.dumps(crate.metadata.generate(), indent=1) + "\n")
    return path


def check_library() -> None:
    """Raise ModuleNotFoundError where `write` could not be done, before anything else is written."""
    import rocrate.rocrate  # noqa: F401


def stale(tables: Iterable[Table]) -> list[str]:
    """What the crate says otherwise than the results, in one line; none where it is up to date."""
    found, wanted = _read(), {one["@id"]: one for one in entities(tables)}
    found.pop(NAME, None)  # the entity of the file itself, which the library writes
    wrong = [name for name in wanted | found if not _same(found.get(name), wanted.get(name))]
    if not wrong:
        return []
    which = f"{wrong[0]}{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''}"
    return [f"{NAME}: not what the results are ({which}); `mdlm report` writes it again"]


def _same(one: Entity | None, other: Entity | None) -> bool:
    """Whether two entities say the same; the order of parts says nothing."""
    if one is None or other is None:
        return False
    return _sorted(one) == _sorted(other)


def _sorted(entity: Entity) -> Entity:
    parts = entity.get("hasPart", [])
    return entity | {"hasPart": sorted(json.dumps(part, sort_keys=True) for part in parts if isinstance(parts, list))}
