import numpy as np
import pytest

from tests.ingest.jobs import job_of, run_job
from tests.ingest.pope_files import scene, write_pope
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.capture_plan import BUILT_IN, CHOOSABLE, SUFFIX_ARRAYS, CapturePlan, read_plan
from vlmlake.store_schema.schema import ALWAYS, ARRAYS, BLANK_ARRAYS


@pytest.fixture
def toml(tmp_path):
    """Writes a plan; returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_a_built_in_plan_keeps_every_layer_and_position_in_float16(name):
    plan = read_plan(name)
    assert (plan.name, plan.arrays, plan.dtype, plan.blank) == (name, BUILT_IN[name], "float16", False)
    assert plan.chosen_layers(2) == ("embed", "block_0", "block_1")
    assert plan.chosen_positions(2) == ("prompt_last", "answer_0", "answer_1")


def test_full_holds_all_of_suffix_and_readout_only_what_probes_read():
    full, suffix, readout = (set(BUILT_IN[name]) for name in ("full", "suffix", "readout"))
    assert full - suffix == {"prefix_attention", "token_logits", "prefix_logits"}
    assert suffix < full
    assert suffix - readout == {"hidden_states", "prefix_states", "attention"}
    assert readout - suffix == {"readout_attention"}


@pytest.mark.parametrize("name", list(BUILT_IN))
@pytest.mark.parametrize("blank", [False, True])
def test_specs_are_the_plans_arrays_with_those_of_every_run(name, blank):
    names = [spec.name for spec in read_plan(name, blank=blank).specs]
    assert set(names) == {*BUILT_IN[name], *ALWAYS, *(BLANK_ARRAYS if blank else ())}
    assert names == [spec.name for spec in ARRAYS if spec.name in names]


def test_a_dtype_beside_the_name_is_the_plans():
    assert read_plan("suffix", dtype="float32").dtype == "float32"


def test_a_toml_plan_says_all(toml):
    path = toml(
        """
        arrays = ["readout_states", "logits"]
        layers = ["embed", "block_20", "block_31"]
        positions = ["prompt_last", "answer_0"]
        dtype = "float32"
        """
    )
    assert read_plan(path, blank=True) == CapturePlan(
        name="mine",
        arrays=("readout_states", "logits"),
        layers=("embed", "block_20", "block_31"),
        positions=("prompt_last", "answer_0"),
        dtype="float32",
        blank=True,
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ('arrays = ["logits"]', "arrays", ("logits",)),
        ('layers = ["block_1"]', "layers", ("block_1",)),
        ('positions = ["prompt_last"]', "positions", ("prompt_last",)),
        ('dtype = "float32"', "dtype", "float32"),
        ("arrays = []", "arrays", ()),
    ],
)
def test_what_a_toml_plan_leaves_out_is_as_in_suffix(toml, text, field, value):
    wanted = {"arrays": SUFFIX_ARRAYS, "layers": None, "positions": None, "dtype": "float16", field: value}
    plan = read_plan(toml(text))
    assert {name: getattr(plan, name) for name in wanted} == wanted


def test_an_empty_toml_plan_is_suffix(toml):
    assert read_plan(toml("")) == CapturePlan("mine", BUILT_IN["suffix"])


def test_a_dtype_beside_a_toml_plan_overrides_its_own(toml):
    assert read_plan(toml('dtype = "float32"'), dtype="float16").dtype == "float16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('arrays = ["logitz", "logits", "x"]', "plan mine: unknown arrays logitz, x; expected some of"),
        ('arrays = ["token_id"]', "plan mine: unknown arrays token_id; expected some of"),
        ('arrays = ["blank_logits"]', "plan mine: unknown arrays blank_logits; expected some of"),
        ('arrays = "logits"', "mine.toml: arrays is 'logits', expected a list of names"),
        ("layers = [1, 2]", r"mine\.toml: layers is \[1, 2\], expected a list of names"),
        ("layers = []", r"plan mine: layers is \[\], expected different labels, at least one"),
        (
            'layers = ["block_0", "block_0"]',
            r"plan mine: layers is .*, expected different labels",
        ),
        ('layers = ["embed"]', "plan mine: embed alone is no block; expected at least one like block_0"),
        ("positions = []", r"plan mine: positions is \[\], expected different labels, at least one"),
        ('positions = ["answer_0"]', "plan mine: positions lack prompt_last, which every answer starts from"),
        ('positions = ["prompt_last", "prompt_last"]', "plan mine: positions is .*, expected different labels"),
        ("positions = 1", "mine.toml: positions is 1, expected a list of names"),
        ('dtype = "float8"', "plan mine: dtype is float8, expected one of float16, bfloat16, float32"),
        ("dtype = 16", "plan mine: dtype is 16, expected one of float16, bfloat16, float32"),
        ('layer = ["embed"]', "mine.toml: unknown keys layer; expected some of arrays, layers, positions, dtype"),
        ("arrays = [", "mine.toml is not valid TOML: "),
    ],
)
def test_a_bad_toml_plan_is_refused_by_what_is_wrong(toml, text, message):
    with pytest.raises(VlmlakeError, match=message):
        read_plan(toml(text))


def test_bytes_that_are_no_text_are_no_toml(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(VlmlakeError, match=r"mine\.toml is not valid TOML"):
        read_plan(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("everything", "no plan named everything: expected full, suffix, readout or a file ending in .toml"),
        ("", "no plan named : expected full, suffix, readout or a file ending in .toml"),
        ("not/here.toml", "no plan at not/here.toml: the file is not there"),
    ],
)
def test_a_plan_that_is_not_there(name, message):
    with pytest.raises(VlmlakeError) as refusal:
        read_plan(name)
    assert str(refusal.value) == message


def test_a_dtype_that_cannot_be_stored():
    with pytest.raises(VlmlakeError, match="plan suffix: dtype is int4, expected one of float16, bfloat16, float32"):
        read_plan("suffix", dtype="int4")


def test_chosen_labels_come_in_the_order_of_the_axis():
    plan = CapturePlan(
        "p", CHOOSABLE, layers=("block_2", "embed", "block_0"), positions=("answer_1", "prompt_last", "answer_0")
    )
    assert plan.chosen_layers(3) == ("embed", "block_0", "block_2")
    assert plan.chosen_positions(4) == ("prompt_last", "answer_0", "answer_1")


@pytest.mark.parametrize(
    ("field", "labels", "message"),
    [
        ("layers", ("block_0", "block_4"), "plan p: no layers block_4 here; there are embed ... block_3"),
        ("layers", ("Block_0", "block_00"), "plan p: no layers Block_0, block_00 here; there are embed ... block_3"),
        (
            "positions",
            ("prompt_last", "answer_2"),
            "plan p: no positions answer_2 here; there are prompt_last ... answer_1",
        ),
    ],
)
def test_labels_beyond_the_model_or_its_answers_are_refused(field, labels, message):
    plan = CapturePlan("p", ("logits",), **{field: labels})
    choose = {"layers": lambda: plan.chosen_layers(4), "positions": lambda: plan.chosen_positions(2)}[field]
    with pytest.raises(VlmlakeError) as refusal:
        choose()
    assert str(refusal.value) == message


QUESTIONS = (
    ("a.png", "Is there a red circle in the image?"),
    ("a.png", "Circle?"),
    ("a.png", "Is there an orange cross in the image?"),
    ("b.png", "Is there a dog?"),
    ("b.png", "Is there a red circle in the image?"),
)
OWN_PLAN = """
arrays = ["readout_states", "attention", "logits", "attn_write"]
layers = ["block_3", "embed", "block_1"]
positions = ["prompt_last", "answer_0"]
"""


def test_a_toml_plan_keeps_slices_of_what_full_keeps(tiny_llava, tmp_path, toml):
    spec = write_pope(tmp_path, {"a.png": scene(0), "b.png": scene(1)}, QUESTIONS)
    datasets = {}
    for plan in ("full", toml(OWN_PLAN)):
        datasets[plan] = run_job(job_of(tiny_llava, spec, tmp_path / "lake", plan=plan, batch_size=3)).dataset()
    full, own = datasets.values()
    layers, positions = ["embed", "block_1", "block_3"], ["prompt_last", "answer_0"]
    wanted = full.sel(layer=layers, position=positions, example=own["example"])
    arrays = {"readout_states", "attention", "logits", "attn_write"}
    assert set(own.data_vars) == arrays | set(ALWAYS)
    assert own["layer"].values.tolist() == layers
    assert own["position"].values.tolist() == positions
    for name in own.data_vars:
        assert own[name].dims == full[name].dims
        np.testing.assert_allclose(own[name].values, wanted[name].values, rtol=1e-6, atol=1e-5, err_msg=name)
    for name in arrays:
        assert np.isfinite(own[name].isel(layer=-1) if "layer" in own[name].dims else own[name]).any(), name
    assert own["answer"].values.tolist() == wanted["answer"].values.tolist()
