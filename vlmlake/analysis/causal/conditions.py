"""What was changed: the conditions of every intervention of a run, checked on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import polars as pl

from vlmlake.errors import NotKeptError, VlmlakeError

NONE, MASK = "none", "mask"
CONTROL, RANDOM = "control", "random"
MEMBERS = (CONTROL, RANDOM)
"""Sets of which there are several that differ by chance."""
SETS = {
    NONE: (NONE,),
    "ablate": ("top", "bottom", CONTROL, "null", "given"),
    "heads": ("head",),
    "bypass": ("attention", "mlp", "block"),
    "patch": ("into_right", "into_wrong"),
    MASK: ("high", "low", RANDOM),
}
"""By kind."""
NEEDED = {"ablate": ("layer", "k"), "heads": ("layer", "head"), "bypass": ("layer",), "patch": ("layer",)}
NEEDED_OF_MASKS = ("share",)
TELLING = ("ranking", "rule", "site", "mode")
"""What two conditions may differ in whose rows have the same metric, layer, position, head and `at`."""


@dataclass(frozen=True)
class Condition:
    """One row of tables.INTERVENTIONS. told: what tells it from another whose results would look alike, if need be."""

    condition: str
    kind: str
    set: str
    member: int | None
    ranking: str | None
    rule: str | None
    site: str | None
    layer: str | None
    head: int | None
    mode: str | None
    positions: str | None
    k: int | None
    share: float | None
    pairs: tuple[tuple[str, str], ...] = ()
    told: str | None = None

    @property
    def at(self) -> float | None:
        """Its place on a curve: the number of neurons, or the share of patches."""
        return self.share if self.kind == MASK else self.k

    @property
    def place(self) -> tuple[object, ...]:
        """What the columns of results tell of it."""
        return self.set, self.layer, self.positions, self.head, self.at

    def beside(self, other: Condition) -> bool:
        """Whether both change as much, at the same place and in the same way. A drawn mask hangs on no layer."""
        place = () if self.kind == MASK else ("layer",)
        names = ("kind", "site", "mode", "positions", "k", "share", *place)
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True)
class Intervention:
    """name: its id. none: the condition under which nothing is changed. conditions: all others, each once. examples:
    ids of those that it asks about; None where it does not say, for all that have outcomes.
    """

    name: str
    none: str
    conditions: tuple[Condition, ...]
    examples: frozenset[str] | None = None

    def one_by_one(self) -> list[Condition]:
        """Those that differ from all others by more than chance."""
        return [one for one in self.conditions if one.set not in MEMBERS]

    def members(self, which: str) -> list[tuple[Condition, ...]]:
        """Of one of MEMBERS the groups that differ by chance alone, each in the order of their numbers."""
        groups: dict[Condition, list[Condition]] = {}
        for one in self.conditions:
            if one.set == which:
                groups.setdefault(replace(one, condition="", member=None), []).append(one)
        return [tuple(sorted(group, key=lambda one: one.member or 0)) for group in groups.values()]


def interventions_of(rows: pl.DataFrame, run: str) -> list[Intervention]:
    """The interventions of a run in the order of the rows. rows: of tables.INTERVENTIONS, of this run only.

    Raises NotKeptError if there are none, VlmlakeError for one that does not have exactly one condition `none`, or has
    one of an unknown kind or set, without what its kind needs, or with two donors for an example.
    """
    if rows.is_empty():
        raise NotKeptError(f"run {run} has no interventions: `vlmlake ablate` or `vlmlake mask` makes them")
    found = []
    for (name,), part in rows.group_by("intervention", maintain_order=True):
        where = f"intervention {name} of run {run}"
        conditions = list(dict.fromkeys(_condition(row, where) for row in part.iter_rows(named=True)))
        unchanged = [one.condition for one in conditions if one.kind == NONE]
        if len(unchanged) != 1:
            raise VlmlakeError(f"{where} has {len(unchanged)} conditions of kind none, expected one: make it again")
        others = _told_apart([one for one in conditions if one.kind != NONE])
        (asked,) = part.filter(kind=NONE)["examples"].unique(maintain_order=True).to_list()[:1]
        examples = None if asked is None else frozenset(asked)
        found.append(Intervention(str(name), unchanged[0], tuple(others), examples))
    return found


def _condition(row: dict[str, object], where: str) -> Condition:
    columns = [field.name for field in fields(Condition) if field.name not in ("pairs", "told")]
    pairs = tuple((pair["example"], pair["donor"]) for pair in row["pairs"] or ())  # type: ignore[attr-defined]
    one = Condition(**{name: row[name] for name in columns}, pairs=pairs)  # type: ignore[arg-type]
    named = f"{where}: condition {one.condition}"
    if one.set not in SETS.get(one.kind, ()):
        known = "; ".join(f"{kind}: {', '.join(sets)}" for kind, sets in SETS.items())
        raise VlmlakeError(f"{named} is of kind {one.kind} and set {one.set}, expected one of {known}")
    needed = (*NEEDED.get(one.kind, NEEDED_OF_MASKS if one.kind == MASK else ()),)
    lacking = [name for name in (*needed, *(("member",) if one.set in MEMBERS else ())) if getattr(one, name) is None]
    if lacking:
        raise VlmlakeError(f"{named}, of set {one.set}, has no {' and no '.join(lacking)}: make the intervention again")
    if len({example for example, _ in pairs}) < len(pairs):
        raise VlmlakeError(f"{named} has several donors for one example, expected one each")
    return one


def _told_apart(conditions: Sequence[Condition]) -> list[Condition]:
    """The same, those whose results would look alike with what tells them apart."""
    alike: dict[tuple[object, ...], list[Condition]] = {}
    for one in conditions:
        alike.setdefault((*one.place, one.member), []).append(one)
    told = []
    for one in conditions:
        group = [asdict(other) for other in alike[*one.place, one.member]]
        differing = [name for name in TELLING if len({other[name] for other in group}) > 1]
        words = " ".join(f"{name} {getattr(one, name)}" for name in differing)
        told.append(replace(one, told=words or None))
    return told
