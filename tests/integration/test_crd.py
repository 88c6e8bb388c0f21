"""The custom resource definition on a real API server: what it takes, what it refuses, and in
which words."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_operator.api import errors, names, pod_volumes
from sglang_operator.pool.resolve import resolve_pool
from sglang_operator.scheduling import texts
from sglang_operator.testing import ApiError, ControlPlane
from tests import structural
from tests.builders import OWNER

pytestmark = [pytest.mark.each_kubernetes, pytest.mark.plane("0", operator=False)]

MANIFESTS = Path(__file__).parents[2] / "manifests"
CRD_FILE = MANIFESTS / "crd" / "sglanginferences.yaml"
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))
_SCHEMA = structural.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
PROPERTIES = _SCHEMA["properties"]["spec"]["properties"]
ROLL_FIELDS = [name for name, field in PROPERTIES.items() if field.get("nullable")]
RESOURCE = f"{names.PLURAL}.{names.GROUP}"
WAIT_SECONDS = 30.0
NUMBERS = itertools.count()

MODEL = {"model_name_or_path": "Qwen/Qwen2.5-7B-Instruct"}
SGLANG = {"strategy_name": "sglang"}
# What ROLL users write in an actor_infer section, and every other field that ROLL's worker
# configs have, as a value of some kind or other.
ROLL_WORKER = {
    "name": "actor_infer",
    "worker_cls": "roll.pipeline.base_worker.ActorWorker",
    "model_args": {
        **MODEL,
        "attn_implementation": "fa2",
        "disable_gradient_checkpointing": True,
        "dtype": "bf16",
        "lora_target": "all-linear",
        "model_type": None,
        "model_config_kwargs": {"num_experts_per_tok": 8},
    },
    "generating_args": {
        "max_new_tokens": 8192,
        "temperature": 0.99,
        "top_p": 0.99,
        "top_k": 100,
        "num_beams": 1,
        "num_return_sequences": 8,
        "stop_strings": ["</answer>"],
        "logprobs": 1,
        "do_sample": True,
    },
    "data_args": {"template": "qwen2_5", "file_name": ["a.jsonl"], "interleave_probs": "1.0"},
    "training_args": {"learning_rate": 1.0e-6, "warmup_steps": 1},
    "strategy_args": {
        "strategy_name": "sglang",
        "strategy_config": {
            "mem_fraction_static": 0.7,
            "load_format": "dummy",
            "tensor_parallel_size": 2,
            "enable_memory_saver": False,
            "log_level": "info",
            "json_model_override_args": {"rope_scaling": {"factor": 4.0}},
            "cuda_graph_bs": [1, 2, 4],
            "grpc_mode": None,
        },
    },
    "num_gpus_per_worker": 2,
    "num_gpus_per_node": 8,
    "device_mapping": "list(range(0,16)) + list(range(24, 32))",
    "infer_batch_size": 16,
    "system_envs": {"USE_MODELSCOPE": "1", "NCCL_DEBUG": None, "OMP_NUM_THREADS": 4},
    "router_replay": {"mode": "R3"},
    "sequence_packing_args": {"algorithm": "none", "max_packed_sequence_length_train": None},
    "llm_proxy": {"proxy_type": "policy", "proxy_config": {}},
    "num_groups_partition": [128],
    "tag_included": [],
    "seed": 42,
}


@pytest.fixture(scope="module", autouse=True)
def schema(plane: ControlPlane) -> None:
    """What kubectl explains comes a moment after the definition."""
    plane.wait(lambda: plane.kubectl("explain", "sgi.spec").stdout, WAIT_SECONDS, "the schema")


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    return plane.namespace(f"crd-{next(NUMBERS)}")


def collection(namespace: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"


def pool(spec: dict[str, Any], name: str = "pool") -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


def create(plane: ControlPlane, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Create a pool as a strict client would, and return what the API server made of it."""
    query = "?fieldValidation=Strict"
    made: dict[str, Any] = plane.api.post(collection(namespace) + query, pool(spec))
    return made


def refusal(plane: ControlPlane, spec: dict[str, Any], name: str = "pool") -> str:
    """The API server's words when it refuses a pool."""
    path = collection("default") + "?fieldValidation=Strict&dryRun=All"
    with pytest.raises(ApiError) as caught:
        plane.api.post(path, pool(spec, name))
    return str(caught.value)


def rule_said(text: str, field: str, words: str) -> bool:
    """Whether a refusal consists of one rule's words about that field."""
    value = r'(?:(?:"(?:[^"\\]|\\.)*"|[-\w.]+): )?'
    cause = rf"{re.escape(field)}: (?:Invalid|Required) value: {value}{re.escape(words)}"
    return re.search(rf" is invalid: {cause}$", text) is not None


def mapped(mapping: object, **fields: object) -> dict[str, Any]:
    return {"model_args": MODEL, "strategy_args": SGLANG, "device_mapping": mapping, **fields}


# --- parallel sizes


def sizes() -> list[dict[str, Any]]:
    """Every way to divide one, two, four or six GPUs, right and wrong."""
    found = []
    for gpus, tp, pp, dp, within in itertools.product(
        (1, 2, 4, 6), (None, 1, 2, 4), (None, 1, 2), (None, 1, 2, 3), (None, True)
    ):
        config = {"tp_size": tp, "pipeline_parallel_size": pp, "data_parallel_size": dp}
        config |= {"enable_dp_attention": within}
        written = {key: value for key, value in config.items() if value is not None}
        strategy = {**SGLANG, "strategy_config": written}
        found.append({"num_gpus_per_worker": gpus, "strategy_args": strategy})
    return found


def test_sizes_are_refused_at_apply_only_if_the_operator_refuses_them_and_in_its_words(plane):
    path = collection("default") + "?fieldValidation=Strict&dryRun=All"
    refused_here, left = 0, set[str]()
    for fields in sizes():
        spec = mapped(f"list(range(0,{fields['num_gpus_per_worker']}))", **fields)
        resolved = resolve_pool(OWNER, spec)
        words = [problem.message for problem in getattr(resolved, "errors", ())]
        try:
            plane.api.post(path, pool(spec))
        except ApiError as error:
            refused_here += 1
            assert any(str(error).endswith(word) for word in words), (spec, str(error), words)
        else:
            left.update(word.split(" is ")[0] for word in words)
    assert refused_here > 100
    # Sizes that divide nothing are left to the operator.
    assert left == {"pipeline_parallel_size", "data_parallel_size"}


# --- device_mapping


@pytest.mark.parametrize(
    ("mapping", "per_worker"),
    [
        ("list(range(0,24))", 2),
        ("list(range(8))", 8),
        ("list(range(0, 16, 2))", 4),
        ("[0]", 1),
        ("[0, 1, 2, 3,]", 4),
        ("list([4,5,12,13])", 2),
        ("list(range(0,4)) + list(range(8,12))", 8),
        (" list ( range ( 0 , 4 ) )+[ 8 ,9 ]  + list( [10,11] )\n", 8),
        ("[7, 6, 5, 4]", 2),
        ("list(range(999992,999999)) + [999999]", 8),
        ("list(range(0,8192))", 8),
        ("list(range(0,0)) + [1]", 1),
    ],
)
def test_a_mapping_is_accepted(plane, mapping, per_worker):
    path = collection("default") + "?fieldValidation=Strict&dryRun=All"
    assert plane.api.post(path, pool(mapped(mapping, num_gpus_per_worker=per_worker)))


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ("${mapping}", errors.MAPPING_UNRESOLVED("", found="${mapping}")),
        ("list(range(0,${n}))", errors.MAPPING_UNRESOLVED("", found="list(range(0,${n}))")),
        ("", errors.MAPPING_EMPTY("", found='""')),
        ("  ", errors.MAPPING_EMPTY("", found='"  "')),
        ("[]", errors.MAPPING_EMPTY("", found="[]")),
        ("list(range(8,8))", errors.MAPPING_EMPTY("", found="list(range(8,8))")),
        ("list(range(8,0))", errors.MAPPING_EMPTY("", found="list(range(8,0))")),
        ("[0, -1]", errors.MAPPING_NEGATIVE("", found=-1)),
        ("list(range(-8,0))", errors.MAPPING_NEGATIVE("", found=-8)),
        (
            "list(range(0,1000000000))",
            errors.MAPPING_TOO_LARGE(
                "", found="list(range(0,1000000000))", limit=8192, id_limit=999999
            ),
        ),
        (
            "list(range(0,8193))",
            errors.MAPPING_TOO_LARGE("", found="list(range(0,8193))", limit=8192, id_limit=999999),
        ),
        (
            "[1000000]",
            errors.MAPPING_TOO_LARGE("", found="[1000000]", limit=8192, id_limit=999999),
        ),
    ],
)
def test_a_mapping_is_refused_in_the_words_of_the_table(plane, mapping, problem):
    said = refusal(plane, mapped(mapping, num_gpus_per_worker=4))
    assert rule_said(said, "spec.device_mapping", problem.message), said


@pytest.mark.parametrize(
    "mapping",
    [
        "__import__('os')",
        '__import__("os").system("id")',
        "range(0,8)",
        "(0, 1)",
        "0, 1",
        "0",
        "eight",
        "list()",
        "list(range())",
        "list(range(0,8)",
        "list(range(0,8)))",
        "[0, 1",
        "[0 1]",
        "[0,,1]",
        "[0] * 8",
        "[0]++[1]",
        "+[0]",
        "[0]+",
        "[08]",
        "[0.5]",
        "[0x10]",
        "list(range(0,8,0))",
        "list(range(8,0,-1))",
        "list(range(0,8,1,1))",
        "sorted([1, 0])",
        "[i for i in range(8)]",
        "LIST(RANGE(0,8))",
        "[０]",
    ],
)
def test_a_mapping_that_is_no_mapping_is_refused_with_the_forms_there_are(plane, mapping):
    said = refusal(plane, mapped(mapping))
    words = errors.MAPPING_GRAMMAR("", found=mapping).message
    assert rule_said(said, "spec.device_mapping", words), said


@pytest.mark.parametrize(
    ("mapping", "gpus", "per_worker", "advice"),
    [
        ("list(range(0,24))", 24, 5, "20 or 25"),
        ("list(range(0,3))", 3, 4, "4"),
        ("list(range(0,9)) + list(range(16,25))", 18, 4, "16 or 20"),
        ("list(range(0,16,3))", 6, 4, "4 or 8"),
        ("[0, 1, 2]", 3, 2, "2 or 4"),
    ],
)
def test_a_mapping_that_does_not_divide_is_refused_with_numbers_that_do(
    plane, mapping, gpus, per_worker, advice
):
    said = refusal(plane, mapped(mapping, num_gpus_per_worker=per_worker))
    problem = errors.MAPPING_NOT_DIVISIBLE("", gpus=gpus, per_worker=per_worker, advice=advice)
    assert rule_said(said, "spec.device_mapping", problem.message), said


@pytest.mark.parametrize(
    ("term", "gpus"), [("[0]", 1), ("list(range(0,8))", 8), ("list(range(0,9,2))", 5)]
)
def test_the_longest_mapping_is_counted_within_the_cost_that_the_API_server_allows(
    plane, term, gpus
):
    count = 4097 // (len(term) + 1)
    mapping = "+".join([term] * count)
    total = count * gpus
    said = refusal(plane, mapped(mapping, num_gpus_per_worker=1023))
    lower = total // 1023 * 1023
    advice = f"{lower} or {lower + 1023}" if lower else "1023"
    problem = errors.MAPPING_NOT_DIVISIBLE("", gpus=total, per_worker=1023, advice=advice)
    assert rule_said(said, "spec.device_mapping", problem.message), said[-300:]


def test_a_mapping_of_more_than_4096_characters_is_refused(plane):
    assert "may not be more than 4096 bytes" in refusal(plane, mapped("[0" + ",1" * 2048 + "]"))


def test_a_mapping_that_is_a_YAML_list_is_refused_as_ROLL_does(plane):
    said = refusal(plane, mapped([0, 1]))
    assert "spec.device_mapping in body must be of type string" in said


# --- the other fields


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        (
            {"device_mapping": None},
            "spec.device_mapping",
            errors.MAPPING_OR_REPLICAS(""),
        ),
        ({"model_args": {"dtype": "bf16"}}, "spec.model_args", errors.MODEL_MISSING("")),
        ({"model_args": None}, "spec.model_args", errors.MODEL_MISSING("")),
        (
            {"model_args": {"model_name_or_path": "${pretrain}"}},
            "spec.model_args.model_name_or_path",
            errors.UNRESOLVED("", found="${pretrain}"),
        ),
        (
            {"model_args": {**MODEL, "dtype": "int8"}},
            "spec.model_args.dtype",
            errors.MODEL_DTYPE("", found="int8"),
        ),
        (
            {"strategy_args": None},
            "spec.strategy_args.strategy_name",
            errors.FIELD_MISSING("", advice="write strategy_name: sglang"),
        ),
        (
            {"strategy_args": {"strategy_name": None}},
            "spec.strategy_args.strategy_name",
            errors.FIELD_MISSING("", advice="write strategy_name: sglang"),
        ),
        (
            {"strategy_args": {"strategy_name": "vllm"}},
            "spec.strategy_args.strategy_name",
            errors.STRATEGY_NAME("", found="vllm"),
        ),
        (
            {"strategy_args": {**SGLANG, "strategy_config": {"grpc_mode": True}}},
            "spec.strategy_args.strategy_config.grpc_mode",
            errors.GRPC_MODE(""),
        ),
        (
            {"strategy_args": {**SGLANG, "strategy_config": {"mem_fraction_static": 1.2}}},
            "spec.strategy_args.strategy_config.mem_fraction_static",
            errors.ARGUMENT_VALUE(
                "",
                key="mem_fraction_static",
                found=1.2,
                expected="a number above 0 and below 1",
                advice="use 0.6 to 0.85",
            ),
        ),
        (
            {
                "num_gpus_per_worker": 4,
                "strategy_args": {**SGLANG, "strategy_config": {"tp_size": 2}},
            },
            "spec.strategy_args.strategy_config",
            errors.PARALLELISM("", tp=2, pp=1, product=2, per_worker=4, advice=4),
        ),
        (
            {
                "num_gpus_per_worker": 4,
                "strategy_args": {
                    **SGLANG,
                    "strategy_config": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2},
                },
            },
            "spec.strategy_args.strategy_config",
            errors.PARALLELISM("", tp=4, pp=2, product=8, per_worker=4, advice=2),
        ),
        (
            {"router_replay": {"mode": "R2"}},
            "spec.router_replay.mode",
            errors.ROUTER_REPLAY_MODE("", found="R2", advice="ROLL itself implements no other"),
        ),
        (
            {"engineVersion": "latest"},
            "spec.engineVersion",
            errors.ENGINE_VERSION("", found="latest"),
        ),
        (
            {"scheduling": {"priorityClassName": "system-node-critical"}},
            "spec.scheduling.priorityClassName",
            errors.POD_FIELD(
                "",
                found="system-node-critical",
                expected=texts.PRIORITY,
                advice=texts.DO_PRIORITY,
            ),
        ),
        (
            {"podTemplate": {"spec": {"containers": [{"name": "engine"}, {"name": "side"}]}}},
            "spec.podTemplate.spec.containers",
            errors.POD_TEMPLATE(
                "",
                found="containers engine, side",
                expected="one container called engine",
                advice="run anything else in a pod of its own",
            ),
        ),
        (
            {"podTemplate": {"spec": {"containers": [{"name": "main"}]}}},
            "spec.podTemplate.spec.containers",
            errors.POD_TEMPLATE(
                "",
                found="containers main",
                expected="one container called engine",
                advice="run anything else in a pod of its own",
            ),
        ),
        (
            {"podTemplate": {"metadata": {"labels": {names.LABEL_POOL: "x"}}}},
            "spec.podTemplate.metadata.labels",
            errors.POD_TEMPLATE(
                "",
                found=names.LABEL_POOL,
                expected="keys that are not the operator's own",
                advice="choose another key",
            ),
        ),
        (
            {"podTemplate": {"spec": {"volumes": [{"name": "dshm", "emptyDir": {}}]}}},
            "spec.podTemplate.spec.volumes[0].name",
            errors.POD_TEMPLATE(
                "", found="dshm", expected="another name", advice=pod_volumes.SHM_ADVICE
            ),
        ),
        (
            {"podTemplate": {"spec": {"volumes": [{"name": "models"}]}}},
            "spec.podTemplate.spec.volumes[0]",
            errors.POD_TEMPLATE(
                "",
                found="volume models with 0 sources",
                expected="one source",
                advice="write one of persistentVolumeClaim, hostPath, image, configMap, secret, "
                "emptyDir and ephemeral",
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_field_is_refused_in_the_words_of_the_table(plane, fields, field, problem):
    said = refusal(plane, mapped("list(range(0,8))") | fields)
    assert rule_said(said, field, problem.message), said


@pytest.mark.parametrize("name", ["a" * 41, "1-pool", "pool.one"])
def test_a_name_that_children_cannot_carry_is_refused(plane, name):
    said = refusal(plane, mapped("[0]"), name)
    problem = errors.POOL_NAME("", found=name, length=len(name), limit=names.MAX_POOL_NAME)
    assert rule_said(said, "metadata.name", problem.message), said


def test_a_name_of_40_characters_is_accepted(plane):
    path = collection("default") + "?dryRun=All"
    assert plane.api.post(path, pool(mapped("[0]"), "a" * 40))


@pytest.mark.parametrize(
    ("fields", "unknown"),
    [
        ({"num_gpu_per_worker": 2}, "spec.num_gpu_per_worker"),
        ({"deviceMapping": "[0]"}, "spec.deviceMapping"),
        ({"strategy_args": SGLANG | {"strategy_conf": {}}}, "spec.strategy_args.strategy_conf"),
        ({"rollout": {"maxUnavailble": 1}}, "spec.rollout.maxUnavailble"),
        ({"podTemplate": {"spec": {"hostPID": True}}}, "spec.podTemplate.spec.hostPID"),
        ({"podTemplate": {"spec": {"hostNetwork": True}}}, "spec.podTemplate.spec.hostNetwork"),
        (
            {"podTemplate": {"spec": {"serviceAccountName": "admin"}}},
            "spec.podTemplate.spec.serviceAccountName",
        ),
        (
            {"podTemplate": {"spec": {"initContainers": [{"name": "x"}]}}},
            "spec.podTemplate.spec.initContainers",
        ),
        (
            {
                "podTemplate": {
                    "spec": {
                        "containers": [{"name": "engine", "securityContext": {"privileged": True}}]
                    }
                }
            },
            "spec.podTemplate.spec.containers[0].securityContext",
        ),
        (
            {"podTemplate": {"spec": {"volumes": [{"name": "x", "nfs": {}, "emptyDir": {}}]}}},
            "spec.podTemplate.spec.volumes[0].nfs",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_field_that_does_not_exist_is_refused_by_name(plane, fields, unknown):
    said = refusal(plane, mapped("[0]", **fields))
    assert said.endswith(f'strict decoding error: unknown field "{unknown}"'), said


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_gpus_per_worker": 0}, "spec.num_gpus_per_worker in body should be greater than"),
        ({"num_gpus_per_worker": 1025}, "should be less than or equal to 1024"),
        ({"num_gpus_per_node": 65}, "should be less than or equal to 64"),
        ({"replicas": -1}, "spec.replicas in body should be greater than or equal to 0"),
        ({"replicas": 4097}, "should be less than or equal to 4096"),
        ({"rollout": {"maxUnavailable": 0}}, "should be greater than or equal to 1"),
        ({"rollout": {"maxUnavailable": "half"}}, "maxUnavailable is half; expected a number of"),
        ({"rollout": {"maxUnavailable": "0%"}}, "or a percentage of them from 1 to 100; correct"),
        ({"rollout": {"maxUnavailable": "101%"}}, "or a percentage of them from 1 to 100; correct"),
        ({"rollout": {"maxUnavailable": True}}, "must be of type integer,string"),
        ({"rollout": {"maxSurge": "lots"}}, "or a percentage of them from 0 to 100; correct"),
        ({"rollout": {"maxSurge": -1}}, "should be greater than or equal to 0"),
        ({"rollout": {"partition": -1}}, "should be greater than or equal to 0"),
        ({"network": {"port": 80}}, "spec.network.port in body should be greater than or equal"),
        ({"weights": {"gate": "Always"}}, 'supported values: "Auto", "Committed", "Versioned"'),
        ({"placement": {"mode": "count"}}, 'supported values: "Count", "Shared", "Slot"'),
        ({"restart": {"onNodeLost": "Ignore"}}, 'supported values: "Replace", "Wait"'),
        ({"image": ""}, "spec.image in body should be at least 1 chars long"),
        ({"extraArgs": "--enable-metrics"}, "spec.extraArgs in body must be of type array"),
        ({"security": {"apiKey": {"name": "key"}}}, "spec.security.apiKey.key: Required value"),
        (
            {"strategy_args": {**SGLANG, "strategy_config": {"mem_fraction_static": "0.7"}}},
            "must be of type number",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_value_out_of_bounds_is_refused(plane, fields, words):
    said = refusal(plane, mapped("list(range(0,8))", **fields))
    assert words in said


# --- what is accepted, and kept as it is


def test_a_whole_ROLL_worker_section_is_accepted_and_kept(plane, namespace):
    filler = itertools.cycle(["text", 7, 0.5, True, ["a", 1], {"key": {"deep": [1]}}])
    section = {name: ROLL_WORKER.get(name, next(filler)) for name in ROLL_FIELDS}
    assert section.keys() >= ROLL_WORKER.keys()
    assert create(plane, namespace, section)["spec"] == section


@pytest.mark.parametrize("name", sorted({*ROLL_FIELDS} - {"model_args", "strategy_args"}))
def test_a_null_is_accepted_and_kept_as_in_a_ROLL_file(plane, name):
    section = mapped("[0]", replicas=1) | {name: None}
    path = collection("default") + "?fieldValidation=Strict&dryRun=All"
    assert plane.api.post(path, pool(section))["spec"] == section


def test_nulls_are_no_difference_to_what_was_applied(plane, namespace):
    section = dict.fromkeys(ROLL_FIELDS) | {
        "model_args": {**MODEL, "dtype": None, "model_type": None},
        "generating_args": {"top_k": None},
        "strategy_args": {**SGLANG, "strategy_config": {"load_format": None, "tp_size": None}},
        "replicas": 1,
    }
    text = yaml.safe_dump(pool(section))
    server_side = ("--server-side", "-n", namespace, "-f", "-")
    plane.kubectl("apply", *server_side, input=text)
    assert plane.kubectl("diff", *server_side, input=text).returncode == 0
    plane.kubectl("apply", *server_side, input=text)
    made = plane.api.get(f"{collection(namespace)}/pool")
    assert made["metadata"]["generation"] == 1
    assert made["spec"] == section


@pytest.mark.parametrize("mode", ["--server-side=false", "--server-side"])
def test_every_sample_applies_strictly_and_then_differs_in_nothing(plane, namespace, mode):
    for file in SAMPLES:
        arguments = (mode, "-n", namespace, "-f", str(file))
        plane.kubectl("apply", "--validate=strict", *arguments)
        assert plane.kubectl("diff", *arguments).returncode == 0
    listed = plane.kubectl("get", "rl", "-n", namespace, "-o", "name").stdout.split()
    assert len(listed) == len(SAMPLES)


def test_the_spec_is_kept_as_it_was_written(plane, namespace):
    section = mapped(" list( range(0, 8) ) ")
    made = create(plane, namespace, section)
    assert made["spec"] == section
    assert made["status"] == {"observedGeneration": -1}


def test_a_wait_for_a_pool_that_nobody_has_looked_at_does_not_pass(plane, namespace):
    create(plane, namespace, mapped("[0]"))
    waiting = plane.kubectl(
        *("wait", "sgi/pool", "-n", namespace, "--for=condition=Ready", "--timeout=1s"),
        check=False,
    )
    assert waiting.returncode != 0


def test_the_definition_can_be_applied_again_without_a_change(plane):
    assert "unchanged" in plane.kubectl("apply", "-f", str(CRD_FILE)).stdout


# --- what kubectl shows


@pytest.mark.parametrize("value", [1, 4096, "1%", "25%", "100%"])
def test_numbers_of_engines_may_be_shares_of_all(plane, value):
    spec = mapped("[0]", rollout={"maxUnavailable": value, "maxSurge": "0%"})
    made = create(plane, plane.namespace(f"share-{value}".replace("%", "-percent")), spec)
    assert made["spec"]["rollout"]["maxUnavailable"] == value


def test_kubectl_explains_the_fields(plane):
    def explained(field: str) -> str:
        return " ".join(plane.kubectl("explain", f"sgi.spec.{field}").stdout.split())

    mapping = explained("device_mapping")
    assert "FIELD: device_mapping <string>" in mapping
    assert "list(range(0,24)) with num_gpus_per_worker: 2 is 12 engines" in mapping
    assert "It is parsed, never evaluated" in mapping
    assert "len(device_mapping) // num_gpus_per_worker" in explained("num_gpus_per_worker")
    assert "Anybody who may read the object reads them" in explained("system_envs")
    assert "accepted and kept, without effect on an engine." in explained("data_args")
    assert "Becomes --model-path." in explained("model_args.model_name_or_path")
    assert "FIELD: maxUnavailable <" in explained("rollout.maxUnavailable")
    assert "a share of all such as 25%" in explained("rollout.maxUnavailable")
    assert "ENUM: Count Shared Slot" in explained("placement.mode")


STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "replicas": 12,
    "selector": names.selector_text("pool"),
    "readySummary": "12/12",
    "syncedSummary": "0/12",
    "engines": {"desired": 12, "created": 12, "up": 12, "inService": 0, "gpus": 24},
    "revision": "7c9d5b6f",
    "resolved": {
        "image": "lmsysorg/sglang:v0.5.7",
        "engineVersion": "0.5.7",
        "numGpusPerWorker": 2,
        "tensorParallelSize": 2,
        "gate": "Committed",
        "loadFormat": "dummy",
    },
    "placement": "Count",
    "ignoredFields": ["data_args"],
    "warnings": [{"reason": "InferBatchSizeIgnored", "field": "spec.x", "message": "no effect"}],
    "lastFailures": [
        {
            "reason": "KVCacheTooSmall",
            "message": "not enough memory",
            "advice": "raise mem_fraction_static",
            "exitCode": 1,
            "engines": ["g0-1"],
            "pod": "pool-g0-1-0",
            "firstTime": "2026-11-01T00:00:00Z",
            "lastTime": "2026-11-01T00:01:00Z",
        }
    ],
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-01T00:00:00Z",
            "reason": "PoolReady",
            "message": "12/12 engines of 2 GPUs are up; a trainer can attach",
        }
    ],
}


@pytest.fixture
def running(plane: ControlPlane, namespace: str) -> str:
    """A namespace with a pool whose status the operator has written."""
    create(plane, namespace, mapped("list(range(0,24))", num_gpus_per_worker=2))
    path = f"{collection(namespace)}/pool/status?fieldValidation=Strict"
    assert plane.api.merge(path, {"status": STATUS})["status"] == STATUS
    return namespace


def test_kubectl_shows_what_matters_in_columns(plane, running):
    header, row = plane.kubectl("get", "sgi", "-n", running).stdout.splitlines()
    assert header.split() == ["NAME", "READY", "SYNCED", "REASON", "AGE"]
    assert row.split()[:4] == ["pool", "12/12", "0/12", "PoolReady"]


def test_kubectl_shows_the_rest_in_wide_columns(plane, running):
    header, row = plane.kubectl("get", "sgi", "-n", running, "-o", "wide").stdout.splitlines()
    wide = ["MODEL", "GPUS", "PER-ENGINE", "PLACEMENT", "IMAGE", "MESSAGE"]
    assert header.split() == ["NAME", "READY", "SYNCED", "REASON", "AGE", *wide]
    message = STATUS["conditions"][0]["message"].split()
    expected = [MODEL["model_name_or_path"], "24", "2", "Count", "lmsysorg/sglang:v0.5.7"]
    assert row.split()[5:] == [*expected, *message]


def test_the_scale_subresource_reads_and_writes_replicas(plane, running):
    path = f"{collection(running)}/pool"
    plane.kubectl("scale", "sgi/pool", "-n", running, "--replicas=6")
    assert plane.api.get(path)["spec"]["replicas"] == 6
    scale = plane.api.get(f"{path}/scale")
    assert scale["spec"] == {"replicas": 6}
    assert scale["status"] == {"replicas": 12, "selector": names.selector_text("pool")}


def test_an_autoscaler_finds_no_scale_where_replicas_is_not_written(plane, running):
    with pytest.raises(ApiError, match="spec replicas field"):
        plane.api.get(f"{collection(running)}/pool/scale")


def test_a_writer_of_the_spec_cannot_write_the_status(plane, running):
    changed = plane.api.merge(f"{collection(running)}/pool", {"status": {"replicas": 3}})
    assert changed["status"]["replicas"] == 12


def test_kubectl_finds_pools_by_short_name_and_categories(plane, running):
    for word in ("sgi", "rl", "sglang", RESOURCE):
        listed = json.loads(plane.kubectl("get", word, "-n", running, "-o", "json").stdout)
        assert [item["metadata"]["name"] for item in listed["items"]] == ["pool"]
