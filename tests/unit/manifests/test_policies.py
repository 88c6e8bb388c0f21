"""The optional ValidatingAdmissionPolicies: generated, small enough, and in the operator's words.

What they do on an API server is in ``tests/integration/test_policies.py``.
"""

import functools
import random
import re

import pytest
import yaml

from generators.policies import expressions, lease, manifest, nearest, objects, words
from generators.policies.__main__ import FOLDER
from sglang_operator.api import errors, names
from sglang_operator.engine import aliases, ownership, schema, versions
from sglang_operator.engine.typos import similar
from tests.builders import refused, with_config

MAX_CODE_POINTS = 100_000  # of one expression, by the API server
MAX_ANNOTATION = 262_144  # bytes in which client-side apply keeps an object
files = functools.cache(manifest.files)  # four seconds, which collecting the tests must not take
for_every_version = pytest.mark.parametrize("version", manifest.VERSIONS)


def test_the_committed_files_are_the_generated_ones():
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == files(), "make policies"


def test_every_known_version_has_one_policy_with_its_binding():
    listed = yaml.safe_load(files()["kustomization.yaml"])["resources"]
    assert listed == [*map(manifest.file_name, manifest.VERSIONS), lease.FILE]
    for version, name in zip(manifest.VERSIONS, listed[:-1], strict=True):
        policy, binding = yaml.safe_load_all(files()[name])
        assert [policy, binding] == [
            manifest.policy(version),
            objects.binding(manifest.policy_name(version)),
        ]
        assert binding["spec"]["policyName"] == policy["metadata"]["name"]


@for_every_version
def test_a_policy_is_within_the_limits_of_the_API_server(version):
    spec = manifest.policy(version)["spec"]
    found = [v["expression"] for v in spec["variables"] + spec["matchConditions"]]
    found += [v[key] for v in spec["validations"] for key in ("expression", "messageExpression")]
    assert max(map(len, found)) < MAX_CODE_POINTS
    assert len(files()[manifest.file_name(version)].encode()) < MAX_ANNOTATION


@for_every_version
def test_a_policy_looks_at_the_specs_of_pools_and_fails_open(version):
    spec = manifest.policy(version)["spec"]
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert rule["resources"] == [names.PLURAL]  # neither status nor scale
    assert rule["operations"] == ["CREATE", "UPDATE"]
    assert spec["failurePolicy"] == "Ignore"


# --- which version


def tag_pattern(version: str) -> re.Pattern[str]:
    """The expression's own pattern of an image."""
    found = re.findall(r"image\.matches\('((?:[^'\\]|\\.)*)'\)", expressions.is_version(version))
    return re.compile(found[0].replace("\\\\", "\\"))


IMAGES = [
    "lmsysorg/sglang:v0.5.7",
    "lmsysorg/sglang:v0.5.7-cu129",
    "lmsysorg/sglang:0.5.7-runtime",
    "registry.test:5000/team/sglang:v0.5.23-rocm700-mi30x@sha256:" + "0" * 64,
    "registry.test:5000/team/sglang",
    "sglang@sha256:" + "0" * 64,
    "sglang:latest",
    "sglang:v0.5.7.post1",
    "sglang:v0.5.7rc1",
    "sglang:v0.5.70",
    "sglang:v0.4.10.post2-cu126",
    "sglang:v0.4.6.post5",
    "sglang:v00.05.0007",
    "sglang:v0.5.2",
    "sglang:v0.5.20",
    "v0.5.7",
    "sglang:v0.5.7:v0.5.9",
]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_belongs_to_the_policy_of_the_version_that_the_operator_sees_and_to_no_other(
    image,
):
    detected = versions.detect(image, None)
    expected = [v for v in manifest.VERSIONS if detected.known and str(detected.version) == v]
    assert [v for v in manifest.VERSIONS if tag_pattern(v).fullmatch(image)] == expected


def test_without_an_image_the_policy_of_the_default_image_is_meant():
    default = str(versions.detect(versions.DEFAULT_IMAGE, None).version)
    chosen = [v for v in manifest.VERSIONS if expressions.is_version(v).endswith(": true")]
    assert chosen == [default]


# --- names


@for_every_version
def test_every_name_is_in_one_of_the_lists(version):
    known, found = schema.load(version), words.names(version)
    elsewhere = [name for group in found.elsewhere.values() for name in group]
    assert len(set(elsewhere)) == len(elsewhere)
    assert not set(elsewhere) & {*found.similar, *found.accepted, *found.owned}
    assert set(found.similar) == set(known.keys)
    assert found.owned.keys() >= ownership.OWNED.keys()
    assert all(map(expressions.is_name, [*found.similar, *found.accepted, *found.owned]))


@for_every_version
def test_what_is_said_of_a_name_is_what_the_operator_says_of_it(version):
    for tail, group in words.names(version).elsewhere.items():
        spec = {**with_config(**{group[0]: 1}), "engineVersion": version}
        said = [problem.message for problem in refused(spec).errors]
        assert group[0] + tail in said


def test_secrets_are_known_as_such():
    for version in manifest.VERSIONS:
        found = words.names(version)
        assert {"api_key", "admin_api_key"} <= set(found.secret) <= found.owned.keys()


def test_a_row_becomes_one_format_expression():
    said = expressions.said(errors.ARGUMENT_OWNED, "k", key="k", found="f", advice="a")
    literal = f"{aliases.FIELD}.%s: %s is set to %s, but the operator sets it; remove it from "
    assert said == f"'{literal}strategy_config: %s'\n.format([k, k, f, a])"


def test_quotes_and_backslashes_are_escaped():
    assert expressions.text("SGLang's \\ word") == r"'SGLang\'s \\ word'"


# --- nearest names

SEED = 20250101
TYPOS = 300
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def typo(rng: random.Random, word: str) -> str:
    """One letter dropped, added, changed, or exchanged with the next."""
    i, letter = rng.randrange(len(word)), rng.choice(LETTERS)
    return rng.choice(
        [
            word[:i] + word[i + 1 :],
            word[:i] + letter + word[i:],
            word[:i] + letter + word[i + 1 :],
            word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :],
        ]
    )


@pytest.mark.parametrize("version", ["0.5.7", "0.5.23"])
def test_the_nearest_name_is_mostly_that_of_the_operator(version):
    """The lists differ: CEL has no difflib.  The first name is the same in 19 of 20 typos."""
    rng, known = random.Random(SEED), schema.load(version)
    typos = [typo(rng, rng.choice(list(known.keys))) for _ in range(TYPOS)]
    unknown = [word for word in typos if word not in known.keys]
    same = [
        nearest.nearest(word, known.keys)[:1] == list(similar(known.version, word))[:1]
        for word in unknown
    ]
    assert sum(same) >= 0.95 * len(same), f"{sum(same)} of {len(same)}"


def test_the_nearest_name_of_the_usual_typo_is_found():
    for version in manifest.VERSIONS:
        found = nearest.nearest("mem_fraction_statc", words.names(version).similar)
        assert found == ["mem_fraction_static"]
