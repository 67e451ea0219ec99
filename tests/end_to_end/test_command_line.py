"""The verbs as a user types them, and what they say to bad input: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmlake import open_lake
from vlmlake.cli import main


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Run a command line in this process; returns exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlmlake", *arguments])
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        else:
            code = 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def one_line(run_cli, *arguments: str) -> str:
    """The one line of standard error of a command that must fail with exit code 2."""
    code, out, err = run_cli(*arguments)
    assert out == "" or arguments[0] != "extract"
    lines = err.strip().splitlines()
    assert code == 2, (code, err)
    assert len(lines) == 1, err
    assert lines[0].startswith("vlmlake: ")
    return lines[0]


def test_info_prints_runs_arrays_sizes_and_progress(run_cli, lake_url):
    code, out, _ = run_cli("info", lake_url)
    assert code == 0
    assert "1 run" in out
    assert "480 of 480 examples in 20 of 20 batches, float16" in out
    for name in ("hidden_states", "prefix_states", "attention", "readout_states", "logits", "unembedding"):
        assert name in out
    assert "example, layer, head, query, key" in out


def test_sql_answers_over_examples_answers_and_results(run_cli, lake_url):
    code, out, _ = run_cli("sql", lake_url, "select split, count(*) as n from examples group by split order by split")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["adversarial", "160"],
        ["popular", "160"],
        ["random", "160"],
    ]
    query = "select count(*) as n from examples join answers using (run, example) where gold = lower(trim(answer))"
    assert int(run_cli("sql", lake_url, query)[1].split()[1]) > 300
    query = "select count(*) as n from results where metric = 'probe'"
    assert run_cli("sql", lake_url, query)[1].split() == ["n", "10"]


def test_small_numbers_are_not_shown_as_zero(run_cli, lake_url):
    _, out, _ = run_cli("sql", lake_url, "select 1e-9::double as a, 0.0::double as b, 0.25::double as c")
    assert out.splitlines()[1].split() == ["1.000e-09", "0.0000", "0.2500"]


def test_columns_of_one_name_are_all_shown(run_cli, lake_url):
    _, out, _ = run_cli("sql", lake_url, "select 1 as a, 2 as a, 3 as b")
    assert [line.split() for line in out.splitlines()] == [["a", "a_1", "b"], ["1", "2", "3"]] or [
        line.split() for line in out.splitlines()
    ] == [["a", "a", "b"], ["1", "2", "3"]]


def test_a_pipe_gets_one_line_per_row(run_cli, lake_url):
    _, out, _ = run_cli("sql", lake_url, "select * from examples join answers using (run, example) limit 7")
    assert len(out.splitlines()) == 8


def test_analyze_replaces_its_results_under_one_rule_and_keeps_those_of_others(run_cli, lake_url):
    for rule in ("pope_official", "exact", "exact"):
        code, out, _ = run_cli("analyze", lake_url, "accuracy", "--rule", rule)
        assert code == 0
        assert "adversarial" in out
    query = "select rule, count(*) as n from results where analysis = 'accuracy' group by rule order by rule"
    assert run_cli("sql", lake_url, query)[1].split() == ["rule", "n", "exact", "4", "pope_official", "4"]
    (Path(lake_url) / "results" / "accuracy" / open_lake(lake_url).runs[0] / "exact.parquet").unlink()


def test_an_analysis_that_refuses_does_not_stop_the_others(run_cli, tiny_llava, tmp_path):
    assert run_cli("shapes", str(tmp_path / "scenes"), "--images", "3")[0] == 0
    arguments = extract_arguments(tiny_llava, tmp_path / "scenes", tmp_path)
    assert run_cli(*arguments, "--answer-tokens", "1")[0] == 0
    code, out, err = run_cli("analyze", str(tmp_path / "lake"))
    assert code == 2
    assert "accuracy" in out
    assert "entropy_normalised" in out
    assert err.startswith("vlmlake: probes of tiny-llava-")
    assert len(err.strip().splitlines()) == 1


def test_shapes_then_extract_then_extract_again(run_cli, tiny_llava, tmp_path):
    assert run_cli("shapes", str(tmp_path / "scenes"), "--images", "2")[0] == 0
    lake = str(tmp_path / "lake")
    command = ("extract", "--model", str(tiny_llava), "--dataset", f"pope:{tmp_path / 'scenes'}", "--lake", lake)
    code, out, _ = run_cli(*command, "--answer-tokens", "2")
    assert code == 0
    assert "24 of 24 examples computed" in out
    assert "examples/s" in out
    code, out, _ = run_cli(*command, "--answer-tokens", "2")
    assert code == 0
    assert "all 24 examples are there, nothing to do" in out


def test_every_verb_explains_itself_with_an_example(run_cli):
    code, out, _ = run_cli("--help")
    assert code == 0
    for verb in ("extract", "info", "analyze", "sql", "shapes", "demo"):
        assert verb in out
        code, text, _ = run_cli(verb, "--help")
        assert code == 0
        assert "Example: vlmlake" in text


def extract_arguments(tiny_llava, scenes, tmp_path, **changes):
    options = {"model": str(tiny_llava), "dataset": f"pope:{scenes}", "lake": str(tmp_path / "lake"), **changes}
    return ["extract", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/no/such/folder"}, "no model folder at /no/such/folder"),
        ({"model": "./missing"}, "no model folder at ./missing"),
        ({"model": "tiny-lava"}, "no model folder at tiny-lava"),
        ({"model": ""}, "the model is empty"),
        ({"dataset": "coco:somewhere"}, "unknown kind of dataset in 'coco:somewhere': expected pope:PATH"),
        ({"dataset": "pope:/no/such/file.json"}, "no POPE questions at /no/such/file.json"),
        ({"dtype": "int8"}, "dtype is int8, expected one of float16, float32"),
        ({"batch-size": "0"}, "batch size is 0, expected at least 1"),
        ({"answer-tokens": "0"}, "answer tokens is 0, expected at least 1"),
        ({"lake": "nosuch://bucket/lake"}, "cannot open nosuch://bucket/lake"),
        ({"lake": ""}, "the URL of the lake is empty"),
        ({"device": "abacus"}, "cannot run on abacus"),
        ({"device": "meta"}, "cannot run on meta"),
        ({"answer-tokens": "500"}, "needs 552 tokens with its answer, the model's positions reach 512"),
        ({"images": "/no/such/images"}, "no folder of images at /no/such/images"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_extract_refuses_bad_options(run_cli, tiny_llava, scenes, tmp_path, changes, message):
    assert message in one_line(run_cli, *extract_arguments(tiny_llava, scenes, tmp_path, **changes))
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"question_id": 1, "image": "a.png", "text": "?", "label": "yes"}\n{"question_id": 2,\n',
            "line 2: not valid JSON",
        ),
        ("", "is empty: it has no rows"),
        ('{"question_id": 1, "image": "gone.png", "text": "?", "label": "yes"}\n', "1 images are missing"),
        ('{"question_id": 1, "image": "torn.png", "text": "?", "label": "yes"}\n', "cannot read the image"),
        ('{"question_id": 1, "image": "a.png", "text": "an <image>", "label": "yes"}\n', "holds the image placeholder"),
    ],
)
def test_extract_refuses_bad_data(run_cli, tiny_llava, scenes, tmp_path, text, message):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(next((scenes / "images").iterdir()).read_bytes())
    (folder / "images" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "x_pope_random.json").write_text(text)
    arguments = extract_arguments(tiny_llava, scenes, tmp_path, dataset=f"pope:{folder}")
    assert message in one_line(run_cli, *arguments)
    assert not (tmp_path / "lake").exists()


def break_checkpoint(folder: Path, what: str) -> str:
    """Damage a copy of a checkpoint in one way; returns what the message must hold."""
    if what == "weights cut":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        return "cannot load the model"
    if what == "a weight missing":
        weights = load_file(folder / "model.safetensors")
        del weights["language_model.model.layers.1.mlp.down_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return "lacks the weights"
    if what == "a weight of another shape":
        weights = load_file(folder / "model.safetensors")
        weights["language_model.model.layers.1.mlp.down_proj.weight"] = torch.zeros(3, 3)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return "cannot load the model"
    if what == "tokenizer empty":
        (folder / "tokenizer.json").write_text("{}")
        return "cannot load the model"
    if what == "no image processor":
        (folder / "preprocessor_config.json").unlink()
        return "cannot load the model"
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    fields.update(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return "the image processor makes 40 x 40 pixels, the vision tower takes 48 x 48"


@pytest.mark.parametrize(
    "what",
    [
        "weights cut",
        "a weight missing",
        "a weight of another shape",
        "tokenizer empty",
        "no image processor",
        "image size of another model",
    ],
)
def test_extract_refuses_a_damaged_checkpoint(run_cli, tiny_llava, scenes, tmp_path, what):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llava, folder)
    message = break_checkpoint(folder, what)
    assert message in one_line(run_cli, *extract_arguments(tiny_llava, scenes, tmp_path, model=str(folder)))
    assert not (tmp_path / "lake").exists()


def test_extract_refuses_a_place_that_is_no_folder(run_cli, tiny_llava, scenes, tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(tmp_path / "file") in one_line(
            run_cli, *extract_arguments(tiny_llava, scenes, tmp_path, lake=str(place))
        )
    assert str(tmp_path / "file") in one_line(run_cli, "shapes", str(tmp_path / "file" / "scenes"))


@pytest.fixture
def broken_lake(lake_url, tmp_path) -> Path:
    """A copy of the shared lake, to be damaged."""
    shutil.copytree(lake_url, tmp_path / "lake")
    return tmp_path / "lake"


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"extents": 1}', "\udcff"])
def test_a_damaged_record_is_named(run_cli, broken_lake, content):
    (record,) = broken_lake.glob("runs/*/run.json")
    record.write_bytes(content.encode(errors="surrogateescape"))
    for verb in (("info",), ("analyze",), ("sql", "select 1")):
        assert "run.json of" in one_line(run_cli, verb[0], str(broken_lake), *verb[1:])


def test_a_damaged_table_is_named(run_cli, broken_lake):
    commit = sorted(broken_lake.glob("runs/*/batches/*.parquet"))[0]
    for content in (b"", commit.read_bytes()[:100], b"not parquet"):
        commit.write_bytes(content)
        for verb in (("info",), ("analyze",)):
            assert "a table cannot be read" in one_line(run_cli, verb[0], str(broken_lake))
        assert "vlmlake: " in one_line(run_cli, "sql", str(broken_lake), "select count(image) from examples")


def test_files_that_are_no_commits_are_not_looked_at(run_cli, broken_lake):
    commit = sorted(broken_lake.glob("runs/*/batches/*.parquet"))[0]
    for name in ("._000001.parquet", "000099.parquet", "copy of 000001.parquet", ".writing-1", "notes.txt"):
        (commit.parent / name).write_bytes(commit.read_bytes())
    assert "480 of 480 examples in 20 of 20 batches" in run_cli("info", str(broken_lake))[1]
    assert run_cli("sql", str(broken_lake), "select count(*) as n from examples")[1].split() == ["n", "480"]


def test_extract_refuses_a_folder_without_a_model_and_a_family_it_does_not_know(run_cli, tiny_llava, scenes, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"cannot load the model {empty}" in one_line(
        run_cli, *extract_arguments(tiny_llava, scenes, tmp_path, model=str(empty))
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = one_line(run_cli, *extract_arguments(tiny_llava, scenes, tmp_path, model=str(other)))
    assert "model type bert is not supported: expected llava" in message


@pytest.mark.parametrize("verb", [("info",), ("analyze",), ("sql", "select 1")])
def test_verbs_refuse_what_is_no_lake(run_cli, tmp_path, verb):
    name, *rest = verb
    assert "no lake at" in one_line(run_cli, name, str(tmp_path / "nowhere"), *rest)
    (tmp_path / "lake.json").write_text("{")
    assert "is not valid JSON" in one_line(run_cli, name, str(tmp_path), *rest)
    (tmp_path / "lake.json").write_text("[]")
    assert "names no format_version" in one_line(run_cli, name, str(tmp_path), *rest)
    (tmp_path / "lake.json").write_text(json.dumps({"format_version": 99}))
    assert "has format 99, this vlmlake reads up to 1: upgrade vlmlake" in one_line(run_cli, name, str(tmp_path), *rest)


def test_extract_refuses_a_lake_of_a_newer_format(run_cli, tiny_llava, scenes, tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "lake.json").write_text(json.dumps({"format_version": 99}))
    assert "has format 99" in one_line(run_cli, *extract_arguments(tiny_llava, scenes, tmp_path))
    assert [path.name for path in (tmp_path / "lake").iterdir()] == ["lake.json"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("selec 1", "SQL: Parser Error: syntax error"),
        ("select nope from examples", 'SQL: Binder Error: Referenced column "nope" not found'),
        ("select 1; select 2", "SQL: expected one statement, got 2"),
        ("", "SQL: expected one statement, got 0"),
        ("select * from nope", "SQL: Catalog Error: Table with name nope does not exist"),
        ("select * from read_csv('/etc/hostname')", "SQL: Permission Error"),
    ],
)
def test_a_sql_error_is_one_line(run_cli, lake_url, query, message):
    assert message in one_line(run_cli, "sql", lake_url, query)


def test_analyze_names_what_it_does_not_know(run_cli, lake_url, tmp_path):
    assert "unknown analysis magic: expected accuracy, probes" in one_line(run_cli, "analyze", lake_url, "magic")
    assert "no single run named nope" in one_line(run_cli, "analyze", lake_url, "--run", "nope")
    assert "unknown label rule fuzzy" in one_line(run_cli, "analyze", lake_url, "accuracy", "--rule", "fuzzy")
    (tmp_path / "lake.json").write_text(json.dumps({"format_version": 1}))
    assert "has no runs to analyze" in one_line(run_cli, "analyze", str(tmp_path))
