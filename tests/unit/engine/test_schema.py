"""The schemas of the versions: as their wheels have them, and how names are looked up."""

import json
import subprocess
import sys

import pytest

from generators.schema import __main__ as generator
from generators.schema import source
from sglang_operator.engine import schema, typos, versions
from sglang_operator.engine.schemas import index
from tests.unit.engine.wheels import sglang_or_skip

SINCE = {  # argument -> feature that says whether a version has it
    "weight_version": "weight_version_flag",
    "enable_return_routed_experts": "return_routed_experts",
    "preferred_sampling_params": "preferred_sampling_params",
    "admin_api_key": "admin_api_key",
}


def known(version="0.5.7"):
    return schema.load(version)


# --- the files


@pytest.mark.parametrize("version", index.VERSIONS)
def test_the_wheel_gives_the_same_schema_again(version):
    """``make schema VERSION=...`` writes it anew."""
    sglang_or_skip(version)
    module = source.module_name(version)
    assert generator.text(version) == (generator.FOLDER / f"{module}.py").read_text()


def test_the_index_and_the_history_are_those_of_the_schemas():
    assert list(index.VERSIONS) == generator.known()
    for name, text in generator.index_texts(generator.known()).items():
        assert (generator.FOLDER / name).read_text() == text


def test_there_is_a_schema_for_each_line_that_roll_supports():
    lines = {(v.major, v.minor, v.patch) for v in versions.ROLL_VERSIONS}
    assert lines <= {(v.major, v.minor, v.patch) for v in schema.KNOWN}


@pytest.mark.parametrize("version", index.VERSIONS)
def test_what_a_version_can_do_is_what_its_wheel_shows(version):
    found, features = known(version), versions.features(versions.parse(version))
    assert features.health_without_generation == (found.health_without_generation == "works")
    assert features.ready_endpoint == ("/ready" in found.endpoints)
    assert features.begin_end_weight_update == ("/begin_weight_update" in found.endpoints)
    assert features.model_info_path in found.endpoints
    assert (features.model_info_path == "/model_info") == ("/model_info" in found.endpoints)
    for argument, feature in SINCE.items():
        assert getattr(features, feature) == (argument in found.arguments), argument


def test_a_variable_without_effect_is_found_as_such():
    assert known("0.5.5.post3").health_without_generation == "no effect"
    assert known("0.5.4.post2").health_without_generation == "absent"


@pytest.mark.parametrize("version", index.VERSIONS)
def test_every_version_has_what_the_operator_always_says(version):
    found = known(version).arguments
    always = {"model_path", "host", "port", "dtype", "random_seed", "tp_size", "pp_size"}
    always |= {"skip_tokenizer_init", "trust_remote_code", "disable_custom_all_reduce"}
    always |= {"log_level", "log_level_http", "load_format", "mem_fraction_static"}
    assert always <= found.keys()
    assert all(found[key].flag == "--" + key.replace("_", "-") for key in always)


def test_only_the_version_in_use_is_imported():
    code = (
        "import sys, json; from sglang_operator.engine import schema, typos, versions;"
        "schema.nearest(versions.parse('0.5.7'));"
        "print(json.dumps([m for m in sys.modules if '.schemas.v' in m]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["sglang_operator.engine.schemas.v0_5_7"]


# --- which schema


@pytest.mark.parametrize(
    ("version", "nearest"),
    [
        ("0.5.7", "0.5.7"),
        ("0.5.7.post9", "0.5.7"),
        ("0.5.7.post1", "0.5.7"),
        ("0.5.6", "0.5.5.post3"),
        ("0.4.6.post1", "0.4.6.post5"),
        ("0.5.99", index.VERSIONS[-1]),
        ("1.0.0", index.VERSIONS[-1]),
    ],
)
def test_the_nearest_schema_is_that_of_the_version_or_of_the_one_before(version, nearest):
    found = schema.nearest(versions.parse(version))
    assert str(found.version) == nearest


# --- names


@pytest.mark.parametrize(
    ("version", "name", "key"),
    [
        ("0.5.7", "tp_size", "tp_size"),
        ("0.5.7", "tensor_parallel_size", "tp_size"),
        ("0.5.7", "ep", "ep_size"),
        ("0.5.7", "fp8_gemm_backend", "fp8_gemm_runner_backend"),
        ("0.5.14", "cuda_graph_max_bs", "cuda_graph_max_bs"),
        ("0.5.23", "enable_hicache", "enable_hierarchical_cache"),
        ("0.5.23", "no_dllm_fdfo", None),
        ("0.5.23", "cuda_graph_max_bs", None),
    ],
)
def test_an_argument_is_found_by_any_of_its_names(version, name, key):
    assert known(version).key(name) == key


@pytest.mark.parametrize(
    ("version", "key", "flag"),
    [
        ("0.5.7", "tp_size", "--tp-size"),
        ("0.5.23", "tp_size", "--tp-size"),
        ("0.5.7", "fp8_gemm_runner_backend", "--fp8-gemm-backend"),
        ("0.5.23", "ep_join_mode", "--elastic-ep-join-mode"),
        ("0.5.14", "cuda_graph_max_bs", "--cuda-graph-max-bs"),
    ],
)
def test_the_flag_is_the_same_in_all_versions_that_have_it(version, key, flag):
    assert known(version).arguments[key].flag == flag


def test_a_deprecated_name_sets_the_field_of_the_new_one():
    old = known("0.5.14").arguments["cuda_graph_max_bs"]
    assert (old.field, old.deprecated) == ("cuda_graph_max_bs_decode", True)
    assert old.replacement == "--cuda-graph-max-bs-decode"


def test_the_history_of_a_name_is_known():
    having = list(map(str, schema.versions_with("admin_api_key")))
    assert {"0.5.9", index.VERSIONS[-1]} <= set(having)
    assert "0.5.7" not in having
    assert schema.versions_with("nothing") == ()


def test_similar_names_are_found_in_the_version_itself():
    names = typos.similar(versions.parse("0.5.7"), "mem_fraction_statc")
    assert names[0] == "mem_fraction_static"
    assert typos.similar(versions.parse("0.5.7"), "x" * 10_000) == ()
