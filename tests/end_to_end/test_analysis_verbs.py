"""`vlmlake analyze` and `vlmlake study` as they are typed."""

from __future__ import annotations

import socket

import polars as pl
import pytest

from vlmlake import open_lake
from vlmlake.analysis.analyses import ANALYSES
from vlmlake.analysis.published import PUBLISHED


def test_a_second_run_says_what_it_did_not_compute_again(run_cli, lake_copy):
    code, first, _ = run_cli("analyze", str(lake_copy), "labels")
    assert code == 0
    code, second, _ = run_cli("analyze", str(lake_copy), "labels")
    assert code == 0
    assert "1 unchanged, not computed again: labels of tiny-llava-" in second
    assert "accuracy" in first
    assert "accuracy" in second


def test_a_condition_chooses_examples(run_cli, lake_copy):
    code, out, _ = run_cli("analyze", str(lake_copy), "labels", "--where", "split = 'random' and gold = 'yes'")
    assert code == 0
    results = open_lake(str(lake_copy)).table("results").filter(pl.col("condition").is_not_null())
    assert set(results["n"]) == {80}
    assert set(results["condition"]) == {"split = 'random' and gold = 'yes'"}
    assert "n 80" in out


def test_a_parameter_is_set(run_cli, lake_copy):
    code, _, err = run_cli("analyze", str(lake_copy), "attention", "--set", "attention.plateau_threshold=0.5")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--where", "no_such_column = 1"), "SQL: "),
        (("--where", "false"), "has no example where false"),
        (("--set", "labels.magic=1"), "labels has no parameter magic"),
        (("--rule", "vqa_soft"), "has no labelled examples"),
    ],
)
def test_what_cannot_be_analyzed_is_one_clear_line(refused, lake_copy, arguments, told):
    assert told in refused("analyze", str(lake_copy), "labels", *arguments)


def test_a_scheduler_that_is_not_there_is_named(refused, lake_copy, monkeypatch):
    monkeypatch.setattr("vlmlake.analysis.scheduler.SECONDS_TO_ANSWER", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        told = refused("analyze", str(lake_copy), "labels", "--scheduler", address)
    assert f"no Dask scheduler answers at {address}" in told


def test_a_cluster_finds_the_same_numbers(run_cli, lake_copy):
    from distributed import LocalCluster

    names = ("labels", "margins")
    near = open_lake(str(lake_copy)).table("results").filter(pl.col("analysis").is_in(names))
    for name in ("results", "metrics"):
        for path in lake_copy.glob(f"{name}/*/*/*.parquet"):
            path.unlink()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        code, _, err = run_cli("analyze", str(lake_copy), *names, "--scheduler", cluster.scheduler_address)
    assert code == 0, err
    far = open_lake(str(lake_copy)).table("results").filter(pl.col("analysis").is_in(names))
    keys = ["analysis", "metric", "statistic", "split", "position", "layer", "head", "at"]
    both = near.join(far, on=keys, how="full", nulls_equal=True, suffix="_far")
    assert both.height == near.height == far.height
    for name in ("value", "low", "high"):
        assert both.filter((pl.col(name) - pl.col(f"{name}_far")).abs() > 1e-5).is_empty()
        assert both.filter(pl.col(name).is_null() != pl.col(f"{name}_far").is_null()).is_empty()


def test_the_study_prints_every_published_number_of_the_family(run_cli, lake_url):
    code, out, _ = run_cli("study", lake_url)
    assert code == 0
    for published in (one for one in PUBLISHED if one.family == "llava"):
        assert any(published.quantity in line and published.value in line for line in out.splitlines()), published


def test_the_study_wants_results(refused, lake_copy):
    for path in lake_copy.glob("results/*/*/*.parquet"):
        path.unlink()
    assert "no run was analyzed under the rule pope_official" in refused("study", str(lake_copy))


def test_help_names_every_analysis(run_cli):
    _, out, _ = run_cli("analyze", "--help")
    assert all(name in out for name in ANALYSES)
