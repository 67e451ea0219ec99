"""`vlmlake ablate`, `mask` and `patch` as they are typed."""

from __future__ import annotations

import re

import polars as pl
import pytest

from tests.servers.files import FileServer
from vlmlake import open_lake

ABLATE = ("--ranking", "attribution", "--top", "2,0.5", "--controls", "5")
FEW = ("--where", "split = 'adversarial' and gold = 'yes'")


def outcomes(lake) -> pl.DataFrame:
    """Those that were made, without the made-up ones of the shared lake."""
    return open_lake(str(lake)).table("outcomes").drop_nulls("route")


def test_a_plan_says_what_it_costs_and_writes_nothing(run_cli, lake_copy):
    before = {path: path.stat().st_mtime_ns for path in lake_copy.rglob("*")}
    code, out, err = run_cli("ablate", str(lake_copy), *ABLATE, "--plan")
    assert (code, err) == (0, "")
    assert "17 conditions over" in out
    assert re.search(r"suffix +the final norm", out)
    assert re.search(r"\d x", out)
    assert {path: path.stat().st_mtime_ns for path in lake_copy.rglob("*")} == before


def test_neurons_are_ablated_once(run_cli, lake_copy):
    there = outcomes(lake_copy).height
    code, first, err = run_cli("ablate", str(lake_copy), *ABLATE)
    assert (code, err) == (0, "")
    assert re.search(r"top +attribution resid block_3 .* 32 0\.5 ", first)
    assert "of 6" in first
    made = outcomes(lake_copy).height
    assert made > there
    code, second, _ = run_cli("ablate", str(lake_copy), *ABLATE)
    assert code == 0
    assert ": 0 outcomes made" in second
    assert outcomes(lake_copy).height == made
    assert first.partition("causal, rule")[2] == second.partition("causal, rule")[2]


def test_the_plain_route_tells_the_same(run_cli, lake_copy, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(lake_copy, other)
    arguments = (*ABLATE, "--site", "mlp_out", "--no-bottom", "--positions", "prompt_last", "--mode", "zero")
    for lake, route in ((lake_copy, "auto"), (other, "full")):
        code, out, err = run_cli("ablate", str(lake), *arguments, "--route", route)
        assert (code, err) == (0, ""), out
    both = outcomes(lake_copy).join(outcomes(other), on=["condition", "example"], suffix="_full")
    assert both.height == outcomes(other).height > 100
    assert set(both["route_full"]) == {"full"}
    assert set(both["route"]) == {"suffix"}
    assert (both["answer"] == both["answer_full"]).all()
    assert (both["margin"] - both["margin_full"]).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("ablate", "--heads", "all", "--layer", "block_2"), r"head +head_out block_2 +\d zero"),
        (("ablate", "--heads", "0,2", "--layer", "block_2", "--mode", "mean"), r"head +head_out block_2 +2 mean"),
        (("ablate", "--bypass", "mlp", "--layer", "block_1", *FEW), r"mlp +block_1 zero"),
        (("ablate", "--neurons", "3,5", "--layer", "block_3", "--controls", "4"), r"given +resid block_3 mean all +2"),
        (("mask", "--fraction", "0.25", "--sets", "high,random:2", *FEW), r"high minus random"),
        (("patch", "--layer", "block_3", "--site", "resid"), r"into_wrong: follows its donor resid block_3"),
    ],
)
def test_every_change_is_made_and_told(run_cli, lake_copy, arguments, shown):
    verb, *rest = arguments
    code, out, err = run_cli(verb, str(lake_copy), *rest)
    assert (code, err) == (0, ""), out
    assert re.search(shown, out), out
    assert "differ" not in out


def test_two_workers_share_the_batches(run_cli, lake_copy):
    _, first, _ = run_cli("ablate", str(lake_copy), *ABLATE, "--worker", "0/2")
    assert "outcomes are left to other workers" in first
    _, second, _ = run_cli("ablate", str(lake_copy), *ABLATE, "--worker", "1/2")
    assert re.search(r"top +attribution resid", second)
    there = outcomes(lake_copy)
    assert there.unique(["condition", "example"]).height == there.height


def test_sql_sees_what_was_changed(run_cli, lake_copy):
    run_cli("ablate", str(lake_copy), *ABLATE)
    query = (
        "select i.\"set\", i.k, count(*) as n, avg(case when l.label.label = 'right' then 1 else 0 end) as accuracy "
        "from outcomes o join interventions i using (run, condition), unnest(o.labels) as l(label) "
        "where l.label.rule = 'pope_official' and i.kind = 'ablate' and i.ranking = 'attribution' group by all"
    )
    code, out, err = run_cli("sql", str(lake_copy), query)
    assert (code, err) == (0, "")
    assert re.search(r"top +32", out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ablate", "--ranking", "magic"), "has no ranking magic of resid: there are"),
        (("ablate", "--site", "q_proj"), "site is q_proj, expected one of resid, mlp_out"),
        (("ablate", "--layer", "block_9", *ABLATE), "has no ranking attribution of resid at block_9"),
        (("ablate", "--layer", "last"), "the layer is last, expected that of a block, as in block_3"),
        (("ablate", "--top", "1,many"), "sizes are '1,many', expected numbers"),
        (("ablate", "--top", "64"), "a set of size 64 is 64 neurons of 64"),
        (("ablate", "--mode", "noise"), "mode is noise, expected one of mean, zero"),
        (("ablate", "--route", "quick"), "route is quick, expected one of auto, algebra, suffix, full"),
        (("ablate", "--rule", "exact"), "has no rankings of neurons under the rule exact"),
        (("ablate", "--heads", "all"), "0 layers are given: --heads takes one"),
        (("ablate", "--heads", "9", "--layer", "block_1"), "block_1 of tiny-llava-"),
        (("ablate", "--heads", "0", "--bypass", "mlp"), "--neurons, --heads and --bypass each say what is ablated"),
        (("ablate", "--bypass", "norm"), "parts are norm, expected some of attention, mlp, block"),
        (("ablate", "--neurons", "64", "--layer", "block_1"), "resid of block_1 has neurons 0 to 63, got 64"),
        (("ablate", "--where", "true", *ABLATE), "ranked the neurons of tiny-llava-"),
        (("ablate", "--where", "false", *ABLATE), "is left to ask about"),
        (("ablate", "--model", "{tmp}/none", *ABLATE), "{tmp}/none"),
        (("mask", "--fraction", "1.5"), "the share of the patches is 1.5"),
        (("mask", "--fraction", "0.01", *FEW), "a share of 0.01 is less than one of 36 patches"),
        (("mask", "--answer-tokens", "100000", *FEW), "are longer than the model's"),
        (("ablate", "--answer-tokens", "100000", *ABLATE), "are longer than the model's"),
        (("ablate", "--route", "algebra", *ABLATE), "cannot take the route algebra: it needs an edit of what the last"),
        (("mask", "--sets", "middle"), "unknown set of patches 'middle'"),
        (("mask", "--reduction", "sum"), "the reduction of the heads is 'sum'"),
        (("mask", "--layer", "block_9"), "block_9"),
        (("patch", "--site", "head_out"), "site is head_out, expected one of resid, mlp_out, attn_out"),
        (("patch", "--run", "other"), "no single run named other"),
    ],
)
def test_what_cannot_be_changed_is_one_clear_line(refused, lake_copy, tmp_path, arguments, told):
    verb, *rest = (word.format(tmp=tmp_path) for word in arguments)
    there = sorted(lake_copy.rglob("*"))
    assert told.format(tmp=tmp_path) in refused(verb, str(lake_copy), *rest)
    assert [path for path in sorted(lake_copy.rglob("*")) if path.is_file()] == [one for one in there if one.is_file()]


def test_the_error_names_the_images_that_ranked(refused, lake_copy):
    lake = open_lake(str(lake_copy))
    kept = lake.table("metrics").filter(metric="kept_for_ablation")
    images = lake.table("examples").join(kept, on=["run", "example"]).filter(pl.col("value") == 0)["image"]
    line = refused("ablate", str(lake_copy), "--where", "true", *ABLATE)
    assert f"{images.n_unique()} of 40 images ranked the neurons" in line
    named = re.findall(r"[\w-]+\.png", line)
    assert len(named) == 3
    assert {*named} <= {*images}


def test_a_web_address_is_refused_before_anything_runs(refused, lake_copy):
    with FileServer(lake_copy) as server:
        assert "is a web address" in refused("ablate", server.url, *ABLATE)
