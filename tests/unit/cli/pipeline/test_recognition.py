"""What is no ROLL pipeline is called what it is, with what to do."""

import gzip

import pytest

from tests.unit.cli.runner import run

OBJECT = "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}\n"
POOL = OBJECT.format(api="sglang-operator.dev/v1alpha1", kind="SGLangInference")
CONFIG = "pretrain: a\nactor_infer: {device_mapping: '[0]'}\n"
TEXTS = {
    "a pool": (POOL, "found a SGLangInference;", "lint, render or apply it"),
    "a Deployment": (
        OBJECT.format(api="apps/v1", kind="Deployment"),
        "found the Kubernetes object Deployment;",
        "has roles such as actor_infer",
    ),
    "a ConfigMap": (
        OBJECT.format(api="v1", kind="ConfigMap"),
        "found the Kubernetes object ConfigMap;",
        "the file that is in its data",
    ),
    "a list of objects": (OBJECT.format(api="v1", kind="List"), "List;", "lint or apply them"),
    "verl's": (
        "actor_rollout_ref: {rollout: {name: sglang}}\ncritic: {}\nreward_model: {}\n",
        "found a config of verl;",
        "takes none of a pool",
    ),
    "AReaL's": (
        "experiment_name: a\ntrial_name: b\nallocation_mode: sglang:d4\ncritic: {}\n",
        "found a config of AReaL;",
        "write a SGLangInference",
    ),
    "slime's": ("hf_checkpoint: a\nrollout_num_gpus: 8\n", "of slime or miles;", "write a SGLang"),
    "slime's engines": (
        "sglang:\n- name: a\n  server_groups: []\n",
        "of slime or miles;",
        "write a SGLangInference",
    ),
    "Helm's": ("replicaCount: 1\nimage: {tag: a}\n", "a Helm values file;", "actor_infer"),
    "SGLang's own": (
        "model_path: a\ntp_size: 2\nmem-fraction-static: 0.7\n",
        "found arguments of SGLang;",
        "into spec.strategy_args.strategy_config",
    ),
    "one worker": (
        "strategy_args: {strategy_name: sglang}\n",
        "the fields of one worker, without its role;",
        "below spec of a SGLangInference",
    ),
    "one worker in camelCase": ("strategyArgs: {}\n", "the fields of one worker", "below spec"),
    "a map": ("a: 1\nb: 2\nc: 3\nd: 4\ne: 5\n", "found a map of a, b, c, d and 1 more;", "roles"),
    "an empty map": ("{}\n", "found an empty map;", "actor_infer"),
    "a list": ("- a\n- b\n", "found a list of 2;", "actor_infer"),
    "text": ("hello\n", "found text;", "actor_infer"),
    "a number": ("42\n", "found a single value;", "actor_infer"),
}


@pytest.mark.parametrize(("text", "found", "advice"), TEXTS.values(), ids=TEXTS)
def test_what_is_no_pipeline_is_named_and_not_converted(tmp_path, text, found, advice):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    result = run("convert", path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert found in result.stderr
    assert "expected a ROLL pipeline config;" in result.stderr
    assert advice in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "found an empty file; expected one document"),
        ("# nothing\n", "found an empty file; expected one document"),
        ("---\nnull\n---\n", "found an empty file; expected one document"),
        (f"{CONFIG}---\n{POOL}", "2 documents, a ROLL pipeline config, then a SGLangInference;"),
        (f"{CONFIG}---\na: 1\n---\n- 1\n", "3 documents, a ROLL pipeline config, then a map of a;"),
    ],
)
def test_a_file_of_no_document_or_of_several_says_which_they_are(text, found):
    result = run("convert", "-", stdin=text)
    assert result.exit_code == 2
    assert found in result.stderr


BYTES = {
    "gzip": (gzip.compress(b"pretrain: a"), "compressed by gzip; give the YAML file itself"),
    "a program": (b"\x7fELF\x02\x01\x01" + bytes(9), "it is a program;"),
    "zeros": (bytes(100), "it is binary;"),
    "UTF-16": ("pretrain: a".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "Latin 1": ("pretrain: ä".encode("latin-1"), "it is not UTF-8; save it as UTF-8"),
}


@pytest.mark.parametrize("command", ["convert", "lint"])
@pytest.mark.parametrize(("data", "words"), BYTES.values(), ids=BYTES)
def test_bytes_that_are_no_text_are_called_what_they_are(tmp_path, command, data, words):
    path = tmp_path / "file.yaml"
    path.write_bytes(data)
    result = run(command, path)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\n\tb: 2\n", "there is a tab: indent with spaces"),
        ("{{- if .Values.a }}\na: {{ .b }}\n{{- end }}\n", "it is a template: render it first"),
        ("#!/bin/bash\nfor a in b: do\n  x: [\n", "it is a script"),
        ('{"a": 1}\n{"b": 2}\n', "it is JSON: one object in one file"),
    ],
)
def test_what_is_no_yaml_is_told_with_what_it_looks_like(text, words):
    result = run("convert", "-", stdin=text)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_folder_is_called_one(tmp_path):
    result = run("convert", tmp_path)
    assert result.exit_code == 2
    assert "it is a folder; give a file in it" in result.stderr


def test_a_pipeline_without_roles_says_so():
    result = run("convert", "-", stdin="pretrain: a\n")
    assert result.exit_code == 1
    assert "no role such as actor_infer" in result.stderr


def test_lint_says_that_a_pool_is_expected_too():
    result = run("lint", "-", stdin="a: 1\n")
    assert "expected a SGLangInference or a ROLL pipeline config" in result.stdout
