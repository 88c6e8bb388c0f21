"""The custom resource definition and the samples agree with the code."""

import json
import re
import string
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from sglang_operator.api import errors, names, pod_template, spec
from tests import structural

MANIFESTS = Path(__file__).parents[3] / "manifests"
CRD_FILE = MANIFESTS / "crd" / "sglanginferences.yaml"
CRD = structural.definition()
VERSION = CRD["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
SPEC = ROOT["properties"]["spec"]
STATUS = ROOT["properties"]["status"]
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))

# kubectl apply keeps the object in an annotation of at most 262144 bytes.
MAX_BYTES = 200_000

NO_EFFECT = "accepted and kept, without effect on an engine."
ROLL_FIELDS_WITHOUT_EFFECT = frozenset(
    name
    for name, field in SPEC["properties"].items()
    if " ".join(field["description"].split()).endswith(NO_EFFECT)
)


def properties(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property below a schema, with its path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from properties(field, f"{path}.{name}")
    if items := schema.get("items"):
        yield from properties(items, f"{path}[]")


def schemas(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and every schema below it, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from schemas(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from schemas(schema[key], f"{path}[]")


def plain(annotation: Any) -> Any:
    """The type itself where a field may also be None."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        kept = [part for part in typing.get_args(annotation) if part is not type(None)]
        return kept[0]
    return annotation


def sections(struct: type[msgspec.Struct], path: str) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """The structures within a structure, with their paths in YAML."""
    for field in msgspec.structs.fields(struct):
        inner = plain(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield f"{path}.{field.encode_name}", inner
            yield from sections(inner, f"{path}.{field.encode_name}")


def leaves(
    struct: type[msgspec.Struct], path: str
) -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """The fields of a structure and of those within it that are no structures themselves."""
    for field in msgspec.structs.fields(struct):
        inner = plain(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from leaves(inner, f"{path}.{field.encode_name}")
        else:
            yield f"{path}.{field.encode_name}", field


DECLARED = dict(properties(SPEC, "spec"))
SECTIONS = dict(sections(spec.PoolSpec, "spec"))
LEAVES = dict(leaves(spec.PoolSpec, "spec"))
ORDER = [field.encode_name for field in msgspec.structs.fields(spec.PoolSpec)]  # ROLL's first


# --- the definition as a whole


def test_the_definition_has_the_names_that_the_code_uses():
    assert CRD["metadata"]["name"] == names.CRD_NAME
    assert CRD["spec"]["group"] == names.GROUP
    assert CRD["spec"]["names"]["kind"] == names.KIND
    assert CRD["spec"]["names"]["plural"] == names.PLURAL
    assert [version["name"] for version in CRD["spec"]["versions"]] == [names.VERSION]


def test_the_definition_is_small_enough_for_client_side_apply():
    assert CRD_FILE.stat().st_size < MAX_BYTES
    assert len(json.dumps(CRD)) < MAX_BYTES


def test_no_field_of_the_spec_has_a_default():
    assert not [path for path, schema in schemas(SPEC, "spec") if "default" in schema]


def test_a_new_object_has_an_observed_generation_that_no_spec_has():
    assert STATUS["default"] == {"observedGeneration": -1}
    assert STATUS["properties"]["observedGeneration"]["default"] == -1


@pytest.mark.parametrize("schema", [SPEC, STATUS], ids=["spec", "status"])
def test_every_field_is_described(schema):
    bare = [path for path, field in properties(schema, "") if not field.get("description")]
    assert not bare


def test_descriptions_fit_the_width_of_kubectl_explain():
    wide = [
        (path, line)
        for path, field in properties(ROOT, "")
        for line in field.get("description", "").splitlines()
        if len(line) > 76 and "\n" in field["description"]
    ]
    assert not wide


def test_every_list_of_the_spec_is_bounded_and_says_how_it_is_merged():
    lists = {path: s for path, s in schemas(SPEC, "spec") if s.get("type") == "array"}
    assert not [path for path, schema in lists.items() if "maxItems" not in schema]
    assert not [path for path, schema in lists.items() if "x-kubernetes-list-type" not in schema]


# --- the fields against api/spec.py


def test_the_spec_declares_what_the_code_reads_and_ROLL_fields_without_effect_and_no_more():
    assert SPEC["properties"].keys() - ROLL_FIELDS_WITHOUT_EFFECT == spec.FIELDS
    assert not ROLL_FIELDS_WITHOUT_EFFECT & spec.FIELDS


@pytest.mark.parametrize("name", sorted(ROLL_FIELDS_WITHOUT_EFFECT))
def test_a_ROLL_field_without_effect_takes_any_value(name):
    field = {k: v for k, v in SPEC["properties"][name].items() if k != "description"}
    assert field == {"nullable": True, "x-kubernetes-preserve-unknown-fields": True}


def test_ROLL_fields_without_effect_are_the_ones_that_the_code_reports_as_ignored():
    pasted = dict.fromkeys([*ROLL_FIELDS_WITHOUT_EFFECT, *spec.FIELDS], "x")
    assert set(spec.ignored_fields(pasted)) == ROLL_FIELDS_WITHOUT_EFFECT


@pytest.mark.parametrize("path", SECTIONS)
def test_a_section_declares_what_the_code_reads_and_no_more(path):
    fields = msgspec.structs.fields(SECTIONS[path])
    assert DECLARED[path]["properties"].keys() == {field.encode_name for field in fields}
    assert set(DECLARED[path].get("required", [])) == {f.encode_name for f in fields if f.required}


JSON_TYPES = {
    int: "integer",
    str: "string",
    bool: "boolean",
    dict: "object",
    list: "array",
    float: "number",
}


@pytest.mark.parametrize("path", LEAVES)
def test_a_field_has_the_type_that_the_code_reads(path):
    inner = plain(LEAVES[path].type)
    if typing.get_args(LEAVES[path].type) == (int, str):
        assert DECLARED[path]["x-kubernetes-int-or-string"]
        return
    inner = typing.get_origin(inner) or inner
    if inner is Any:
        return
    if issubclass(inner, Enum):
        assert DECLARED[path]["enum"] == [member.value for member in inner]
    else:
        assert DECLARED[path]["type"] == JSON_TYPES[inner]


@pytest.mark.parametrize("name", sorted(spec.FIELDS))
def test_ROLL_fields_may_be_null_and_those_of_Kubernetes_may_not(name):
    is_kubernetes = ORDER.index(name) >= ORDER.index("image")
    assert SPEC["properties"][name].get("nullable", False) is not is_kubernetes


def stated(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(
    "path",
    [path for path, field in LEAVES.items() if isinstance(field.default, (int, str, Enum))],
)
def test_a_description_states_the_default_of_the_code(path):
    text = " ".join(DECLARED[path]["description"].split())
    default = re.escape(stated(LEAVES[path].default))
    assert re.search(rf"Default: {default}(?![\w-])", text), text


# --- podTemplate


def test_the_pod_template_declares_what_the_allow_list_has():
    template = SPEC["properties"]["podTemplate"]["properties"]
    body = template["spec"]["properties"]
    container = body["containers"]["items"]["properties"]
    volume = body["volumes"]["items"]["properties"]
    assert template.keys() == {"metadata", "spec"}
    assert template["metadata"]["properties"].keys() == {"labels", "annotations"}
    assert body.keys() == pod_template.SPEC_FIELDS
    assert container.keys() == pod_template.CONTAINER_FIELDS
    assert volume.keys() == pod_template.VOLUME_KINDS | {"name"}


# --- rules and their words


def rules(schema: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    return [
        (path, rule)
        for path, inner in schemas(schema, "")
        for rule in inner.get("x-kubernetes-validations", [])
    ]


RULES = rules(ROOT)
LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'")


def texts(rule: dict[str, str]) -> list[str]:
    """The sentences that a rule may say, with %s and %d where values go."""
    if "messageExpression" not in rule:
        return [rule["message"]]
    literals = [found.replace("\\'", "'") for found in LITERAL.findall(rule["messageExpression"])]
    return [text for text in literals if "; " in text]


def pattern(text: str) -> str:
    """A row's text as a regular expression, with anything where its values go."""
    parts = [
        re.escape(literal) + ("" if field is None else ".+")
        for literal, field, _, _ in string.Formatter().parse(text)
    ]
    return "".join(parts)


PATTERNS = [re.compile(pattern(row.text)) for _, row in errors.rows()]


@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=[path for path, _ in RULES])
def test_a_rule_speaks_in_the_words_of_the_table_of_errors(rule):
    found = texts(rule)
    assert found
    strange = [text for text in found if not any(p.fullmatch(text) for p in PATTERNS)]
    assert not strange


def test_every_rule_has_a_static_message_too():
    assert not [path for path, rule in RULES if not rule.get("message")]


@pytest.mark.parametrize(
    "row",
    [
        errors.MAPPING_UNRESOLVED,
        errors.MAPPING_GRAMMAR,
        errors.MAPPING_EMPTY,
        errors.MAPPING_NEGATIVE,
        errors.MAPPING_TOO_LARGE,
        errors.MAPPING_NOT_DIVISIBLE,
        errors.MAPPING_OR_REPLICAS,
        errors.MODEL_MISSING,
        errors.MODEL_DTYPE,
        errors.UNRESOLVED,
        errors.STRATEGY_NAME,
        errors.PARALLELISM,
        errors.GRPC_MODE,
        errors.ROUTER_REPLAY_MODE,
        errors.ENGINE_VERSION,
        errors.POOL_NAME,
        errors.ROLLOUT_SHARE,
        errors.POD_TEMPLATE,
    ],
    ids=lambda row: row.text[:40],
)
def test_an_error_that_the_API_server_can_find_is_found_by_a_rule(row):
    said = [text for _, rule in RULES for text in texts(rule)]
    assert any(re.fullmatch(pattern(row.text), text) for text in said)


def test_the_grammar_of_device_mapping_is_the_same_wherever_it_stands():
    grammar = re.compile(r"\+ '\+'\)\.matches\('((?:[^'\\]|\\.)*)'\)")
    found = [g for _, rule in RULES for g in grammar.findall(rule["rule"])]
    assert len(found) == 2
    assert len(set(found)) == 1


def test_the_limits_and_keys_in_rules_are_those_of_the_code():
    name_rule = ROOT["x-kubernetes-validations"][0]
    assert f"at most {names.MAX_POOL_NAME} characters" in name_rule["messageExpression"]
    assert f"{{0,{names.MAX_POOL_NAME - 2}}}" in name_rule["rule"]
    metadata = SPEC["properties"]["podTemplate"]["properties"]["metadata"]["properties"]
    for section in metadata.values():
        rule = section["x-kubernetes-validations"][0]["rule"]
        literals = set(LITERAL.findall(rule))
        assert literals == {*names.OWN_PREFIXES, *names.OWN_LABELS}


# --- samples


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


POOLS = {
    file.name: document
    for file in SAMPLES
    for document in documents(file)
    if document["kind"] == names.KIND
}
for_every_pool = pytest.mark.parametrize("sample", POOLS.values(), ids=POOLS.keys())


def undeclared(value: object, schema: dict[str, Any], path: str) -> Iterator[str]:
    """The fields of a value that its schema does not declare."""
    if isinstance(value, list):
        for item in value:
            yield from undeclared(item, schema.get("items", {}), f"{path}[]")
    elif isinstance(value, dict):
        declared = schema.get("properties", {})
        is_open = "additionalProperties" in schema
        is_open |= schema.get("x-kubernetes-preserve-unknown-fields", False)
        for key, inner in value.items():
            if key in declared:
                yield from undeclared(inner, declared[key], f"{path}.{key}")
            elif not is_open:
                yield f"{path}.{key}"


@for_every_pool
def test_a_sample_uses_only_declared_fields(sample):
    assert sample["apiVersion"] == names.API_VERSION
    assert not list(undeclared(sample["spec"], SPEC, "spec"))


@for_every_pool
def test_a_sample_is_parsed_by_the_operator(sample):
    parsed = spec.parse(sample["spec"])
    assert parsed.model_args["model_name_or_path"]
    assert parsed.strategy_args.strategy_name == "sglang"
    assert not pod_template.parse(parsed.pod_template)[1]


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.name)
def test_a_sample_begins_by_saying_what_it_is_for(file):
    assert file.read_text().startswith("# ")


def test_samples_have_names_of_their_own():
    found = [pool["metadata"]["name"] for pool in POOLS.values()]
    assert len(set(found)) == len(found) == len(SAMPLES)


def test_the_sample_of_the_ROLL_guide_is_the_example_of_the_guide():
    (pool,) = documents(MANIFESTS / "samples" / "roll-guide.yaml")
    assert pool["metadata"]["name"] == "actor-infer"
    assert pool["spec"] == {
        "model_args": {
            "model_name_or_path": "Qwen/Qwen3-30B-A3B-Base",
            "disable_gradient_checkpointing": True,
            "dtype": "bf16",
        },
        "generating_args": {
            "max_new_tokens": 4096,
            "top_p": 0.99,
            "top_k": 100,
            "num_beams": 1,
            "temperature": 0.99,
            "num_return_sequences": 8,
        },
        "data_args": {"template": "qwen2_5"},
        "strategy_args": {
            "strategy_name": "sglang",
            "strategy_config": {"mem_fraction_static": 0.7, "load_format": "dummy"},
        },
        "num_gpus_per_worker": 2,
        "device_mapping": "list(range(0,24))",
        "infer_batch_size": 1,
    }
