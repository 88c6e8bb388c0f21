"""Which SGLang version an image holds, and what a version can do."""

import itertools

import pytest

from sglang_operator.api import errors
from sglang_operator.engine import versions

DIGEST = "sha256:" + "0" * 64


def reasons(problems):
    return [problem.reason for problem in problems]


@pytest.mark.parametrize("text", ["0.5.7", "0.5.5.post3", "0.4.10.post2", "1.0.0"])
def test_a_version_is_written_as_it_was_read(text):
    assert str(versions.parse(text)) == text
    assert versions.parse(f"v{text}") == versions.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        "0.5",
        "0.5.7rc0",
        "0.5.7.dev1",
        "0.5.7a1",
        "0.5.7.1",
        "0.5.7-cu129",
        "0.5.7.post",
        "0.5.7.post1.dev0",
        " 0.5.7",
        "0.5.7\n",
        "V0.5.7",
        "0.5.٧",
        "-1.5.7",
        "99999.0.0",
    ],
)
def test_what_is_no_release_is_refused(text):
    with pytest.raises(errors.InvalidError) as caught:
        versions.parse(text)
    assert caught.value.problem.reason == "EngineVersionInvalid"
    assert caught.value.problem.field == "spec.engineVersion"


def test_versions_are_ordered_as_they_were_released():
    texts = ["0.4.6.post1", "0.4.6.post5", "0.4.10.post2", "0.5.2", "0.5.4", "0.5.4.post2"]
    texts += ["0.5.5.post3", "0.5.6", "0.5.6.post2", "0.5.7", "0.5.20", "0.5.23", "1.0.0"]
    ordered = [versions.parse(text) for text in texts]
    assert all(older < newer for older, newer in itertools.pairwise(ordered))
    assert len(set(ordered)) == len(ordered)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("lmsysorg/sglang:v0.5.7", "0.5.7"),
        ("lmsysorg/sglang:v0.5.7-cu129", "0.5.7"),
        ("lmsysorg/sglang:v0.5.7-runtime", "0.5.7"),
        ("lmsysorg/sglang:v0.5.7-cu129-amd64", "0.5.7"),
        ("lmsysorg/sglang:v0.5.6.post2-rocm700-mi30x", "0.5.6.post2"),
        ("lmsysorg/sglang:v0.5.5.post3-cann8.3.rc1-910b", "0.5.5.post3"),
        ("sglang:0.5.2", "0.5.2"),
        ("registry.example:5000/x/sglang:v0.5.7", "0.5.7"),
        (f"lmsysorg/sglang:v0.5.7@{DIGEST}", "0.5.7"),
        (versions.DEFAULT_IMAGE, "0.5.7"),
    ],
)
def test_the_tag_tells_the_version(image, version):
    detected = versions.detect(image, None)
    assert detected == versions.Detected(version=versions.parse(version), known=True, problems=())


@pytest.mark.parametrize(
    "image",
    [
        "lmsysorg/sglang",
        "lmsysorg/sglang:latest",
        "lmsysorg/sglang:dev",
        "lmsysorg/sglang:nightly-dev-20251215-abcdef12",
        "lmsysorg/sglang:v0.5.8rc1",
        "lmsysorg/sglang:v0.5.10rc0-cu129",
        "lmsysorg/sglang:v0.5.7.post",
        "lmsysorg/sglang:v0.5.7_custom",
        f"lmsysorg/sglang@{DIGEST}",
        "registry.example:5000/x/sglang",
        "v0.5.7/sglang",
        "",
    ],
)
def test_a_tag_that_tells_nothing_is_a_warning_and_the_newest_version_is_assumed(image):
    detected = versions.detect(image, None)
    assert detected.version == versions.NEWEST_KNOWN
    assert not detected.known
    (warning,) = detected.problems
    assert warning.reason == "EngineVersionUnknown"
    assert warning.severity is errors.Severity.WARNING
    assert f"{versions.NEWEST_KNOWN} is assumed; set engineVersion" in warning.message


def test_engine_version_tells_what_a_digest_does_not():
    detected = versions.detect(f"lmsysorg/sglang@{DIGEST}", "0.5.7")
    assert detected == versions.Detected(version=versions.parse("0.5.7"), known=True, problems=())


def test_engine_version_is_believed_over_the_tag_and_the_difference_is_said():
    detected = versions.detect("lmsysorg/sglang:v0.5.6.post2", "0.5.7")
    assert str(detected.version) == "0.5.7"
    (warning,) = detected.problems
    assert warning.severity is errors.Severity.WARNING
    assert warning.message == (
        "engineVersion is 0.5.7 but image lmsysorg/sglang:v0.5.6.post2 says 0.5.6.post2; "
        "engineVersion is believed; correct it, or remove it"
    )


def test_engine_version_that_agrees_with_the_tag_is_no_matter():
    assert versions.detect("lmsysorg/sglang:v0.5.7-cu129", "v0.5.7").problems == ()


@pytest.mark.parametrize(
    ("image", "version"),
    [
        pytest.param("lmsysorg/sglang:v0.5.7", "0.5.7", id="goes on with the tag"),
        pytest.param(
            "lmsysorg/sglang:latest", str(versions.NEWEST_KNOWN), id="goes on with the newest"
        ),
    ],
)
def test_an_engine_version_that_is_none_is_an_error(image, version):
    detected = versions.detect(image, "0.5.8rc1")
    assert str(detected.version) == version
    (error,) = detected.problems
    assert error.reason == "EngineVersionInvalid"
    assert error.severity is errors.Severity.ERROR


@pytest.mark.parametrize("version", versions.ROLL_VERSIONS, ids=str)
def test_the_versions_that_roll_supports_have_no_warning(version):
    assert versions.detect(f"lmsysorg/sglang:v{version}", None).problems == ()


@pytest.mark.parametrize("version", ["0.5.3", "0.5.6", "0.5.8", "0.5.23", "1.0.0"])
def test_a_version_that_rolls_trainer_refuses_is_a_warning(version):
    for detected in (
        versions.detect(f"lmsysorg/sglang:v{version}", None),
        versions.detect("lmsysorg/sglang:latest", version),
    ):
        assert detected.known
        assert reasons(detected.problems) == ["EngineVersionOutsideROLL"]


# Read in the wheels: http_server.py and environ.py of each.
@pytest.mark.parametrize(
    ("feature", "last_without", "first_with"),
    [
        ("health_without_generation", "0.5.5.post3", "0.5.6"),
        ("weight_version_flag", "0.4.10.post2", "0.5.2"),
        ("ready_endpoint", "0.5.14", "0.5.20"),
        ("return_routed_experts", "0.5.6.post2", "0.5.7"),
        ("preferred_sampling_params", "0.4.6.post1", "0.4.6.post5"),
        ("admin_api_key", "0.5.7", "0.5.8"),
        ("begin_end_weight_update", "0.5.20", "0.5.21"),
        ("crash_diagnostics", "0.5.12", "0.5.13"),
    ],
)
def test_features_begin_with_the_version_that_has_them(feature, last_without, first_with):
    before = versions.features(versions.parse(last_without))
    after = versions.features(versions.parse(first_with))
    assert getattr(before, feature) is False
    assert getattr(after, feature) is True


def test_a_variable_without_effect_is_no_feature():
    """0.5.5.post3 tests the variable's object, which is always true, instead of its value."""
    assert not versions.features(versions.parse("0.5.5.post3")).health_without_generation


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("0.4.6.post1", "/get_model_info"),
        ("0.5.5.post3", "/get_model_info"),
        ("0.5.6", "/model_info"),
        ("0.5.23", "/model_info"),
    ],
)
def test_the_models_path_changed_its_name(version, path):
    assert versions.features(versions.parse(version)).model_info_path == path


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("0.4.6.post5", ""),
        ("0.4.10.post2", "/get_load"),
        ("0.5.7", "/get_load"),
        ("0.5.9", "/v1/loads?include=core"),
        ("0.5.23", "/v1/loads?include=core"),
    ],
)
def test_the_loads_path_changed_too(version, path):
    assert versions.features(versions.parse(version)).load_path == path


def test_a_newer_version_loses_no_feature():
    known = sorted({*versions.ROLL_VERSIONS, versions.NEWEST_KNOWN})
    rows = [versions.features(version) for version in known]
    for older, newer in itertools.pairwise(rows):
        for name in versions.Features.__dataclass_fields__:
            if getattr(older, name) is True:
                assert getattr(newer, name) is True, name
