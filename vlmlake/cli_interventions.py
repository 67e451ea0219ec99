"""Verbs that change something in the model or the images and ask again: only what can come out otherwise is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlake import cli_options as options
from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from vlmlake.ingest.interventions.requests.subject import Request

WHAT, HOW = "What is changed", "How it is run"

Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of what is drawn by chance.", rich_help_panel=WHAT)]
Positions = Annotated[
    str,
    typer.Option(
        help="Tokens that are edited: all, the answer's too, or prompt_last, which predicts it.", rich_help_panel=WHAT
    ),
]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Say what it would cost, and stop.", rich_help_panel=HOW)]
Route = Annotated[
    str,
    typer.Option(
        help="auto is the cheapest exact one for each condition; algebra, suffix or full.", rich_help_panel=HOW
    ),
]
AnswerTokens = Annotated[
    int | None, typer.Option(help="Longest answer, in tokens; the run's by default.", rich_help_panel=options.ANSWERS)
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", help="Blocks, as in block_3; several times, or all by default.", rich_help_panel=WHAT),
]


def ablate(
    url: options.Url,
    run: options.OneRun = None,
    ranking: Annotated[
        str, typer.Option(help="l1, d_act, auroc or attribution, from `analyze neurons`.", rich_help_panel=WHAT)
    ] = "l1",
    site: Annotated[
        str, typer.Option(help="resid, mlp_out, attn_out or head_out: where neurons are.", rich_help_panel=WHAT)
    ] = "resid",
    layer: Layers = None,
    top: Annotated[
        str, typer.Option(help="Sizes of the sets, below 1 as a share of the site.", rich_help_panel=WHAT)
    ] = "1,5,10,50,0.5",
    bottom: Annotated[
        bool, typer.Option("--bottom/--no-bottom", help="The least of the ranking, too.", rich_help_panel=WHAT)
    ] = True,
    controls: Annotated[
        int, typer.Option(min=0, help="Drawn sets for each size, of the same norms.", rich_help_panel=WHAT)
    ] = 100,
    null_layer: Annotated[
        str | None, typer.Option(help="Where the same should do nothing; block_0 by default.", rich_help_panel=WHAT)
    ] = None,
    neurons: Annotated[
        str | None, typer.Option(help="These in place of a ranking's, as in 1512,1360.", rich_help_panel=WHAT)
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Attention heads, each alone: all, or as in 0,3.", rich_help_panel=WHAT)
    ] = None,
    bypass: Annotated[
        str | None, typer.Option(help="Whole writes of blocks: attention, mlp, block.", rich_help_panel=WHAT)
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="mean, what it is on average, or zero.", rich_help_panel=WHAT)
    ] = None,
    positions: Positions = "all",
    seed: Seed = 0,
    rule: options.Rule = "pope_official",
    where: options.Where = None,
    plan: OnlyPlan = False,
    route: Route = "auto",
    answer_tokens: AnswerTokens = None,
    worker: options.WorkerOf = None,
    model: options.ModelNow = None,
    device: options.Device = "cpu",
    trust_remote_code: options.TrustRemoteCode = False,
    dataset: options.DatasetsNow = None,
    images: options.Images = None,
    column: options.Columns = None,
    storage_option: options.StorageOptions = None,
) -> None:
    """Take neurons, heads or whole writes of blocks away and ask again; what is there already is not run again.

    Example: vlmlake ablate ./lake --run tiny-llava --ranking attribution --layer block_3 --top 1,5,0.5
    """
    from vlmlake.ingest.interventions.requests.ablation import Ablation, parse_sizes
    from vlmlake.ingest.interventions.requests.bypass import Bypass
    from vlmlake.ingest.interventions.requests.conditions import MEAN, ZERO
    from vlmlake.ingest.interventions.requests.heads import HeadAblation

    if sum(one is not None for one in (neurons, heads, bypass)) > 1:
        raise VlmlakeError("--neurons, --heads and --bypass each say what is ablated: expected one of them")
    request: Request
    if bypass is not None:
        request = Bypass(tuple(bypass.split(",")), tuple(layer or ()), positions)
    elif heads is not None:
        chosen = () if heads == "all" else _numbers("--heads", heads)
        request = HeadAblation(_one(layer, "--heads"), chosen, mode or ZERO, positions, seed)
    else:
        request = Ablation(
            ranking=ranking,
            site=site,
            layer=_one(layer, "a ranking") if layer else None,
            top=parse_sizes(top),
            bottom=bottom,
            controls=controls,
            null_layer=null_layer,
            mode=mode or MEAN,
            positions=positions,
            neurons=_numbers("--neurons", neurons) if neurons else (),
            rule=rule,
            seed=seed,
        )
    there = _there(model, device, trust_remote_code, dataset, images, column)
    _intervene(url, run, request, rule, where, plan, route, answer_tokens, worker, there, storage_option)


def mask(
    url: options.Url,
    run: options.OneRun = None,
    fraction: Annotated[
        float, typer.Option(help="Share of the image's patches that is covered.", rich_help_panel=WHAT)
    ] = 0.3,
    sets: Annotated[
        str,
        typer.Option(
            help="high: most attended; low: least; random:N: N drawn sets. With commas between.", rich_help_panel=WHAT
        ),
    ] = "high,low,random:20",
    layer: Annotated[
        str | None,
        typer.Option(help="Whose attention ranks the patches; the last by default.", rich_help_panel=WHAT),
    ] = None,
    reduction: Annotated[str, typer.Option(help="Of its heads: mean or max.", rich_help_panel=WHAT)] = "mean",
    seed: Seed = 0,
    rule: options.Rule = "pope_official",
    where: options.Where = None,
    plan: OnlyPlan = False,
    answer_tokens: AnswerTokens = None,
    worker: options.WorkerOf = None,
    model: options.ModelNow = None,
    device: options.Device = "cpu",
    trust_remote_code: options.TrustRemoteCode = False,
    dataset: options.DatasetsNow = None,
    images: options.Images = None,
    column: options.Columns = None,
    storage_option: options.StorageOptions = None,
) -> None:
    """Cover patches of the images with gray, those that the answer attends to most, least, or drawn ones; ask again.

    Example: vlmlake mask ./lake --run tiny-llava --fraction 0.3 --sets high,low,random:20
    """
    from vlmlake.ingest.interventions.requests.masking import Masking, parse_sets, require_reduction

    request = Masking(fraction, parse_sets(sets), layer, require_reduction(reduction), seed)
    there = _there(model, device, trust_remote_code, dataset, images, column)
    _intervene(url, run, request, rule, where, plan, "auto", answer_tokens, worker, there, storage_option)


def patch(
    url: options.Url,
    run: options.OneRun = None,
    site: Annotated[str, typer.Option(help="resid, mlp_out or attn_out.", rich_help_panel=WHAT)] = "resid",
    layer: Layers = None,
    rule: options.Rule = "pope_official",
    where: options.Where = None,
    plan: OnlyPlan = False,
    route: Route = "auto",
    answer_tokens: AnswerTokens = None,
    worker: options.WorkerOf = None,
    model: options.ModelNow = None,
    device: options.Device = "cpu",
    trust_remote_code: options.TrustRemoteCode = False,
    dataset: options.DatasetsNow = None,
    images: options.Images = None,
    column: options.Columns = None,
    storage_option: options.StorageOptions = None,
) -> None:
    """Between a right and a wrong answer about one image, put one's activations at prompt_last in the other's place.

    Example: vlmlake patch ./lake --run tiny-llava --layer block_1 --layer block_2
    """
    from vlmlake.ingest.interventions.requests.patching import Patching

    request = Patching(site, tuple(layer or ()), rule)
    there = _there(model, device, trust_remote_code, dataset, images, column)
    _intervene(url, run, request, rule, where, plan, route, answer_tokens, worker, there, storage_option)


def _intervene(
    url: str,
    run: str | None,
    request: Request,
    rule: str,
    where: str | None,
    plan: bool,
    route: str,
    answer_tokens: int | None,
    worker: str | None,
    there: Mapping[str, Any],
    storage_option: list[str] | None,
) -> None:
    from vlmlake.console import terminal
    from vlmlake.console.interventions import intervene_and_analyze, print_plan
    from vlmlake.ingest.interventions.intervene import plan_intervention
    from vlmlake.ingest.interventions.intervention import Settings
    from vlmlake.ingest.replay_job import Sources
    from vlmlake.store_schema.lake import open_lake

    storage_options = options.storage_options(storage_option)
    lake = open_lake(url, storage_options)
    name = lake.run(run).name if run else _only(lake.runs, url)
    settings = Settings(answer_tokens, route, Sources(**there), options.worker_of(worker, os.environ))
    examples = None
    if where is not None:
        from vlmlake.queries import examples_where

        examples = examples_where(url, (name,), where, storage_options)[name]
    if plan:
        print_plan(terminal(), plan_intervention(url, name, request, examples, settings, storage_options))
        return
    try:
        intervene_and_analyze(terminal(), url, name, request, rule, examples, settings, storage_options)
    except KeyboardInterrupt:
        print("vlmlake: interrupted; outcomes that were kept stay, run the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from None


def _there(
    model: str | None,
    device: str,
    trust_remote_code: bool,
    dataset: list[str] | None,
    images: str | None,
    column: list[str] | None,
) -> Mapping[str, Any]:
    """Where the model and the data are."""
    return {
        "model": model,
        "datasets": tuple(dataset or ()),
        "images": images,
        "columns": options.named_columns(column),
        "device": options.device_of(device, os.environ),
        "trust_remote_code": trust_remote_code,
    }


def _only(runs: Sequence[str], url: str) -> str:
    if len(runs) != 1:
        raise VlmlakeError(f"the lake at {url} has {len(runs)} runs: --run says which, of {', '.join(runs) or 'none'}")
    return runs[0]


def _one(layers: list[str] | None, what: str) -> str:
    if not layers or len(layers) != 1:
        raise VlmlakeError(f"{len(layers or ())} layers are given: {what} takes one, as in --layer block_3")
    return layers[0]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parse: Callable[[str], int] = int
    try:
        return tuple(parse(part) for part in text.split(","))
    except ValueError as error:
        raise VlmlakeError(f"{option} is {text!r}, expected numbers with commas between, as in 0,3") from error
