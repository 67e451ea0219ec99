"""The verbs as a user types them, and what they say to bad input: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmlake import open_lake
from vlmlake.demo import checkpoints


def test_info_prints_runs_arrays_sizes_and_progress(run_cli, lake_url):
    code, out, _ = run_cli("info", lake_url)
    assert code == 0
    assert "1 run" in out
    assert "480 of 480 examples in 10 of 10 batches, float16" in out
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
    query = "select count(*) as n from results where metric = 'probe' and split = 'all'"
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


def test_analyze_replaces_its_results_under_one_rule_and_keeps_those_of_others(run_cli, lake_copy):
    lake_url = str(lake_copy)
    for rule in ("pope_official", "exact", "exact"):
        code, out, _ = run_cli("analyze", lake_url, "labels", "--rule", rule)
        assert code == 0
        assert "accuracy" in out
    query = "select rule, count(*) as n from results where metric = 'accuracy' group by rule order by rule"
    assert run_cli("sql", lake_url, query)[1].split() == ["rule", "n", "exact", "4", "pope_official", "4"]


def test_an_analysis_that_refuses_does_not_stop_the_others(run_cli, tiny_llava, tmp_path):
    assert run_cli("shapes", str(tmp_path / "scenes"), "--images", "3")[0] == 0
    arguments = extract_arguments(tiny_llava, tmp_path / "scenes", tmp_path)
    assert run_cli(*arguments, "--answer-tokens", "1")[0] == 0
    code, out, err = run_cli("analyze", str(tmp_path / "lake"))
    assert code == 2
    assert "accuracy" in out
    assert "entropy_normalised" in out
    assert "not possible: consistency of tiny-llava-" in out
    refusals = err.splitlines()
    assert refusals[0].startswith("vlmlake: probes of tiny-llava-")
    assert all(line.startswith("vlmlake: ") for line in refusals)


def test_shapes_then_extract_then_extract_again(run_cli, tiny_llava, tmp_path):
    assert run_cli("shapes", str(tmp_path / "scenes"), "--images", "2")[0] == 0
    lake = str(tmp_path / "lake")
    command = ("extract", "--model", str(tiny_llava), "--dataset", f"pope:{tmp_path / 'scenes'}", "--lake", lake)
    code, out, _ = run_cli(*command, "--answer-tokens", "2")
    assert code == 0
    told = re.search(r"tiny-llava-\w{8}: (\d+) of (\d+) questions computed in [\d.]+ s \([\d.]+ examples/s\)", out)
    assert told
    rows = int(told[1])
    assert rows == int(told[2]) < 24
    assert f"{24 - rows} of 24 examples ask what another asks of the same image: computed once" in out
    assert "waited for the writer" in out
    code, out, _ = run_cli(*command, "--answer-tokens", "2")
    assert code == 0
    assert f"all {rows} questions are there, nothing to do" in out


def test_every_verb_explains_itself_with_an_example(run_cli):
    code, out, _ = run_cli("--help")
    assert code == 0
    for verb in ("extract", "plan", "info", "analyze", "sql", "queries", "query", "shapes", "demo"):
        assert verb in out
        code, text, _ = run_cli(verb, "--help")
        assert code == 0
        assert "Example: vlmlake" in text


def extract_arguments(tiny_llava, scenes, tmp_path, **changes):
    options = {"model": str(tiny_llava), "dataset": f"pope:{scenes}", "lake": str(tmp_path / "lake"), **changes}
    return ["extract", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"question_id": 1, "image": "a.png", "text": "?", "label": "yes"}\n{"question_id": 2,\n',
            "line 2: not valid JSON",
        ),
        ("", "is empty: it has no rows"),
        ('{"question_id": 1, "image": "gone.png", "text": "?", "label": "yes"}\n', "1 image is missing or broken: "),
        (
            '{"question_id": 1, "image": "torn.png", "text": "?", "label": "yes"}\n',
            "torn.png (in no format that Pillow reads); --skip-bad",
        ),
        ('{"question_id": 1, "image": "a.png", "text": "an <image>", "label": "yes"}\n', "holds the image placeholder"),
    ],
)
def test_extract_refuses_bad_data(refused, tiny_llava, scenes, tmp_path, text, message):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(next((scenes / "images").iterdir()).read_bytes())
    (folder / "images" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "x_pope_random.json").write_text(text)
    arguments = extract_arguments(tiny_llava, scenes, tmp_path, dataset=f"pope:{folder}")
    assert message in refused(*arguments)
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
def test_extract_refuses_a_damaged_checkpoint(refused, tiny_llava, scenes, tmp_path, what):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llava, folder)
    message = break_checkpoint(folder, what)
    assert message in refused(*extract_arguments(tiny_llava, scenes, tmp_path, model=str(folder)))
    assert not (tmp_path / "lake").exists()


def test_extract_takes_every_option_that_the_job_has(run_cli, tiny_llava, scenes, tmp_path):
    table = tmp_path / "asked.csv"
    table.write_text("prompt,picture,label\nIs there a dog?,scene_000000.png,no\nWhere?,scene_000001.png,\n")
    (tmp_path / "mine.toml").write_text('arrays = ["readout_states", "logits"]\nlayers = ["embed", "block_2"]\n')
    words = [f"--dataset=table:{table}", "--column=question=prompt", "--column=image=picture", "--column=gold=label"]
    words += [f"--images={scenes / 'images'}", f"--plan={tmp_path / 'mine.toml'}", "--dtype=float32", "--blank"]
    words += ["--samples=3", "--temperature=0.9", "--top-p=0.8", "--seed=4", "--answer-tokens=2", "--batch-size=50"]
    words += ["--no-share-prefix", "--attn=eager", "--model-dtype=bfloat16", "--device=cpu"]
    arguments = extract_arguments(tiny_llava, scenes, tmp_path)
    code, _, err = run_cli(*arguments, *words)
    assert code == 0, err
    lake = open_lake(str(tmp_path / "lake"))
    record = lake.run("tiny-llava").record
    identity = record.identity
    assert identity["dataset"]["kinds"] == ["pope", "table"]
    assert record.examples == 96 + 2
    assert identity["plan"]["name"] == "mine"
    assert (identity["plan"]["batch_size"], identity["plan"]["shared_prefix"]) == (50, False)
    assert {"readout_states", "logits", "blank_states", "blank_logits"} <= set(record.arrays)
    assert "hidden_states" not in record.arrays
    assert record.layers == ("embed", "block_2")
    assert (record.stored_dtype, identity["attention"], identity["model"]["dtype"]) == ("float32", "eager", "bfloat16")
    drawn = {"answer_tokens": 2, "samples": 3, "temperature": 0.9, "top_p": 0.8, "seed": 4}
    assert drawn.items() <= identity["generation"].items()
    assert lake.table("samples").height == 3 * record.examples
    assert "2 of 2 batches" in run_cli("info", str(tmp_path / "lake"))[1]


def test_broken_images_are_left_out_where_that_is_asked_for_and_said(refused, run_cli, tiny_llava, scenes, tmp_path):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    (folder / "images" / "scene_000003.png").write_bytes(b"torn")
    arguments = extract_arguments(tiny_llava, folder, tmp_path)
    assert "1 image is missing or broken: " in refused(*arguments)
    code, out, _ = run_cli(*arguments, "--skip-bad", "--answer-tokens", "1")
    assert code == 0
    assert "12 examples were left out for a broken image: table `skipped`" in out
    query = "select (select count(*) from skipped) as gone, (select count(*) from examples) as kept"
    assert run_cli("sql", str(tmp_path / "lake"), query)[1].split() == ["gone", "kept", "12", "84"]


def test_plan_says_what_extract_would_write_and_writes_nothing(run_cli, tiny_llava, scenes, tmp_path):
    lake = tmp_path / "lake"
    arguments = ["--model", str(tiny_llava), "--dataset", f"pope:{scenes}", "--lake", str(lake), "--answer-tokens", "1"]
    code, out, _ = run_cli("plan", *arguments)
    assert code == 0
    assert not lake.exists()
    planned = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert run_cli("extract", *arguments)[0] == 0
    record = open_lake(str(lake)).run("tiny-llava").record
    assert f"tiny-llava, plan suffix: 96 examples, {record.rows} different questions over 8 prefixes" in out
    for spec in record.specs:
        shape = " x ".join(str(length) for length in spec.layout(record.extents, "float16").shape)
        assert shape in planned[spec.name], spec.name
    files = sum(path.is_file() for path in lake.rglob("*"))
    assert f"in {files} files" in planned["local"]
    assert f"object store: {files} PUT requests" in out


def test_plan_asks_for_the_images_size_where_it_counts_and_the_images_are_not_here(refused, run_cli, tmp_path):
    row = '{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}\n'
    (tmp_path / "coco_pope_random.json").write_text(row)
    (model,) = (folder for folder in checkpoints() if "qwen2" in folder.name)
    arguments = ["plan", "--model", str(model), "--dataset", f"pope:{tmp_path}"]
    assert "--image-size 640x480 plans without the images" in refused(*arguments)
    for size in ("640", "axb", "0x480", "640x-1"):
        message = refused(*arguments, "--image-size", size)
        assert f"image size is '{size}', expected width and height in pixels like 640x480" in message
    small, large = (run_cli(*arguments, "--image-size", size)[1] for size in ("28x28", "112x112"))
    assert "images were not opened" in small
    assert small != large


def test_extract_refuses_a_place_that_is_no_folder(refused, tiny_llava, scenes, tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(tmp_path / "file") in refused(*extract_arguments(tiny_llava, scenes, tmp_path, lake=str(place)))
    assert str(tmp_path / "file") in refused("shapes", str(tmp_path / "file" / "scenes"))


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"extents": 1}', "\udcff"])
def test_a_damaged_record_is_named(refused, lake_copy, content):
    (record,) = lake_copy.glob("runs/*/run.json")
    record.write_bytes(content.encode(errors="surrogateescape"))
    for verb in (("info",), ("analyze",), ("sql", "select 1")):
        assert "run.json of" in refused(verb[0], str(lake_copy), *verb[1:])


def test_a_damaged_table_is_named(refused, lake_copy):
    commit = sorted(lake_copy.glob("runs/*/batches/*.parquet"))[0]
    for content in (b"", commit.read_bytes()[:100], b"not parquet"):
        commit.write_bytes(content)
        for verb in (("info",), ("analyze",)):
            line = refused(verb[0], str(lake_copy))
            assert "batches/000000.parquet of " in line
            assert "is damaged: its checksum does not hold; `vlmlake extract` computes that batch again" in line
        assert "vlmlake: " in refused("sql", str(lake_copy), "select count(image) from examples")


def test_files_that_are_no_commits_are_not_looked_at(run_cli, lake_copy):
    commit = sorted(lake_copy.glob("runs/*/batches/*.parquet"))[0]
    for name in ("._000001.parquet", "000099.parquet", "copy of 000001.parquet", ".writing-1", "notes.txt"):
        (commit.parent / name).write_bytes(commit.read_bytes())
    assert "480 of 480 examples in 10 of 10 batches" in run_cli("info", str(lake_copy))[1]
    assert run_cli("sql", str(lake_copy), "select count(*) as n from examples")[1].split() == ["n", "480"]


def test_extract_refuses_a_folder_without_a_model_and_a_family_it_does_not_know(refused, tiny_llava, scenes, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"cannot load the model {empty}" in refused(
        *extract_arguments(tiny_llava, scenes, tmp_path, model=str(empty))
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = refused(*extract_arguments(tiny_llava, scenes, tmp_path, model=str(other)))
    assert "model type bert is not supported: expected llava" in message


@pytest.mark.parametrize("verb", [("info",), ("analyze",), ("sql", "select 1")])
def test_verbs_refuse_what_is_no_lake(refused, tmp_path, verb):
    name, *rest = verb
    assert "no lake at" in refused(name, str(tmp_path / "nowhere"), *rest)
    (tmp_path / "lake.json").write_text("{")
    assert "is not valid JSON" in refused(name, str(tmp_path), *rest)
    (tmp_path / "lake.json").write_text("[]")
    assert "names no format_version" in refused(name, str(tmp_path), *rest)
    (tmp_path / "lake.json").write_text(json.dumps({"format_version": 99}))
    line = refused(name, str(tmp_path), *rest)
    assert "has format 99, this vlmlake reads 4: pip install --upgrade vlmlake" in line
    (tmp_path / "lake.json").write_text(json.dumps({"format_version": 1}))
    assert "has format 1, from before the first release" in refused(name, str(tmp_path), *rest)


def test_extract_refuses_a_lake_of_a_newer_format(refused, tiny_llava, scenes, tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "lake.json").write_text(json.dumps({"format_version": 99}))
    assert "has format 99" in refused(*extract_arguments(tiny_llava, scenes, tmp_path))
    assert [path.name for path in (tmp_path / "lake").iterdir()] == ["lake.json"]


def test_analyze_names_what_it_does_not_know(refused, lake_url, tmp_path):
    assert "unknown analysis magic: expected labels, attention" in refused("analyze", lake_url, "magic")
    assert "no single run named nope" in refused("analyze", lake_url, "--run", "nope")
    assert "unknown label rule fuzzy" in refused("analyze", lake_url, "labels", "--rule", "fuzzy")
    (tmp_path / "lake.json").write_text(json.dumps({"format_version": 4}))
    assert "has no runs to analyze" in refused("analyze", str(tmp_path))
