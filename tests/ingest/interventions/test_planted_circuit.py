"""Two models of one function: ablation finds the coordinate that the answer goes through, and none where there is none.

Sizes, means and rankings are of the images of the lakes; what ablation costs is measured on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xarray as xr

from tests.ingest.jobs import job_of, run_job
from tests.ingest.planted_circuit import HIDDEN, NEURON, NO, YES, save_bottleneck, save_distributed
from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.answers.rules import correctness
from vlmlake.ingest.families import load_family
from vlmlake.ingest.interventions.edited.edits import Edit
from vlmlake.ingest.interventions.edited.suffix import Started, start
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.work import plan_work, survey_job

RANKED_ON, SCORED_ON = "shapes:40@1", "shapes:40@2"
LAST = 3
"""The last block; sizes, means and edits are of the residual stream after it unless another is named."""
FEW_POINTS = 0.02
RANKINGS = ("attribution", "auroc", "d_act", "l1")
OTHERS = np.delete(np.arange(HIDDEN), NEURON)


@dataclass(frozen=True)
class Scored:
    """The images that ablation is scored on, run up to a block. gold: of every item. times: how many examples ask it;
    with those, as many golds are yes as no.
    """

    started: list[Started]
    gold: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, model: Path, lake: Path, block: int) -> Scored:
        job = job_of(model, SCORED_ON, lake)
        family, survey = load_family(job.model), survey_job(job)
        work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
        batches = load_ahead(work, family, range(len(work.batches)))
        items = [work.items[number] for batch in work.batches for number in batch.examples]
        return cls(
            [start(family, asked, block, shared=block > 0) for _, asked in batches],
            np.array([survey.examples[item.examples[0]].gold for item in items]),
            np.array([len(item.examples) for item in items]),
        )

    def logits(self, conditions) -> np.ndarray:
        """[conditions, items, vocab]."""
        return np.concatenate([one.logits(conditions, "prompt_last").numpy() for one in self.started], axis=1)

    def answers(self, conditions) -> np.ndarray:
        """[conditions, items], text."""
        return np.array(self.started[0].family.vocabulary)[self.logits(conditions).argmax(axis=2)]

    def accuracies(self, conditions) -> np.ndarray:
        """[conditions], share of the examples."""
        return np.array(
            [np.average(correctness(said, self.gold), weights=self.times) for said in self.answers(conditions)]
        )


@dataclass(frozen=True)
class Planted:
    model: Path
    lake: str
    data: xr.Dataset

    def states(self, block: int) -> np.ndarray:
        """[examples, HIDDEN] at prompt_last, after a block."""
        return self.data["readout_states"].sel(layer=f"block_{block}", position="prompt_last").values

    @property
    def sizes(self) -> np.ndarray:
        """[HIDDEN], the root of the mean square after the last block."""
        return np.sqrt((self.states(LAST) ** 2).mean(axis=0))

    @property
    def towards(self) -> np.ndarray:
        """[HIDDEN], how the unembedding reads yes less no."""
        texts = self.data["token_text"].values.tolist()
        unembedding = self.data["unembedding"].values
        return unembedding[texts.index(YES)] - unembedding[texts.index(NO)]

    def ranking(self, name: str) -> pl.DataFrame:
        """Of the residual stream after the last block, by rank."""
        rankings = open_lake(self.lake).table("rankings")
        return rankings.filter(ranking=name, site="resid", layer=f"block_{LAST}").sort("rank")

    def mean(self, neurons, block: int = LAST) -> list[Edit]:
        """The condition that sets these to their means."""
        values = self.states(block).mean(axis=0)
        return [Edit("resid", block, tuple(map(int, neurons)), tuple(map(float, values[neurons])))]


def planted(save, folder: Path, checkpoint: Path) -> Planted:
    model = save(folder / "model", checkpoint)
    job = job_of(model, RANKED_ON, folder / "lake")
    run = run_job(job)
    analyze(job.lake, ["neurons"])
    return Planted(model, job.lake, run.dataset())


@pytest.fixture(scope="module")
def bottleneck(checkpoints, tmp_path_factory) -> Planted:
    return planted(save_bottleneck, tmp_path_factory.mktemp("bottleneck"), checkpoints["llava"])


@pytest.fixture(scope="module")
def distributed(checkpoints, tmp_path_factory) -> Planted:
    return planted(save_distributed, tmp_path_factory.mktemp("distributed"), checkpoints["llava"])


@pytest.fixture(scope="module")
def original(checkpoints, tmp_path_factory) -> Scored:
    return Scored.of(checkpoints["llava"], tmp_path_factory.mktemp("lake"), LAST)


@pytest.fixture(scope="module")
def scored(bottleneck, distributed, tmp_path_factory) -> dict[str, Scored]:
    models = {"bottleneck": bottleneck.model, "distributed": distributed.model}
    return {name: Scored.of(model, tmp_path_factory.mktemp("lake"), LAST) for name, model in models.items()}


def test_both_are_the_trained_models_function(original, scored):
    wanted = original.logits([[]])
    assert original.accuracies([[]]) == pytest.approx(0.85, abs=0.05)
    assert np.average(original.gold == "yes", weights=original.times) == 0.5
    for found in scored.values():
        np.testing.assert_allclose(found.logits([[]]), wanted, atol=1e-4, rtol=0)


def test_the_answer_leaves_through_one_coordinate_or_through_all_evenly(bottleneck, distributed):
    for each in (bottleneck, distributed):
        assert (each.data["final_norm"].values == 1).all()
    assert abs(bottleneck.towards[OTHERS]).max() < 1e-6 < abs(bottleneck.towards[NEURON])
    np.testing.assert_allclose(abs(distributed.towards), abs(distributed.towards).mean(), rtol=1e-4)


def test_the_bottleneck_is_no_larger_than_its_neighbours(bottleneck):
    """So that controls of its size are there: these are most of the others."""
    ratio = bottleneck.sizes / bottleneck.sizes[NEURON]
    assert 0.25 < (ratio < 1).mean() < 0.75
    assert ((ratio > 2 / 3) & (ratio < 3 / 2)).sum() > 30


def test_ablating_the_bottleneck_leaves_one_answer_and_chance(bottleneck, scored):
    condition = bottleneck.mean([NEURON])
    assert scored["bottleneck"].accuracies([condition]) == pytest.approx(0.5, abs=0.01)
    said, times = scored["bottleneck"].answers([condition])[0], scored["bottleneck"].times
    assert max(np.average(said == word, weights=times) for word in (YES, NO)) > 0.98


def test_ablating_anything_else_does_nothing(bottleneck, scored):
    """Alone or many at once, however large: all that they change in yes less no is a positive factor, 1 / rms."""
    whole, *rest = scored["bottleneck"].accuracies([[], *(bottleneck.mean([other]) for other in OTHERS)])
    assert abs(np.array(rest) - whole).max() < 0.01
    rng = np.random.default_rng(0)
    sets = [rng.choice(OTHERS, count, replace=False) for count in (5, 32, 64, 96) for _ in range(5)]
    assert abs(scored["bottleneck"].accuracies([bottleneck.mean(chosen) for chosen in sets]) - whole).max() < 0.01


def test_before_the_last_block_the_bottleneck_can_be_gone_round(bottleneck, tmp_path):
    """The last block writes the answer again from what the other coordinates hold."""
    found = Scored.of(bottleneck.model, tmp_path / "lake", LAST - 1)
    whole, without = found.accuracies([[], bottleneck.mean([NEURON], LAST - 1)])
    assert 0.75 < without < whole


def test_no_coordinate_of_the_distributed_model_matters_nor_do_the_leading_five(distributed, scored):
    whole, *rest = scored["distributed"].accuracies([[], *(distributed.mean([one]) for one in range(HIDDEN))])
    assert min(rest) > whole - FEW_POINTS
    leading = [distributed.ranking(name)["neuron"].to_numpy()[:5] for name in RANKINGS]
    assert scored["distributed"].accuracies([distributed.mean(five) for five in leading]).min() > whole - FEW_POINTS


def test_the_distributed_answer_falls_with_the_number_of_coordinates_ablated(distributed, scored):
    """Redundancy carries it past a half; seven eighths are too many."""
    rng = np.random.default_rng(0)
    sets = {count: [rng.choice(HIDDEN, count, replace=False) for _ in range(10)] for count in (64, 96, 112)}
    whole = scored["distributed"].accuracies([[]])[0]
    drops = {
        count: whole - scored["distributed"].accuracies([distributed.mean(chosen) for chosen in several]).mean()
        for count, several in sets.items()
    }
    assert drops[64] < 0.05 < drops[96] < drops[112]
    assert drops[112] > 0.25


def test_attribution_gives_all_of_the_answer_to_the_bottleneck(bottleneck):
    found = bottleneck.ranking("attribution")
    assert found["neuron"][0] == NEURON
    assert found["score"][0] / found["score"].sum() == pytest.approx(1, abs=1e-4)


def test_rankings_by_correctness_do_not_single_the_bottleneck_out(bottleneck):
    """Its neighbours tell right from wrong answers as well as it does, with no effect on them."""
    for name in RANKINGS[1:]:
        assert bottleneck.ranking(name)["neuron"][0] != NEURON


def test_in_the_distributed_model_no_coordinate_stands_out(distributed, bottleneck):
    scores = distributed.ranking("attribution")["score"].to_numpy()
    assert scores.sum() == pytest.approx(bottleneck.ranking("attribution")["score"].sum(), abs=1e-3)
    assert abs(scores).max() < 0.05 * scores.sum()
    assert abs(scores[0]) < 1.5 * abs(scores[1])
