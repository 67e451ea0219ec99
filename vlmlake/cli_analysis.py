"""Verbs on what a lake says: the analyses, and the study's table."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vlmlake import cli_options as options


def analyze(
    url: options.Url,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAMES|all]", help="Analyses; all by default.")] = None,
    run: options.OneRun = None,
    where: options.Where = None,
    rule: options.Rule = "pope_official",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of folds and resamples.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="ANALYSIS.PARAMETER=VALUE", help="A parameter, as in probes.folds=10."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of a Dask cluster, as in tcp://host:8786; threads of this machine else."),
    ] = None,
    storage_option: options.StorageOptions = None,
) -> None:
    """Compute from the store alone; findings go into the lake, and what has not changed is not computed again.

    Analyses: labels, attention, margins, attribution, probes, attention_probe, consistency, fusion, selective, neurons,
    causal.

    Example: vlmlake analyze ./lake probes margins --where "split = 'adversarial'"
    """
    from vlmlake.analysis.analyze import ALL, Condition, with_needed
    from vlmlake.analysis.parameters import parameters_of
    from vlmlake.analysis.scheduler import scheduler as tasks_at
    from vlmlake.answers.rules import require_rule
    from vlmlake.console import terminal
    from vlmlake.console.analysis import analyze_with_progress, print_findings
    from vlmlake.console.printable import printable
    from vlmlake.store_schema.lake import open_lake

    storage_options = options.storage_options(storage_option)
    parameters = parameters_of(settings or [])
    with_needed(names or [ALL])
    require_rule(rule)
    condition = None
    if where is not None:
        from vlmlake.queries import examples_where

        lake = open_lake(url, storage_options)
        runs = (lake.run(run).name,) if run else lake.runs
        condition = Condition(where, examples_where(url, runs, where, storage_options))
    console = terminal()
    try:
        with tasks_at(scheduler):
            found = analyze_with_progress(
                console,
                url,
                names or [ALL],
                run=run,
                rule=rule,
                seed=seed,
                parameters=parameters,
                condition=condition,
                storage_options=storage_options,
            )
    except KeyboardInterrupt:
        print("vlmlake: interrupted; what was found is kept, run the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    print_findings(console, found, open_lake(url, storage_options).table("interventions"))
    for refusal in found.refusals:
        print(f"vlmlake: {printable(refusal)}", file=sys.stderr)
    if found.refusals:
        raise typer.Exit(2)


def study(
    url: options.Url,
    run: options.OneRun = None,
    rule: options.Rule = "pope_official",
    storage_option: options.StorageOptions = None,
) -> None:
    """Print every number that the study published, and beside it what `analyze` found in each run of that family.

    Example: vlmlake study ./lake
    """
    from vlmlake.analysis.study import study as compare
    from vlmlake.console import terminal
    from vlmlake.console.analysis import print_study
    from vlmlake.store_schema.lake import open_lake

    lake = open_lake(url, options.storage_options(storage_option))
    print_study(terminal(), compare(lake, run, rule))
