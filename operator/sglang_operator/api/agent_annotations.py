"""What agents of monitoring may be asked for by a pod's annotations.

An agent has tokens, variables and files of its own, and the annotations are as good as its
configuration: a check of any kind, at any address, that sends the agent's token or a variable of
its own there, or a file of its own as a log.  What is allowed asks for a pod's own metrics at its
own address, and says how its log is read.
"""

import json
import re
from collections.abc import Callable, Mapping

from sglang_operator.api.patterns import Pattern

_MOST_TEXT = 32 * 1024

# --- Datadog, in JSON
_CHECKS = frozenset({"openmetrics", "prometheus"})
_OF_METRICS = """
    openmetrics_endpoint prometheus_url namespace service tags metrics exclude_metrics
    raw_metric_prefix raw_line_filters ignore_metrics use_latest_spec max_returned_metrics
    include_labels exclude_labels rename_labels exclude_metrics_by_labels share_labels
    label_to_hostname hostname_label empty_default_hostname min_collection_interval
    timeout connect_timeout read_timeout enable_health_service_check health_service_check
    collect_histogram_buckets histogram_buckets_as_distributions
    non_cumulative_histogram_buckets collect_counters_with_distributions
    send_histograms_buckets send_monotonic_counter send_distribution_buckets
    send_distribution_counts_as_monotonic send_distribution_sums_as_monotonic
"""
_OF_LOGS = """
    source service sourcecategory tags log_processing_rules type name pattern
    replace_placeholder auto_multi_line_detection
"""
_METRICS, _LOGS = frozenset(_OF_METRICS.split()), frozenset(_OF_LOGS.split())
_FIELDS = {
    "checks": _CHECKS | _METRICS | {"init_config", "instances", "logs"} | _LOGS,
    "check_names": frozenset[str](),
    "init_configs": _METRICS,
    "instances": _METRICS,
    "logs": _LOGS,
    "tags": frozenset[str](),
    **dict.fromkeys(
        ("exclude", "metrics_exclude", "logs_exclude", "tolerate-unready"), frozenset[str]()
    ),
}
# Maps under names that whoever writes the metrics has chosen.
_NAMED_AT_WILL = frozenset(
    {"metrics", "rename_labels", "exclude_metrics_by_labels", "share_labels", "tags"}
)
_ADDRESSES = frozenset({"openmetrics_endpoint", "prometheus_url"})
_OWN_ADDRESS = Pattern(
    r"https?://%%host%%(:(%%port(_[\w-]{1,64})?%%|[0-9]{1,5}))?(/[\w./-]{0,256})?", re.ASCII
)
_RULES = frozenset(
    {"exclude_at_match", "include_at_match", "mask_sequences", "multi_line"}  # of a log's lines
)
_OF_THE_POD = Pattern(
    r"%%(host|port|pid|hostname|kube_(namespace|pod_name|pod_uid))(_[\w-]{1,64})?%%", re.ASCII
)
# --- Elastic's Beats and Agent, and OpenTelemetry's collector
_LOG_KEYS = Pattern(
    r"(enabled|disable|json\.[\w.]+|multiline\.[\w.]+|module|fileset(\.\w+)?|stream"
    r"|(in|ex)clude_lines)",
    re.ASCII,
)
_METRIC_KEYS = {
    "module": Pattern(r"prometheus|openmetrics"),
    "hosts": Pattern(r"\$\{data\.host\}:(\$\{data\.port(s\.[\w-]{1,64})?\}|[0-9]{1,5})", re.ASCII),
    "metricsets": Pattern(r"[a-z_, ]{1,256}"),
    "metrics_path": Pattern(r"/[\w./-]{0,256}", re.ASCII),
    "period": Pattern(r"[0-9]{1,6}[smh]?"),
    "timeout": Pattern(r"[0-9]{1,6}[smh]?"),
    "enabled": Pattern(r"true|false"),
}


def _of_datadog(key: str, value: str) -> bool:
    kind = key.partition("/")[2].rpartition(".")[2]
    allowed = _FIELDS.get(kind)
    if allowed is None or len(value) > _MOST_TEXT:
        return False
    try:
        found = json.loads(value, object_pairs_hook=_once)
        return _is_asked(found, kind, allowed, at_will=kind == "tags")
    except (ValueError, RecursionError):
        return False


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A map in which no name is written twice: which of the two counts is the reader's to say."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is written twice")
    return made


def _is_asked(found: object, name: str, allowed: frozenset[str], *, at_will: bool) -> bool:
    """Whether a part of what Datadog's agent is told is allowed, all below it too."""
    if isinstance(found, dict):
        return all(
            (at_will or each in allowed)
            and _is_asked(inner, each, allowed, at_will=at_will or each in _NAMED_AT_WILL)
            and _is_plain(each)
            for each, inner in found.items()
        )
    if isinstance(found, list):
        return all(_is_asked(inner, name, allowed, at_will=at_will) for inner in found)
    if not isinstance(found, str):
        return True
    if name in _ADDRESSES:
        return _OWN_ADDRESS.fullmatch(found) is not None
    if name == "check_names":
        return found in _CHECKS
    if name == "type" and not at_will:
        return found in _RULES
    return _is_plain(found)


def _is_plain(text: str) -> bool:
    """Whether nothing is filled in but what is known of the pod: ENC[...] is the agent's secret."""
    return "ENC[" not in text and "%%" not in _OF_THE_POD.sub("", text)


def _of_elastic(key: str, value: str) -> bool:
    family, _, name = key.partition("/")
    if len(value) > _MOST_TEXT:
        return False
    if re.fullmatch(r"co\.elastic\.logs(\.[\w-]+)?", family):
        return _LOG_KEYS.fullmatch(name) is not None and "${" not in value
    values = _METRIC_KEYS.get(name) if family == "co.elastic.metrics" else None
    return values is not None and values.fullmatch(value) is not None


def _of_opentelemetry(key: str, value: str) -> bool:
    is_said = key.endswith("/enabled") or (
        key.endswith("/scraper") and value in ("prometheus", "prometheus_simple")
    )
    return is_said and "$" not in value


_AGENTS: Mapping[Pattern, Callable[[str, str], bool]] = {
    Pattern(r"(ad|service-discovery)\.datadoghq\.com/", re.IGNORECASE): _of_datadog,
    Pattern(r"co\.elastic\.(?!apm)", re.IGNORECASE): _of_elastic,
    Pattern(r"io\.opentelemetry\.discovery\.", re.IGNORECASE): _of_opentelemetry,
}


def asks_for_more(key: str, value: str) -> bool:
    """Whether an agent is asked for more than a pod's own metrics and log."""
    for pattern, is_allowed in _AGENTS.items():
        if pattern.match(key):
            return not is_allowed(key, value)
    return False
