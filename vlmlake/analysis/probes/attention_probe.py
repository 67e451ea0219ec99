"""The attention probe: correctness read from where prompt_last looks on the image, over all blocks together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmlake.analysis.attention import AttentionParameters, image_maps
from vlmlake.analysis.attention.rows import require_tolerance
from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.population import population
from vlmlake.analysis.probes.one_probe import FoldParameters, OneProbeResult, one_probe
from vlmlake.analysis.probes.out_of_fold import design
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST


@dataclass(frozen=True)
class AttentionProbeParameters(FoldParameters):
    """row_sum_tolerance: how far a stored softmax row's sum may be from 1, above 0 and below 1, as in `attention`.

    Raises VlmlakeError as FoldParameters, and for a tolerance outside these bounds.
    """

    row_sum_tolerance: float = AttentionParameters.row_sum_tolerance

    def __post_init__(self) -> None:
        super().__post_init__()
        require_tolerance(self.row_sum_tolerance)


DEFAULTS = AttentionProbeParameters()


def attention_probe(
    source: Source, *, rule: str = DEFAULT_RULE, seed: int = 0, parameters: AttentionProbeParameters = DEFAULTS
) -> OneProbeResult:
    """AUROC of correctness out of fold from the image maps of all blocks, with the folds and the solver of `probes`.

    Features: the maps m of every block at prompt_last, head mean, each of sum 1 over the image, side by side: blocks x
    image tokens numbers an example, 0 where an example has fewer image tokens than another. Rows and per-example
    numbers as `one_probe` says, metric `attention_probe`.

    Method: the attention probe of arXiv 2605.08200 (published: 0.725).

    Raises VlmlakeError for a single class, fewer images than folds, too few errors, maps that are all the same, an
    example without image tokens, or damaged attention rows, among them those that give the image nothing.
    """
    data = dataset_of(source)
    chosen = population(data, rule=rule)
    plan = design(chosen.correct, chosen.images, parameters.folds, parameters.inner_folds, seed)
    maps = image_maps(data, parameters.row_sum_tolerance).values[chosen.places]
    return one_probe(data, chosen, flat_maps(maps), "attention_probe", plan, seed)


def flat_maps(maps: np.ndarray) -> np.ndarray:
    """Maps [n, L, S] of an example side by side, [n, at most L S], without the places where all examples are the same.

    maps: 0 where an example has no image token; every one has some.

    Raises VlmlakeError if all examples have the same map.
    """
    flat = maps.reshape(len(maps), -1)
    varying = np.ptp(flat, axis=0) > 0
    if not varying.any():
        raise VlmlakeError(f"the attention maps at {PROMPT_LAST} are the same for all {len(maps)} examples")
    kept: np.ndarray = flat[:, varying]
    return kept


ATTENTION_PROBE = Analysis(
    "attention_probe",
    "a linear probe of correctness on the image maps of all blocks",
    attention_probe,
    reads=("attention|readout_attention", "prefix_token_role"),
    labelled=True,
    parameters=DEFAULTS,
)
