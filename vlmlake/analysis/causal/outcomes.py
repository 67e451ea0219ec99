"""What the model said under every condition, judged by one label rule and laid out over a run's examples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.answers.rules import judged, right_or_wrong, rule_named
from vlmlake.errors import VlmlakeError

KEYS = ["condition", "example"]


@dataclass(frozen=True)
class Outcomes:
    """Arrays over conditions and the examples of a Dataset, [c, n].

    rows: the place of each condition on the first axis; one without any outcome has a place, too. there: bool, whether
    there is an outcome. right: bool; an answer that the rule cannot read is not right. unparsed: bool. margin: float32,
    NaN where there is none. said: int32, a number for what the rule reads in the answer, equal for equal ones, -1 where
    it reads nothing. answers: the same by condition and example, of examples outside the Dataset too. numbers: that of
    each reading.
    """

    rows: Mapping[str, int]
    there: np.ndarray
    right: np.ndarray
    unparsed: np.ndarray
    margin: np.ndarray
    said: np.ndarray
    answers: pl.DataFrame
    numbers: Mapping[str, int]
    rule: str

    def of(self, asked: np.ndarray) -> Outcomes:
        """As if there were none of other examples. asked: [n], bool."""
        return replace(self, there=self.there & asked)

    def present(self, conditions: Iterable[str]) -> np.ndarray:
        """[n], bool: which examples have an outcome under all of these."""
        found = np.ones(self.there.shape[1], bool)
        for condition in conditions:
            found &= self.there[self.rows[condition]]
        return found

    def right_under(self, conditions: Sequence[str], places: np.ndarray) -> np.ndarray:
        """[m, places], bool."""
        return self._rows(self.right, conditions, places)

    def unparsed_under(self, conditions: Sequence[str], places: np.ndarray) -> np.ndarray:
        """[m, places], bool."""
        return self._rows(self.unparsed, conditions, places)

    def margin_under(self, conditions: Sequence[str], places: np.ndarray) -> np.ndarray:
        """[m, places], float64, NaN where there is none."""
        return self._rows(self.margin, conditions, places).astype(np.float64)

    def _rows(self, array: np.ndarray, conditions: Sequence[str], places: np.ndarray) -> np.ndarray:
        rows = [self.rows[condition] for condition in conditions]
        found: np.ndarray = array[rows][:, places]
        return found

    def said_under(self, condition: str) -> dict[str, int]:
        """By example, also of those that are not in the Dataset, what the rule reads in the answer."""
        own = self.answers.filter(condition=condition)
        return dict(zip(own["example"].to_list(), own["said"].to_list(), strict=True))

    def number_of(self, answer: str) -> int:
        """That of what the rule reads in another answer; one that nobody gave has -2."""
        read = reading(answer, self.rule)
        return self.numbers.get(read, -2) if read else -1


def reading(answer: str, rule: str) -> str | None:
    """What a rule reads in an answer: yes or no where it reads these, else its words; None where it reads nothing."""
    says = rule_named(rule).says
    return answer.strip().lower() if says is None else says(answer)


def outcomes_of(table: pl.DataFrame, data: xr.Dataset, conditions: Collection[str], rule: str) -> Outcomes:
    """table: rows of tables.OUTCOMES, of this run only; of several with one condition and example the first counts.
    conditions: all that are known.

    Raises VlmlakeError for outcomes of another condition.
    """
    unknown = set(table["condition"].unique()) - set(conditions)
    if unknown:
        raise VlmlakeError(
            f"run {data.attrs['run']} has outcomes of the condition {min(unknown)}, which is in none of its "
            "interventions: their spec.parquet is missing, make them again"
        )
    kept = table.select(*KEYS, pl.col("answer").fill_null(""), "margin").unique(KEYS, keep="first", maintain_order=True)
    texts = kept["answer"].unique(maintain_order=True).to_list()
    readings = {text: reading(text, rule) for text in texts}
    numbers = {read: number for number, read in enumerate(dict.fromkeys(filter(None, readings.values())))}
    said = pl.Series([numbers[read] if read else -1 for read in readings.values()], dtype=pl.Int32)
    kept = kept.join(pl.DataFrame({"answer": texts, "said": said}, schema_overrides={"answer": pl.String}), on="answer")
    golds = [gold if isinstance(gold, str) else None for gold in data["gold"].values]
    examples = pl.DataFrame(
        {"example": data["example"].values.tolist(), "gold": golds}, schema={"example": pl.String, "gold": pl.String}
    ).with_row_index("place")
    places = pl.DataFrame({"condition": list(conditions)}, schema={"condition": pl.String}).with_row_index("row")
    here = _with_verdicts(kept.join(examples, on="example").join(places, on="condition"), rule)
    shape = places.height, examples.height
    at = here["row"].to_numpy(), here["place"].to_numpy()
    return Outcomes(
        rows=dict(zip(places["condition"], places["row"], strict=True)),
        there=_laid_out(shape, at, np.ones(here.height, bool), False),
        right=_laid_out(shape, at, here["right"].to_numpy(), False),
        unparsed=_laid_out(shape, at, here["unparsed"].to_numpy(), False),
        margin=_laid_out(shape, at, here["margin"].cast(pl.Float32).fill_null(np.nan).to_numpy(), np.float32(np.nan)),
        said=_laid_out(shape, at, here["said"].to_numpy(), np.int32(-1)),
        answers=kept.select(*KEYS, "said"),
        numbers=numbers,
        rule=rule,
    )


def _with_verdicts(here: pl.DataFrame, rule: str) -> pl.DataFrame:
    """With the columns right and unparsed. Answers are few and outcomes many: each pair of texts is judged once."""
    pairs = here.select("answer", "gold").unique(maintain_order=True)
    scores, labelled = judged(pairs["answer"].to_list(), pairs["gold"].to_list(), rule)
    verdicts = pairs.with_columns(
        right=pl.Series(right_or_wrong(scores) == 1, dtype=pl.Boolean),
        unparsed=pl.Series(labelled & np.isnan(scores), dtype=pl.Boolean),
    )
    return here.join(verdicts, on=["answer", "gold"], nulls_equal=True)


def _laid_out(
    shape: tuple[int, int], at: tuple[np.ndarray, np.ndarray], values: np.ndarray, empty: bool | np.generic
) -> np.ndarray:
    laid = np.full(shape, empty)
    laid[at] = values
    return laid
