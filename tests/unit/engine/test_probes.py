"""The kubelet's probes, by SGLang version."""

import pytest

from sglang_operator.engine import probes, versions

ROLL_AND_NEWER = [*versions.ROLL_VERSIONS, versions.parse("0.5.14"), versions.NEWEST_KNOWN]


def probes_of(version, *, startup_seconds=1800, has_api_key=False):
    features = versions.features(versions.parse(version))
    return probes.probes(
        features, port=30000, startup_seconds=startup_seconds, has_api_key=has_api_key
    )


def paths(found):
    return {name: probe.get("httpGet", {}).get("path") for name, probe in found.items()}


def test_the_probes_of_a_version_whose_health_need_not_generate():
    assert probes_of("0.5.7") == {
        "startupProbe": {
            "httpGet": {"path": "/health", "port": 30000},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 360,
        },
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": 30000},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": 30000},
            "periodSeconds": 15,
            "timeoutSeconds": 10,
            "failureThreshold": 20,
        },
    }


@pytest.mark.parametrize("version", ["0.4.6.post1", "0.5.2", "0.5.4.post2", "0.5.5.post3"])
def test_where_health_always_generates_it_is_asked_only_while_the_engine_starts(version):
    found = probes_of(version)
    assert paths(found) == {
        "startupProbe": "/health",
        "readinessProbe": "/get_model_info",
        "livenessProbe": "/get_model_info",
    }
    # It gives up after 20 s by itself.
    assert found["startupProbe"]["timeoutSeconds"] == 25


@pytest.mark.parametrize("version", ["0.5.2", "0.5.5.post3"])
def test_with_an_api_key_an_old_engine_is_asked_only_whether_it_listens(version):
    found = probes_of(version, has_api_key=True)
    assert paths(found)["startupProbe"] == "/health"
    assert found["readinessProbe"]["tcpSocket"] == {"port": 30000}
    assert found["livenessProbe"]["tcpSocket"] == {"port": 30000}


@pytest.mark.parametrize("version", ROLL_AND_NEWER, ids=str)
def test_no_probe_needs_a_key_that_probes_do_not_have(version):
    for path in paths(probes_of(str(version), has_api_key=True)).values():
        assert path in (None, "/health")


def test_health_needs_no_key_so_that_one_changes_nothing():
    assert probes_of("0.5.7", has_api_key=True) == probes_of("0.5.7")


@pytest.mark.parametrize("version", ["0.5.2", "0.5.7"])
@pytest.mark.parametrize("seconds", [1, 30, 31, 1800, 86400])
def test_an_engine_has_the_time_it_was_given_to_start(version, seconds):
    startup = probes_of(version, startup_seconds=seconds)["startupProbe"]
    given = startup["failureThreshold"] * startup["periodSeconds"]
    assert seconds <= given < seconds + startup["periodSeconds"]


def test_a_stalled_engine_is_left_alone_for_minutes():
    liveness = probes_of("0.5.7")["livenessProbe"]
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 300


@pytest.mark.parametrize("version", ROLL_AND_NEWER, ids=str)
def test_every_probe_asks_in_exactly_one_way(version):
    for probe in probes_of(str(version)).values():
        assert len({"httpGet", "tcpSocket"} & probe.keys()) == 1
        assert probe["timeoutSeconds"] >= 5  # the kubelet's own default of 1 s always fails
