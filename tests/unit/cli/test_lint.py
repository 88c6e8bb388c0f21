"""Each mistake is told once, in the operator's words, at the line where it was made."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from sglang_operator.api.errors import Severity
from sglang_operator.cli import findings
from sglang_operator.cli.yaml_tree import reading
from tests.unit.cli.runner import GUIDE, SAMPLES, converted, line_of, linted, run

ROLL = GUIDE.read_text()
OBJECT = yaml.safe_dump(converted(GUIDE)[0], sort_keys=False)
# In both texts these lines occur once, or first where they are meant.
MAPPING = "device_mapping: list(range(0,24))"
MEMORY = "mem_fraction_static: 0.7"

# what is written, instead of what, the reason, and a part of the words
MISTAKES = {
    "a misspelt argument": (MEMORY, "mem_fraction_statc: 0.7", "ArgumentUnknown", "did you mean"),
    "an argument out of range": (MEMORY, "mem_fraction_static: 1.5", "ArgumentInvalid", "below 1"),
    "an argument of another type": (
        "load_format: dummy",
        "context_length: long",
        "ArgumentInvalid",
        "a whole number",
    ),
    "an argument of vLLM": (
        MEMORY,
        "gpu_memory_utilization: 0.7",
        "ArgumentUnknown",
        "mem_fraction_static",
    ),
    "no such choice": (
        "load_format: dummy",
        "attention_backend: flashinfr",
        "ArgumentInvalid",
        "did you mean flashinfer",
    ),
    "a flag that is no flag": (
        "load_format: dummy",
        "enable_metrics: 1",
        "ArgumentInvalid",
        "true or false",
    ),
    "an argument of the operator's": (
        "load_format: dummy",
        "host: 1.2.3.4",
        "ArgumentOwned",
        "the operator sets it",
    ),
    "an argument that ROLL decides": (
        "load_format: dummy",
        "port: 8000",
        "ArgumentOverridden",
        "network.port",
    ),
    "too much parallelism": (
        "load_format: dummy",
        "tp_size: 4",
        "ParallelismMismatch",
        "num_gpus_per_worker is 2",
    ),
    "gRPC": ("load_format: dummy", "grpc_mode: true", "ArgumentInvalid", "over HTTP"),
    "a size that does not divide": (
        MAPPING,
        "device_mapping: list(range(0,23))",
        "DeviceMappingInvalid",
        "23 is not divisible by 2",
    ),
    "a size of another type": (
        "num_gpus_per_worker: 2",
        "num_gpus_per_worker: two",
        "SpecInvalid",
        "found two, expected a whole number",
    ),
    "a size out of range": (
        "num_gpus_per_worker: 2",
        "num_gpus_per_worker: 0",
        "SpecInvalid",
        "1 to 1024",
    ),
    "a mapping that repeats": (
        MAPPING,
        "device_mapping: '[0,1,1,2]'",
        "DeviceMappingInvalid",
        "more than once",
    ),
    "a mapping below zero": (
        MAPPING,
        "device_mapping: list(range(-2,2))",
        "DeviceMappingInvalid",
        "0 or more",
    ),
    "a mapping without end": (
        MAPPING,
        "device_mapping: list(range(0,10**9))",
        "DeviceMappingInvalid",
        "expected list(range(a,b))",
    ),
    "a mapping that is huge": (
        MAPPING,
        "device_mapping: list(range(0,900000))",
        "DeviceMappingInvalid",
        "split it",
    ),
    "a mapping that is a list": (
        MAPPING,
        "device_mapping: [0, 1]",
        "DeviceMappingInvalid",
        "expected a string",
    ),
    "code in a mapping": (
        MAPPING,
        "device_mapping: __import__('os').getcwd()",
        "DeviceMappingInvalid",
        "expected list(range(a,b))",
    ),
    "an engine across nodes": (
        MAPPING,
        "device_mapping: list(range(7,11))",
        "DeviceMappingInvalid",
        "expected each engine on as many nodes as engine 0, which is on 2",
    ),
    "an unknown precision": ("dtype: bf16", "dtype: int4", "ArgumentInvalid", "fp32, fp16, bf16"),
    "a sampling parameter that is no number": (
        "top_p: 0.99",
        "top_p: high",
        "SpecInvalid",
        "a number",
    ),
    "a key twice": (
        "load_format: dummy",
        "load_format: dummy\n      load_format: auto",
        "DuplicateKey",
        "written twice",
    ),
    "two spellings": (
        "load_format: dummy",
        "tp_size: 2\n      tensor_parallel_size: 1",
        "ArgumentConflict",
        "two spellings",
    ),
    "a variable of the operator's": (
        "USE_MODELSCOPE: '1'",
        "CUDA_VISIBLE_DEVICES: '1'",
        "SystemEnvOwned",
        "device plugin",
    ),
    "a variable that is none": (
        "USE_MODELSCOPE: '1'",
        "BAD NAME: '1'",
        "SystemEnvInvalid",
        "environment variable",
    ),
    "a tag": (MEMORY, "mem_fraction_static: !!python/name:os.system 1", "YAMLInvalid", "the tag"),
}


def _with_mistake(text, old, new):
    """The text with the mistake in the section of actor_infer, and the line it is in."""
    position = text.find(old, max(0, text.find("\nactor_infer:")))
    position = text.index(old) if position < 0 else position  # of the pipeline
    changed = text[:position] + new + text[position + len(old) :]
    line = text.count("\n", 0, position) + 1 + new.count("\n")
    return changed, line


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
@pytest.mark.parametrize("text", [ROLL, OBJECT], ids=["in a ROLL file", "in an object"])
def test_a_mistake_is_told_at_its_line(tmp_path, text, mistake):
    old, new, reason, words = mistake
    changed, line = _with_mistake(text, old, new)
    found = linted(tmp_path, changed).findings
    fitting = [f for f in found if f.problem.reason == reason and words in f.problem.message]
    assert [f.mark.line for f in fitting] == [line], [f.line() for f in found]


ONLY_IN_OBJECTS = {
    "a field that is none": ("  seed: 42", "  replica: 3", "FieldUnknown", "did you mean replicas"),
    "a field of another place": (
        "  seed: 42",
        "  maxUnavailable: 3",
        "FieldUnknown",
        "spec.rollout.maxUnavailable",
    ),
    "an argument beside the fields": (
        "  seed: 42",
        "  mem_fraction_static: 0.5",
        "FieldUnknown",
        "strategy_args.strategy_config",
    ),
    "a privileged pod": (
        "  seed: 42",
        "  podTemplate: {spec: {hostNetwork: true}}",
        "PodTemplateForbidden",
        "not allowed",
    ),
    "another version": (
        "sglang-operator.dev/v1alpha1",
        "sglang-operator.dev/v1",
        "SpecInvalid",
        "v1alpha1",
    ),
    "another kind": ("kind: SGLangInference", "kind: SGLang", "SpecInvalid", "SGLangInference"),
    "a name that is none": ("name: actor-infer", "name: Actor_Infer", "PoolNameInvalid", "DNS"),
    "a label that is no text": (
        "name: actor-infer",
        "name: actor-infer\n  labels: {a: 1}",
        "SpecInvalid",
        "in quotes",
    ),
    "a list for a map": ("  seed: 42", "  rollout: []", "SpecInvalid", "found [], expected a map"),
    "no such word": ("  seed: 42", "  generation: Never", "SpecInvalid", "Never"),
    "an argument that is owned": (
        "  seed: 42",
        "  extraArgs: [--model-path=/x]",
        "ArgumentOwned",
        "extraArgs has --model-path",
    ),
    "strategy of another backend": (
        "strategy_name: sglang",
        "strategy_name: vllm",
        "StrategyUnsupported",
        "leave other workers to ROLL",
    ),
}


PODS = {
    "a list with an item twice": (
        "    spec:\n      imagePullSecrets:\n      - name: a\n      - name: a\n",
        8,
        "spec.podTemplate.spec.imagePullSecrets[1].name",
        "there once",
    ),
    "a variable twice": (
        "    spec:\n      containers:\n      - name: engine\n        env:\n"
        "        - {name: A, value: b}\n        - {name: A, value: c}\n",
        10,
        "spec.podTemplate.spec.containers[0].env[1].name",
        "there once",
    ),
    "a toleration": (
        "    spec:\n      tolerations:\n      - operator: Equals\n",
        7,
        "spec.podTemplate.spec.tolerations[0].operator",
        "one of Equal, Exists",
    ),
    "a mount of no volume": (
        "    spec:\n      containers:\n      - name: engine\n        volumeMounts:\n"
        "        - mountPath: /m\n          name: models\n",
        10,
        "spec.podTemplate.spec.containers[0].volumeMounts[0].name",
        "a volume that there is",
    ),
    "an item that is null": (
        "    spec:\n      tolerations:\n      -\n",
        7,
        "spec.podTemplate.spec.tolerations[0]",
        "a map",
    ),
    "a misspelt part of an affinity": (
        "    spec:\n      affinity:\n        nodeAffinity:\n          required: {}\n",
        8,
        "spec.podTemplate.spec.affinity.nodeAffinity.required",
        "the fields are preferredDuringSchedulingIgnoredDuringExecution",
    ),
}


@pytest.mark.parametrize("mistake", PODS.values(), ids=PODS.keys())
def test_a_mistake_in_a_pod_template_is_told_once_at_its_line(tmp_path, mistake):
    template, below, field, words = mistake
    text = OBJECT + "  podTemplate:\n" + template
    first = line_of(text, "podTemplate:")
    found = linted(tmp_path, text).findings
    told = [(f.problem.field, f.mark.line - first + 4) for f in found]
    assert told == [(field, below)], [f.line() for f in found]
    assert words in found[0].problem.message


@pytest.mark.parametrize(
    "empty",
    [
        "  podTemplate:\n    spec:\n      tolerations:\n",
        "  podTemplate:\n    spec:\n      containers:\n      - name: engine\n        env:\n",
        "  podTemplate:\n    metadata:\n    spec:\n",
        "  podTemplate:\n",
        "  network:\n    port:\n",
        "  security:\n    apiKey:\n",
        "  restart:\n    autoTune:\n",
    ],
)
def test_a_key_that_is_left_empty_counts_as_absent_in_every_command(tmp_path, empty):
    """The API server drops it; rendering ended with a traceback."""
    path = tmp_path / "pool.yaml"
    path.write_text(OBJECT + empty)
    lint, render = run("lint", path), run("render", path)
    assert (lint.exit_code, render.exit_code) == (0, 0), lint.stdout + render.stderr
    path.write_text(OBJECT)
    texts = (run("render", path).stdout, render.stdout)
    absent, left = (
        list(yaml.safe_load_all(re.sub("revision: .*", "revision: any", text))) for text in texts
    )
    assert absent == left


@pytest.mark.parametrize("mistake", ONLY_IN_OBJECTS.values(), ids=list(ONLY_IN_OBJECTS))
def test_a_mistake_in_an_object_is_told_at_its_line(tmp_path, mistake):
    old, new, reason, words = mistake
    changed, line = _with_mistake(OBJECT, old, new)
    found = linted(tmp_path, changed).findings
    fitting = [f for f in found if f.problem.reason == reason and words in f.problem.message]
    assert [f.mark.line for f in fitting] == [line], [f.line() for f in found]


ONLY_IN_ROLL = {
    "a misspelt field": (
        "num_gpus_per_worker: 2",
        "num_gpu_per_worker: 2",
        "FieldUnknown",
        "did you mean num_gpus_per_worker?",
    ),
    "a reference to nothing": (MAPPING, "device_mapping: ${gpus}", "ReferenceUnresolved", "gpus"),
    "a resolver of Hydra's": (
        MAPPING,
        "device_mapping: ${now:%Y}",
        "ReferenceUnresolved",
        "only Hydra has",
    ),
    "the environment": (
        MAPPING,
        "device_mapping: ${oc.env:HOME}",
        "ReferenceUnresolved",
        "use --env",
    ),
    "a missing value": (MAPPING, "device_mapping: ???", "ReferenceUnresolved", "stands for"),
    "a reference to itself": (
        MAPPING,
        "device_mapping: ${actor_infer.device_mapping}",
        "ReferenceUnresolved",
        "refers to itself",
    ),
}


@pytest.mark.parametrize("mistake", ONLY_IN_ROLL.values(), ids=list(ONLY_IN_ROLL))
def test_a_mistake_in_a_pipeline_is_told_at_its_line(tmp_path, mistake):
    old, new, reason, words = mistake
    changed, line = _with_mistake(ROLL, old, new)
    found = linted(tmp_path, changed).findings
    fitting = [f for f in found if f.problem.reason == reason and words in f.problem.message]
    assert [f.mark.line for f in fitting] == [line], [f.line() for f in found]
    assert len([f for f in found if f.mark.line == line]) == 1


def test_a_missing_model_is_told():
    text = ROLL.replace("pretrain: Qwen/Qwen3-30B-A3B-Base\n", "", 1)
    result = run("lint", "-", stdin=text)
    assert result.exit_code == 2
    assert "model_args.model_name_or_path is not set" in result.stdout


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_is_without_errors(path):
    assert run("lint", path).exit_code == 0


def test_warnings_count_only_with_strict(tmp_path):
    text = OBJECT.replace("      mem_fraction_static: 0.7\n", "")
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    assert run("lint", path).exit_code == 0
    assert run("lint", "--strict", path).exit_code == 1
    (finding,) = linted(tmp_path, text).findings
    assert finding.problem.severity is Severity.WARNING
    assert finding.mark.line == line_of(text, "strategy_config:")


def test_several_documents_and_lists_are_judged_each(tmp_path):
    bad = OBJECT.replace("num_gpus_per_worker: 2", "num_gpus_per_worker: 0")
    listed = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(bad)]})
    other = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n"
    judged = linted(tmp_path, f"{OBJECT}---\n{other}---\n{bad}---\n{listed}")
    assert [f.problem.field for f in judged.findings] == ["spec.num_gpus_per_worker"] * 2
    assert "left alone: Service s" in judged.notes[0]


def test_json_says_the_same(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_text(OBJECT.replace(MEMORY, "mem_fraction_statc: 0.7"))
    document = json.loads(run("lint", "-o", "json", path).stdout)
    found = next(f for f in document["findings"] if f["severity"] == "error")
    assert (found["reason"], found["subject"]) == ("ArgumentUnknown", "actor-infer")
    assert (found["file"], found["line"]) == (str(path), line_of(OBJECT, MEMORY))


def test_a_bad_file_does_not_keep_others_from_being_judged(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text(OBJECT.replace("num_gpus_per_worker: 2", "num_gpus_per_worker: 5"))
    result = run("lint", tmp_path / "absent.yaml", tmp_path, good)
    assert result.exit_code == 2
    for words in ("there is no such file", "it is a folder", "not divisible by 5"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1\nb: 2\n", 2, "this is no YAML"),
        ("a: *b\n", 1, "found the alias *b"),
        ("a: 1\n\tb: 2\n", 2, "this is no YAML"),
        ("[" * 5000, 1, "nested too deeply"),
        ("- 1\n", 1, "expected a SGLangInference or a ROLL pipeline"),
        ("hello: world\n", 1, "expected a SGLangInference or a ROLL pipeline"),
        ("pretrain: x\n{a: b}: 1\n", 2, "found a map as a key"),
        ("pretrain: \x01\n", 1, "this is no YAML"),
    ],
)
def test_what_is_no_such_file_is_told_at_its_line(tmp_path, text, line, words):
    found = linted(tmp_path, text).findings
    assert any(f.mark.line == line and words in f.problem.message for f in found), found


def test_aliases_cannot_grow_without_end(tmp_path):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (found,) = linted(tmp_path, "\n".join(rows)).findings
    assert "the aliases repeat too much" in found.problem.message


def test_anchors_and_merges_mean_what_they_mean_to_ROLL(tmp_path):
    text = ROLL.replace("    load_format: dummy", "    <<: *more").replace(
        "seed: 42", "more: &more {load_format: dumy, mem_fraction_static: 0.1}\nseed: 42"
    )
    text = text.replace("dumy", "dummy")
    judged = linted(tmp_path, text)
    assert not judged.findings
    config = judged.pools[0].get("spec", "strategy_args", "strategy_config")
    assert config is not None
    assert {k: v.value for k, v in config.mapping.items()} == {
        "mem_fraction_static": 0.7,
        "load_format": "dummy",
    }


def test_no_secret_is_repeated(tmp_path):
    text = OBJECT.replace("  seed: 42", "  seed: 42\n  extraArgs: [--api-key=hunter2, 7]")
    text = text.replace("USE_MODELSCOPE: '1'", "HF_TOKEN: [hunter2]\n    MY_PASSWORD: ${hunter2}")
    text = text.replace("load_format: dummy", "api_key: hunter2")
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    for result in (run("lint", path), run("lint", "-o", "json", path), run("render", path)):
        assert result.exit_code == 2
        assert "hunter2" not in result.output


def test_nothing_in_a_file_reaches_the_terminal_as_more_than_text(tmp_path):
    text = OBJECT.replace("name: actor-infer", 'name: "a\\e[2Jb"').replace("seed: 42", "sed: 42")
    text += '---\napiVersion: v1\nkind: "S\\e[2J"\nmetadata: {name: "s\\e[2J"}\n'
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    result = run("lint", path)
    assert result.exit_code == 2
    assert "\x1b" not in result.output


def test_lint_imports_nothing_heavy():
    code = (
        "import sys; from sglang_operator.cli.main import cli\n"
        "from click.testing import CliRunner\n"
        f"assert CliRunner().invoke(cli, ['lint', {str(GUIDE)!r}]).exit_code == 0\n"
        "heavy = {'kubernetes', 'kopf', 'pydantic', 'rich', 'omegaconf', 'aiohttp'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_slip_is_told_without_what_was_written_where_pyyaml_has_no_libyaml(monkeypatch):
    """Its own parser repeats what it does not understand."""
    monkeypatch.setattr(reading, "_LOADER", yaml.SafeLoader)
    with pytest.raises(findings.StopError) as raised:
        reading.load("system_envs:\n  HF_TOKEN: !c4n4ryS3cret!x y\n", "f")
    assert "found undefined tag handle" in str(raised.value.findings[0].problem)
    assert "c4n4ry" not in str(raised.value.findings[0].problem)
