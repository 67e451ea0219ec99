"""What the model says under a condition, as rows of tables.OUTCOMES."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from vlmlake.answers.rules import RULES, is_yes_or_no, judged, right_or_wrong
from vlmlake.answers.spellings import NONE, Vocabulary
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.requests.conditions import Condition
from vlmlake.ingest.interventions.texts import Texts
from vlmlake.store_schema import tables
from vlmlake.store_schema.run import Run

RIGHT, WRONG, UNPARSED = "right", "wrong", "unparsed"


@dataclass(frozen=True)
class Asked:
    """Examples that are asked about. questions: [examples], for each the row of the logits that tells of it. golds:
    gold answers; spellings: [examples, s], their token ids, NONE beyond their number.
    """

    examples: tuple[str, ...]
    questions: np.ndarray
    golds: tuple[str | None, ...]
    spellings: np.ndarray


@dataclass(frozen=True)
class Reader:
    """What decides how logits and tokens of one run are read."""

    run: str
    intervention: str
    vocabulary: Vocabulary
    texts: Texts

    def asked(self, rows: pl.DataFrame, questions: Sequence[int]) -> Asked:
        """rows: of tables.EXAMPLES. questions: for each the row of the logits."""
        golds = tuple(rows["gold"].to_list())
        return Asked(tuple(rows["example"]), np.asarray(questions, np.int64), golds, self.vocabulary.golds(golds))


class Outcomes:
    """Rows of tables.OUTCOMES of one batch as they come; `keys` are their conditions and examples."""

    def __init__(self, reader: Reader, asked: Asked) -> None:
        self._reader, self._asked = reader, asked
        self._columns: dict[str, list[Any]] = {name: [] for name in tables.OUTCOMES.names}

    def __len__(self) -> int:
        return len(self._columns["example"])

    @property
    def keys(self) -> Iterator[tuple[str, str]]:
        return zip(self._columns["condition"], self._columns["example"], strict=True)

    def add(
        self,
        condition: Condition,
        route: str,
        logits: torch.Tensor,
        ids: Sequence[tuple[int, ...] | None],
        wanted: Callable[[Condition, str], bool],
    ) -> None:
        """One condition's answers, for the examples that are wanted.

        logits: [questions, vocab], float32. ids: the tokens of each question's answer; none where it is not known.

        Raises VlmlakeError if a logit is not a number.
        """
        if bool(logits.isnan().any()):
            raise VlmlakeError(
                f"under the condition {condition.id} ({condition.set}) the model's logits hold NaN: load it in a wider "
                "dtype"
            )
        asked, reader = self._asked, self._reader
        said = [ids[question] for question in asked.questions]
        kept = [
            (place, one, example)
            for place, (one, example) in enumerate(zip(said, asked.examples, strict=True))
            if one is not None and wanted(condition, example)
        ]
        if not kept:
            return
        places, told, examples = (list(column) for column in zip(*kept, strict=True))
        answers = [reader.texts.text(one) for one in told]
        stopped = [one[-1] in reader.texts.ends for one in told]
        numbers = _numbers(logits, asked, reader.vocabulary)
        new: dict[str, list[Any]] = {
            "example": examples,
            "answer": answers,
            "answer_tokens": [len(one) - end for one, end in zip(told, stopped, strict=True)],
            "token_ids": told,
            "finish": ["stop" if end else "length" for end in stopped],
            "labels": [labels_of(answer, asked.golds[place]) for answer, place in zip(answers, places, strict=True)],
            **{name: values[places].tolist() for name, values in numbers.items()},
        }
        common = {"run": reader.run, "intervention": reader.intervention, "condition": condition.id, "route": route}
        for name, column in self._columns.items():
            column += new[name] if name in new else [common[name]] * len(places)

    def encoded(self) -> bytes:
        """As one sealed Parquet file."""
        columns = {
            field.name: pa.array(self._columns[field.name], field.type, from_pandas=True) for field in tables.OUTCOMES
        }
        return tables.encode(pa.table(columns, schema=tables.OUTCOMES))


@lru_cache(maxsize=1 << 16)
def labels_of(answer: str, gold: str | None) -> list[dict[str, str]]:
    """Under every rule that can compare with the gold answer."""
    found = []
    for rule in RULES:
        scores, fits = judged([answer], [gold], rule)
        if fits[0]:
            verdict = right_or_wrong(scores)[0]
            label = UNPARSED if np.isnan(verdict) else RIGHT if verdict else WRONG
            found.append({"rule": rule, "label": label})
    return found


def _numbers(logits: torch.Tensor, asked: Asked, vocabulary: Vocabulary) -> Mapping[str, np.ndarray]:
    """Columns of tables.OUTCOMES for each example, [examples], float64, NaN where there is none."""
    questions = torch.from_numpy(asked.questions).to(logits.device)
    golds = torch.from_numpy(asked.spellings).to(logits.device)
    most = min(logits.shape[-1], golds.shape[1] + 2)
    best, tokens = logits.topk(most)
    first = best[:, 0] - logits.logsumexp(-1)
    own, its = best[questions], tokens[questions]
    is_gold = (its[:, :, None] == golds[:, None, :]).any(-1)
    other = own.masked_fill(is_gold, -torch.inf).amax(-1)
    spelled = logits[questions[:, None], golds.clamp(min=0)].masked_fill(golds == NONE, -torch.inf).amax(-1)
    told = torch.from_numpy((asked.spellings != NONE).any(axis=1)).to(logits.device)
    nan = torch.full_like(spelled, torch.nan)
    yes, no = vocabulary.word("yes"), vocabulary.word("no")
    said = nan
    if len(yes) and len(no):
        asks = torch.tensor([isinstance(gold, str) and is_yes_or_no(gold) for gold in asked.golds]).to(logits.device)
        difference = logits[:, torch.from_numpy(yes)].amax(-1) - logits[:, torch.from_numpy(no)].amax(-1)
        said = torch.where(asks, difference[questions], nan)
    found = {
        "first_log_prob": first[questions],
        "first_gap": own[:, 0] - own[:, 1],
        "first_logit": own[:, 0],
        "gold_logit": torch.where(told, spelled, nan),
        "margin": torch.where(told, spelled - other, nan),
        "yes_minus_no": said,
    }
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def present(run: Run) -> pl.DataFrame:
    """The outcomes of a run that are there, each condition and example once."""
    return run.findings("outcomes").unique(["condition", "example"], keep="first", maintain_order=True)
