"""GET /metrics, /get_load and /v1/loads: SGLang's names for what this engine can count.

srt/metrics/collector.py, from 0.5.9 srt/observability/metrics_collector.py; the names here are the
same in all versions from 0.4.6.post5 to 0.5.23, except where ``_SINCE`` says otherwise.  The labels
are those of 0.5.14 (tests/data/real-engine), of which older versions have fewer.
"""

import os
import time
from typing import Any

from sglang_operator.engine import versions
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.manager import Manager

_MAX_TOKENS = 100_000  # of the KV cache
_SINCE = {
    "sglang:num_aborted_requests_total": versions.parse("0.5.2"),
    "sglang:num_paused_reqs": versions.parse("0.5.2"),
    "sglang:num_retracted_reqs": versions.parse("0.5.2"),
    "sglang:weight_memory_usage_gb": versions.parse("0.5.20"),
    "sglang:kv_cache_memory_usage_gb": versions.parse("0.5.20"),
}
_BY_PROCESS = {"sglang:num_paused_reqs", "sglang:num_retracted_reqs"}  # have its id as a label
_TELLS_MEMORY, _GRAPHS_BY_PHASE = versions.parse("0.4.10.post2"), versions.parse("0.5.20")
_MEMORY_GB = 1.0  # as if a model and its cache were there


def _used_tokens(manager: Manager) -> int:
    return sum(len(r.prompt) + r.generated for r in manager.scheduler.running)


def loads(manager: Manager) -> dict[str, Any]:
    """The core of one entry of /v1/loads (0.5.14); what is held in place counts as running."""
    used = _used_tokens(manager)
    return {
        "dp_rank": 0,
        "num_running_reqs": len(manager.scheduler.running),
        "num_waiting_reqs": 0,
        "num_waiting_uncached_tokens": 0,
        "num_used_tokens": used,
        "num_total_tokens": used,
        "max_total_num_tokens": _MAX_TOKENS,
        "token_usage": used / _MAX_TOKENS,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": 0.0,
        "max_running_requests": 2048,
        "queues": {"waiting": 0, "grammar": 0, "paused": 0, "retracted": 0},
    }


def memory_usage(behaviour: Behaviour) -> dict[str, Any]:
    """What /server_info says of memory since 0.4.10.post2 (scheduler.py), in GiB; {} before."""
    if behaviour.version < _TELLS_MEMORY:
        return {}
    told: dict[str, Any] = {
        "weight": _MEMORY_GB,
        "kvcache": _MEMORY_GB,
        "token_capacity": _MAX_TOKENS,
    }
    if behaviour.version < _GRAPHS_BY_PHASE:
        return {**told, "graph": 0.0}
    return {**told, "startup_available": _MEMORY_GB, "token_capacity_swa": None, "graph": {}}


def load(manager: Manager, behaviour: Behaviour) -> dict[str, Any]:
    """One entry of /get_load."""
    core = loads(manager)
    pending = {"num_pending_tokens": 0} if behaviour.pending_tokens else {}
    return {
        "dp_rank": 0,
        "num_reqs": core["num_running_reqs"] + core["num_waiting_reqs"],
        "num_waiting_reqs": core["num_waiting_reqs"],
        "num_tokens": core["num_used_tokens"],
        **pending,
        "ts_tic": time.perf_counter(),
    }


def render(manager: Manager, behaviour: Behaviour) -> str:
    """The text of /metrics."""
    scheduler, core = manager.scheduler, loads(manager)
    gauges = {
        "sglang:num_running_reqs": core["num_running_reqs"],
        "sglang:num_queue_reqs": core["num_waiting_reqs"],
        "sglang:num_used_tokens": core["num_used_tokens"],
        "sglang:token_usage": core["token_usage"],
        "sglang:gen_throughput": core["gen_throughput"],
        "sglang:cache_hit_rate": core["cache_hit_rate"],
        "sglang:num_paused_reqs": len(scheduler.running) if scheduler.paused else 0,
        "sglang:num_retracted_reqs": 0,
        "sglang:weight_memory_usage_gb": _MEMORY_GB,
        "sglang:kv_cache_memory_usage_gb": _MEMORY_GB,
    }
    took = scheduler.latencies
    histograms = {
        "sglang:time_to_first_token_seconds": took.first_token,
        "sglang:inter_token_latency_seconds": took.between_tokens,
        "sglang:e2e_request_latency_seconds": took.whole,
    }
    counters = {
        "sglang:prompt_tokens_total": scheduler.prompt_tokens,
        "sglang:generation_tokens_total": scheduler.generated_tokens,
        "sglang:num_requests_total": scheduler.finished_requests,
        "sglang:num_aborted_requests_total": scheduler.aborted_requests,
    }
    labels = f'engine_type="unified",model_name="{manager.args.served_model_name}"'
    ranks = f'{labels},moe_ep_rank="0",pp_rank="0",tp_rank="0"'
    lines: list[str] = []
    for kind, values in (("gauge", gauges), ("counter", counters)):
        for name, value in values.items():
            if name in _SINCE and behaviour.version < _SINCE[name]:
                continue
            lines += [f"# HELP {name} {name}", f"# TYPE {name} {kind}"]
            about = ranks if kind == "gauge" else labels
            if name in _BY_PROCESS:
                about = f'{about},pid="{os.getpid()}"'
            lines.append(f"{name}{{{about}}} {float(value)}")
    for name, histogram in histograms.items():
        lines += histogram.lines(name, labels)
    return "\n".join(lines) + "\n"
