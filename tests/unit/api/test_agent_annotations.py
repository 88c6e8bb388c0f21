"""Agents of monitoring hear of a pod's own metrics and log, and are asked for nothing of theirs."""

import json
import time

import pytest

from sglang_operator.api import pod_template

CHECKS = "ad.datadoghq.com/engine.checks"


def fields(key, value):
    meta = {"metadata": {"annotations": {key: value}}}
    return [problem.field for problem in pod_template.parse(meta)[1]]


def openmetrics(**instance):
    found = {"openmetrics_endpoint": "http://%%host%%:30000/metrics", **instance}
    return json.dumps({"openmetrics": {"init_config": {}, "instances": [found]}})


MORE = {
    "a variable of the agent, at another's address": (
        CHECKS,
        '{"http_check": {"instances": [{"url": "http://a/%%env_DD_API_KEY%%"}]}}',
    ),
    "a variable in a tag": (CHECKS, openmetrics(tags=["a:%%env_DD_API_KEY%%"])),
    "the agent's token": (CHECKS, openmetrics(bearer_token_auth=True)),
    "a file of the agent": (CHECKS, openmetrics(headers={"a": "b"}, auth_token={"reader": {}})),
    "a secret of the agent": (CHECKS, openmetrics(namespace="ENC[k8s_secret@a/b/c]")),
    "another's address": (CHECKS, openmetrics(openmetrics_endpoint="http://10.0.0.1:10255/pods")),
    "an address that only begins so": (
        CHECKS,
        openmetrics(openmetrics_endpoint="http://%%host%%.example.com/"),
    ),
    "a user before the address": (
        CHECKS,
        openmetrics(openmetrics_endpoint="http://%%host%%:1@example.com/"),
    ),
    "a proxy": (CHECKS, openmetrics(proxy={"http": "http://a"})),
    "a check that reads files": (CHECKS, '{"directory": {"instances": [{"directory": "/"}]}}'),
    "a check by its old form": ("ad.datadoghq.com/engine.check_names", '["http_check"]'),
    "an instance by its old form": ("ad.datadoghq.com/engine.instances", '[{"url": "http://a"}]'),
    "a check that the agent has": ("ad.datadoghq.com/engine.check.id", "redisdb"),
    "a name twice": (CHECKS, '{"openmetrics": {"instances": []}, "openmetrics": {}}'),
    "a name in other letters": (CHECKS, '{"openmetrics": {"Instances": [{"url": "http://a"}]}}'),
    "no JSON": (CHECKS, "{"),
    "nested without end": (CHECKS, "[" * 30000),
    "a file as a log": (
        "ad.datadoghq.com/engine.logs",
        '[{"type": "file", "path": "/etc/datadog-agent/auth_token"}]',
    ),
    "the older domain": ("service-discovery.datadoghq.com/engine.instances", '[{"url": "a"}]'),
    "other letters": ("AD.datadoghq.com/engine.instances", '[{"url": "http://a"}]'),
    "a module of Metricbeat": ("co.elastic.metrics/module", "http"),
    "a password of Metricbeat": ("co.elastic.metrics/password", "${ES_PASSWORD}"),
    "a host of Metricbeat": ("co.elastic.metrics/hosts", "a/${ES_PASSWORD}"),
    "an input of Filebeat": ("co.elastic.logs/raw", '[{"paths": ["/etc/shadow"]}]'),
    "a variable of Filebeat": ("co.elastic.logs/multiline.pattern", "${ES_PASSWORD}"),
    "a package of Elastic's agent": ("co.elastic.hints/host", "${env.PASSWORD}"),
    "a monitor": ("co.elastic.monitor/1.hosts", "a"),
    "a receiver": ("io.opentelemetry.discovery.metrics/config", "endpoint: ${env:TOKEN}"),
    "a scraper": ("io.opentelemetry.discovery.metrics.8080/scraper", "httpcheck"),
}


@pytest.mark.parametrize("name", MORE)
def test_what_asks_an_agent_for_more_than_the_pod_has_is_refused(name):
    key, value = MORE[name]
    assert fields(key, value) == [f"spec.podTemplate.metadata.annotations.{key}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (CHECKS, '{"openmetrics": {}}'),
        (
            CHECKS,
            openmetrics(
                namespace="sglang",
                metrics=["sglang:.*", {"sglang:num_running_reqs": {"name": "a", "type": "gauge"}}],
                rename_labels={"model_name": "model"},
                tags=["pod:%%kube_pod_name%%"],
            ),
        ),
        (CHECKS, openmetrics(openmetrics_endpoint="http://%%host%%:%%port%%/metrics")),
        ("ad.datadoghq.com/engine.check_names", '["openmetrics"]'),
        ("ad.datadoghq.com/engine.init_configs", "[{}]"),
        ("ad.datadoghq.com/engine.instances", '[{"prometheus_url": "http://%%host%%:1/metrics"}]'),
        ("ad.datadoghq.com/engine.logs", '[{"source": "sglang", "service": "rl"}]'),
        (
            "ad.datadoghq.com/engine.logs",
            '[{"source": "a", "log_processing_rules": [{"type": "exclude_at_match", "name": "x",'
            ' "pattern": "GET /health"}]}]',
        ),
        ("ad.datadoghq.com/tags", '{"team": "rl", "url": "https://example.com"}'),
        ("ad.datadoghq.com/exclude", "true"),
        ("co.elastic.logs/enabled", "false"),
        ("co.elastic.logs/multiline.pattern", r"^\[\d{4}"),
        ("co.elastic.metrics/module", "prometheus"),
        ("co.elastic.metrics/hosts", "${data.host}:30000"),
        ("io.opentelemetry.discovery.logs/enabled", "true"),
        ("prometheus.io/scrape", "true"),
        ("k8s.grafana.com/scrape", "true"),
        ("fluentbit.io/parser", "sglang"),
    ],
)
def test_what_asks_for_the_pods_own_metrics_and_log_is_allowed(key, value):
    assert fields(key, value) == []


@pytest.mark.parametrize(
    "value", ["[" * 200_000, '{"tags":' * 30_000, "%%" * 16_000, '{"a":1,' * 40_000]
)
def test_an_annotation_of_any_size_is_judged_in_no_time(value):
    begun = time.thread_time()
    assert fields(CHECKS, value)
    assert time.thread_time() - begun < 0.5
