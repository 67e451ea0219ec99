"""Whether a shard's values can be: none missing inside a row's lengths, none beyond; attention, ids, roles, cells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vlmlake.store_schema.inside import BatchLengths, RowLengths, inside
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ANSWER, IMAGE, ROLES, ArraySpec
from vlmlake.store_schema.shards import largest_magnitude

ROW_SUM_TOLERANCE = 5e-3
"""How far a softmax row's sum may be from 1; float16 rounding of 650 keys stays below 1e-3."""

WHOLE_ROWS = ("attention", "prefix_attention")
"""Arrays whose rows over the keys are whole softmax rows; others of attention hold a part of one."""


@dataclass(frozen=True)
class Batch:
    """One batch as its commit and its roles tell it.

    shared: whether prefixes are computed once for all their questions, which needs a family whose every token looks
    back. prefix_roles: [prefixes, prefix tokens] of schema.ROLES, none where they cannot be read.
    """

    record: RunRecord
    number: int
    lengths: BatchLengths
    prefix_roles: np.ndarray | None

    @property
    def shared(self) -> bool:
        plan = self.record.identity.get("plan")
        return bool(plan.get("shared_prefix")) if isinstance(plan, dict) else False


def check_values(spec: ArraySpec, batch: Batch, values: np.ndarray) -> list[str]:
    """What is wrong with one shard, each kind of fault once. values: of the shard's whole shape."""
    found = _Findings(spec, batch)
    lengths = batch.lengths.along(spec.dimensions[0])
    sees_suffix = spec.name == "prefix_attention" and not batch.shared and _any_suffix_key(batch.record, values)
    for row, content in enumerate(values):
        if row >= len(lengths):
            beyond = np.argwhere(_is_there(spec, content))
            found.add("a value in a row without an example", row, beyond)
            continue
        places = inside(spec, batch.record, lengths[row], sees_suffix)
        if spec.kind == "cell":
            if batch.prefix_roles is None:
                continue
            places = [np.flatnonzero(batch.prefix_roles[row] == IMAGE)]
        _check_presence(found, spec, row, content, places)
        if spec.kind == "weight":
            _check_weights(found, batch, row, content, places, lengths[row])
        elif spec.kind in ("token_id", "role"):
            _check_tokens(found, spec, row, content, places, lengths[row])
        elif spec.kind == "cell":
            _check_cells(found, row, content, places)
    return found.told()


def check_largest(spec: ArraySpec, record: RunRecord, values: np.ndarray, said: tuple[float, ...]) -> list[str]:
    """Whether the largest |x| is what the commit says, by layer where the array has layers."""
    if not spec.is_float:
        return []
    layers = record.layers if "layer" in spec.dimensions else ("",)
    if len(said) != len(layers):
        return [f"its commit says the largest value of {len(said)} layers, there are {len(layers)}"]
    told = []
    for number, (label, largest) in enumerate(zip(layers, said, strict=True)):
        there = largest_magnitude(values[:, number] if label else values)
        if there != largest:
            told.append(f"its largest value{' of ' * bool(label)}{label} is {there:.6g}, its commit says {largest:.6g}")
    return told[:1]


@dataclass(frozen=True)
class _Findings:
    """Kinds of faults, how many places have each, and the first of them."""

    spec: ArraySpec
    batch: Batch
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, row: int, at: np.ndarray) -> None:
        """at: [places, axes but the first], or [places, some of the first of them]."""
        if len(at):
            self.counts[kind] = self.counts.get(kind, 0) + len(at)
            self.first.setdefault(kind, self._named(row, at[0]))

    def told(self) -> list[str]:
        return [
            f"{kind} at {count} place{'s' * (count > 1)}, the first {self.first[kind]}"
            for kind, count in self.counts.items()
        ]

    def _named(self, row: int, at: np.ndarray) -> str:
        record, first = self.batch.record, self.spec.dimensions[0]
        words = [f"{first} {self.batch.number * record.extents.shard(first) + row}"]
        labels = {"layer": record.layers, "position": record.positions}
        for dimension, place in zip(self.spec.dimensions[1:], at, strict=False):
            names = labels.get(dimension, ())
            words.append(names[place] if place < len(names) else f"{dimension} {place}")
        return ", ".join(words)


def _is_there(spec: ArraySpec, content: np.ndarray) -> np.ndarray:
    there: np.ndarray = ~np.isnan(content) if spec.is_float else content != spec.fill_value
    return there


def _any_suffix_key(record: RunRecord, values: np.ndarray) -> bool:
    """A prefix that was not shared may see its suffix; whether it does, the record of the run does not say."""
    return bool((~np.isnan(values[..., record.extents.prefix_tokens :])).any())


def _check_presence(found: _Findings, spec: ArraySpec, row: int, content: np.ndarray, places: list[np.ndarray]) -> None:
    there = _is_there(spec, content)
    within = there[np.ix_(*places)]
    total, filled = int(np.count_nonzero(there)), int(np.count_nonzero(within))
    if filled < within.size:
        at = np.argwhere(~within)
        found.add("no value inside the lengths", row, _unfolded(places, at))
    if total > filled:
        there[np.ix_(*places)] = False
        found.add("a value beyond the lengths", row, np.argwhere(there))


def _unfolded(places: list[np.ndarray], at: np.ndarray) -> np.ndarray:
    """Places in the shard of elements given by their number among the places of each axis."""
    return np.stack([axis[column] for axis, column in zip(places, at.T, strict=False)], axis=1)


def _check_weights(
    found: _Findings, batch: Batch, row: int, content: np.ndarray, places: list[np.ndarray], lengths: RowLengths
) -> None:
    layers, *axes = places
    masked = _later(found.spec, batch, lengths, places)
    for layer in layers:
        weights = content[layer][np.ix_(*axes)].astype(np.float32)
        sums = weights.sum(-1)
        whole = found.spec.name in WHOLE_ROWS
        wrong = np.abs(sums - 1) > ROW_SUM_TOLERANCE if whole else sums > 1 + ROW_SUM_TOLERANCE
        here = [np.array([layer]), *axes]
        kind = "attention that does not sum to 1" if whole else "attention that sums to more than 1"
        found.add(kind, row, _unfolded(here, np.argwhere(wrong[None])))
        if weights.min(initial=0) < 0:
            found.add("attention below 0", row, _unfolded(here, np.argwhere(weights[None] < 0)))
        if masked is not None and weights[..., masked].max(initial=0) > 0:
            found.add("attention to a later token", row, _unfolded(here, np.argwhere((weights * masked)[None] > 0)))


def _later(spec: ArraySpec, batch: Batch, lengths: RowLengths, places: list[np.ndarray]) -> np.ndarray | None:
    """[queries, keys]: keys that a query cannot see; none where it can see all of them, as far as is known.

    Without a shared prefix the tokens of a prompt may see one another both ways; an answer's tokens never do.
    """
    queries, keys = places[-2], places[-1]
    if spec.name == "attention":
        seen_up_to = queries if batch.shared else np.maximum(queries, lengths.suffix - 1)
        return (keys - batch.record.extents.prefix_tokens)[None] > seen_up_to[:, None]
    if spec.name == "prefix_attention" and batch.shared:
        return keys[None] > queries[:, None]
    return None


def _check_tokens(
    found: _Findings, spec: ArraySpec, row: int, content: np.ndarray, places: list[np.ndarray], lengths: RowLengths
) -> None:
    values = content[places[0]]
    limit = len(ROLES) if spec.kind == "role" else found.batch.record.extents.vocab
    known = (values >= 0) & (values < limit) | (values == spec.fill_value)
    found.add("an unknown role" if spec.kind == "role" else "an id beyond the vocabulary", row, np.argwhere(~known))
    of_answer = np.arange(len(values)) >= lengths.suffix
    if spec.name == "token_role":
        found.add("the wrong number of answer tokens", row, np.argwhere((values == ANSWER) != of_answer))
    elif spec.name == "token_id":
        other = values[lengths.suffix :] != np.array(lengths.token_ids[: lengths.answer])
        found.add("another id than the answer's", row, lengths.suffix + np.argwhere(other))
    else:
        found.add("an answer's role", row, np.argwhere(values == ANSWER) if spec.kind == "role" else values[:0])


def _check_cells(found: _Findings, row: int, content: np.ndarray, places: list[np.ndarray]) -> None:
    """The image's tokens go through its grid row by row."""
    cells = content[places[0]]
    if not len(cells) or (cells < 0).any():
        return
    length = int(cells.max()) + 1
    wanted = _grid(found.spec.name, len(cells), length)
    wrong = np.ones(len(cells), bool) if wanted is None else cells != wanted
    found.add("no cell of a grid", row, _unfolded(places, np.argwhere(wrong)))


def _grid(name: str, tokens: int, length: int) -> np.ndarray | None:
    """Rows or columns of so many tokens in a grid of so many rows or columns; none where there is no such grid."""
    if tokens % length:
        return None
    numbers = np.arange(tokens)
    return numbers % length if name == "image_column" else numbers // (tokens // length)
