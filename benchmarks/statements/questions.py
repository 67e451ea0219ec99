"""The two questions that are asked in every way, as SQL and as numpy over the vectors of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

NORM = "sqrt(array_inner_product(vector, vector))"
LIST_NORM = "sqrt(list_sum(list_transform(vector, lambda x: x * x)))"
NEIGHBOURS = 10

Norms = Mapping[str, float]


def at(*layers: str) -> str:
    """A condition: some layers at prompt_last."""
    return f"layer IN ({', '.join(map(repr, layers))}) AND position = 'prompt_last'"


def norms_joined(condition: str, norm: str = NORM) -> str:
    """The average norm by label, as one writes it first."""
    return (
        f"SELECT label, avg({norm}) AS norm FROM readout_states JOIN labels USING (run, example) "
        f"WHERE {condition} GROUP BY label"
    )


def norms_first(condition: str) -> str:
    """The same, numbers in place of vectors before the join."""
    return (
        f"SELECT label, avg(norm) AS norm FROM (SELECT run, example, {NORM} AS norm FROM readout_states "
        f"WHERE {condition}) JOIN labels USING (run, example) GROUP BY label"
    )


def nearest(condition: str, example: str) -> str:
    """Ids of the examples whose vectors have the largest cosine with one's, itself among them."""
    return (
        f"WITH asked AS (SELECT vector AS other FROM readout_states WHERE example = '{example}' AND {condition}) "
        f"SELECT example FROM readout_states, asked WHERE {condition} "
        f"ORDER BY array_cosine_similarity(vector, other) DESC LIMIT {NEIGHBOURS}"
    )


def norms_of(answer: pa.Table) -> Norms:
    """What one of the statements above said."""
    return dict(zip(answer["label"].to_pylist(), answer["norm"].to_pylist(), strict=True))


def norms_by_label(vectors: np.ndarray, labels: np.ndarray) -> Norms:
    """The same of [example, hidden], in its dtype."""
    norms = np.sqrt(np.einsum("ed,ed->e", vectors, vectors))
    return {label: float(norms[labels == label].mean()) for label in np.unique(labels).tolist()}


def nearest_to(vectors: np.ndarray, example: int) -> list[int]:
    """Places of the examples that `nearest` names, in that order."""
    norms = np.sqrt(np.einsum("ed,ed->e", vectors, vectors))
    cosines = vectors @ vectors[example] / (norms * norms[example])
    found = np.argpartition(-cosines, NEIGHBOURS)[:NEIGHBOURS]
    return found[np.argsort(-cosines[found])].tolist()


def largest_difference(found: Sequence[Norms], expected: Norms) -> float:
    """Relative. Raises AssertionError if one has other labels."""
    assert all(one.keys() == expected.keys() for one in found), "other labels were found than there are"
    return max(abs(one[label] / norm - 1) for one in found for label, norm in expected.items())
