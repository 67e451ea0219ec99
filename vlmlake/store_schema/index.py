"""What a lake holds, in one file, for readers that cannot list its folders: a web server's."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlmlake.errors import DamagedError
from vlmlake.store_schema import json_text, paths, seals, tables
from vlmlake.store_schema.storage import Storage

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
"""Of runs, analyses and their settings: nothing that leads out of a folder, is hidden, or changes a terminal."""


@dataclass(frozen=True)
class Index:
    """runs: names of the runs. findings: paths of the tables that analyses wrote."""

    runs: tuple[str, ...]
    findings: tuple[str, ...]

    def of(self, table: str) -> tuple[str, ...]:
        """Those of one of tables.FINDINGS."""
        return tuple(path for path in self.findings if path.startswith(f"{table}/"))


def listed_index(storage: Storage) -> Index:
    """What is there now. Folders with other names than NAME are not looked at."""
    return Index(listed_runs(storage), listed_findings(storage, tuple(tables.FINDINGS)))


def listed_runs(storage: Storage) -> tuple[str, ...]:
    """Names of the runs that are there now; all of them asked for together."""
    folders = _folders_in(storage, [paths.RUNS])
    records = storage.entries_of(folders)
    names = [posixpath.basename(folder) for folder in folders]
    return tuple(
        name
        for name, entries in zip(names, records, strict=True)
        if any(f"{paths.RUNS}/{name}/{entry.name}" == paths.run_record(name) for entry in entries)
    )


def listed_findings(storage: Storage, names: Sequence[str], runs: Sequence[str] | None = None) -> tuple[str, ...]:
    """Paths of what there is now for some of tables.FINDINGS, of some runs or of all; a round of requests a level."""
    analyses = _folders_in(storage, names)
    if runs is None:
        folders = _folders_in(storage, analyses)
    else:
        folders = [f"{analysis}/{run}" for analysis in analyses for run in runs]
    listed = zip(folders, storage.entries_of(folders), strict=True)
    found = [f"{folder}/{entry.name}" for folder, entries in listed for entry in entries if not entry.is_folder]
    return tuple(path for path in found if is_finding(path))


def findings_of(storage: Storage, names: Sequence[str], runs: Sequence[str] | None = None) -> tuple[str, ...]:
    """The same wherever the lake lies: what the index file says, where the storage lists nothing.

    Raises DamagedError where that file is damaged or missing.
    """
    if storage.listable:
        return listed_findings(storage, names, runs)
    index = written_index(storage)
    paths_of = [path for name in names for path in index.of(name)]
    return tuple(path for path in paths_of if runs is None or path.split("/")[2] in runs)


def written_index(storage: Storage) -> Index:
    """What the lake's index file says. Raises DamagedError if it is damaged, missing, or names what no lake holds."""
    where = f"{paths.INDEX} of {storage.url}"
    try:
        content = storage.read(paths.INDEX)
    except FileNotFoundError as error:
        raise DamagedError(
            f"there is no {where}: `vlmlake finish` writes it where the lake can be written to"
        ) from error
    if not seals.is_whole(content):
        raise DamagedError(f"{where} is damaged: its checksum does not hold")
    try:
        fields = json_text.parse(content)
        index = Index(tuple(fields["runs"]), tuple(fields["findings"]))
        sound = all(map(NAME.fullmatch, index.runs)) and all(map(is_finding, index.findings))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    if not sound:
        raise DamagedError(f"{where} names files outside its folders")
    return index


def refresh_index(storage: Storage) -> None:
    """Write what is there, finished runs alone, until what was written is what is there.

    Of several that finish at once the last to write looks again after the others' runs were finished.
    """
    told = None
    while (now := _finished(storage)) != told:
        fields = {"runs": now.runs, "findings": now.findings, seals.KEY: seals.BLANK}
        storage.write(paths.INDEX, seals.sealed(json.dumps(fields, indent=2).encode() + b"\n"))
        told = now


def is_finding(path: str) -> bool:
    """Whether a path is that of a table that an analysis wrote."""
    root, *names = path.split("/")
    return (
        root in tables.FINDINGS
        and len(names) == 3
        and names[2].endswith(".parquet")
        and all(map(NAME.fullmatch, names))
    )


def _finished(storage: Storage) -> Index:
    index = listed_index(storage)
    return Index(tuple(name for name in index.runs if storage.exists(paths.batch_list(name))), index.findings)


def _folders_in(storage: Storage, folders: Sequence[str]) -> list[str]:
    """Paths of the folders directly below some, asked for together; those with other names than NAME are left out."""
    listed = zip(folders, storage.entries_of(folders), strict=True)
    return [f"{folder}/{entry.name}" for folder, entries in listed for entry in entries if NAME.fullmatch(entry.name)]
