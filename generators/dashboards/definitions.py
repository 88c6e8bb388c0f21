"""The two dashboards: all pools and the operator; one pool and its engines."""

from generators.dashboards import Dashboard, Panel, Section

FLEET, POOL = "sglang-fleet", "sglang-pool"

_ALL = '{namespace=~"$namespace"}'
_ONE = '{namespace="$namespace", pool="$pool"}'


def _counted(label: str, series: str) -> str:
    """Events of the last hour by a label, for counters that are there from their first event on.

    ``increase`` sees what comes after a first sample, so it misses the event that a series begins
    with: of one that was not there an hour ago the count itself is taken.
    """
    return f"sum by ({label}) (({series} unless {series} offset 1h) or increase({series}[1h]))"


def _ours(series: str) -> str:
    """Of this operator: other controllers have metrics of the same name."""
    return f"({series} and on (job, instance) sglang_operator_build_info)"


_STATES = "InService|Up|Starting|Pending|Lost|Backoff|Waiting|Creating"
_LEADER = "leader_election_master_status"
_QUEUE = 'name="sglanginference"'
_LOOP = 'controller="sglanginference"'


def _quantile(share: float, metric: str, where: str) -> str:
    """A quantile over all engines of a pool."""
    return (
        f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{where}[$__rate_interval])))"
    )


def _loop_quantile(share: float, metric: str, where: str) -> str:
    """A quantile over all replicas of the operator."""
    rates = _ours(f"rate({metric}_bucket{where}[$__rate_interval])")
    return f"histogram_quantile({share}, sum by (le) {rates})"


def _engines(metric: str) -> str:
    """A gauge of every engine; ranks of one engine tell the same, so the largest is taken."""
    return f"max by (engine) ({metric}{_ONE})"


_FLEET = Dashboard(
    uid=FLEET,
    title="SGLang pools: fleet",
    variables={"namespace": "label_values(sglang_operator_pool_gpus_wanted, namespace)"},
    links={"One pool": POOL},
    sections=(
        Section(
            title="Pools",
            panels=(
                Panel(
                    title="Pools",
                    kind="stat",
                    width=4,
                    height=5,
                    queries={"pools": f"count(sglang_operator_pool_gpus_wanted{_ALL})"},
                ),
                Panel(
                    title="Not Ready",
                    kind="stat",
                    width=4,
                    height=5,
                    queries={
                        "pools": "count(sglang_operator_pool_condition"
                        '{namespace=~"$namespace", condition="Ready", status!="True"}) or vector(0)'
                    },
                ),
                Panel(
                    title="Need a human",
                    about="Pools whose condition Stalled is True.",
                    kind="stat",
                    width=4,
                    height=5,
                    queries={
                        "pools": "count(sglang_operator_pool_condition"
                        '{namespace=~"$namespace", condition="Stalled", status="True"}) '
                        "or vector(0)"
                    },
                ),
                Panel(
                    title="GPUs wanted",
                    kind="stat",
                    width=4,
                    height=5,
                    queries={"GPUs": f"sum(sglang_operator_pool_gpus_wanted{_ALL})"},
                ),
                Panel(
                    title="GPUs bound",
                    kind="stat",
                    width=4,
                    height=5,
                    queries={"GPUs": f"sum(sglang_operator_pool_gpus_bound{_ALL})"},
                ),
                Panel(
                    title="GPUs in service",
                    about="Share of the bound GPUs whose engines take requests.",
                    kind="stat",
                    unit="percentunit",
                    width=4,
                    height=5,
                    queries={
                        "share": 'sum(sglang_operator_pool_engines{namespace=~"$namespace", '
                        'state="InService"} * on (namespace, pool) group_left () '
                        f"(sglang_operator_pool_gpus_wanted{_ALL} / on (namespace, pool) "
                        # A pool that cannot run has none, and 0/0 would be the share of all.
                        f"(sum by (namespace, pool) (sglang_operator_pool_engines{_ALL}) > 0))) / "
                        f"sum(sglang_operator_pool_gpus_bound{_ALL})"
                    },
                ),
                Panel(
                    title="What pools are in",
                    about="Condition, status and reason, as kubectl get sgi shows them.",
                    kind="table",
                    width=12,
                    height=9,
                    queries={
                        "": "sglang_operator_pool_condition"
                        '{namespace=~"$namespace", condition=~"Ready|Stalled|Reconciling"} == 1'
                    },
                ),
                Panel(
                    title="Engines by state",
                    width=12,
                    height=9,
                    stacked=True,
                    queries={"{{state}}": f"sum by (state) (sglang_operator_pool_engines{_ALL})"},
                ),
                Panel(
                    title="Engines that ended, by cause (1 h)",
                    width=12,
                    queries={
                        "{{cause}}": _counted(
                            "cause", f"sglang_operator_pool_engine_failures_total{_ALL}"
                        )
                    },
                ),
                Panel(
                    title="Engines behind a closed gate",
                    about="How many engines, on average, are up and get no requests until a "
                    "trainer commits.",
                    width=12,
                    queries={
                        "{{namespace}}/{{pool}}": "sum by (namespace, pool) (rate("
                        f"sglang_operator_pool_gate_closed_seconds_total{_ALL}"
                        "[$__rate_interval]))"
                    },
                ),
            ),
        ),
        Section(
            title="Operator",
            panels=(
                Panel(
                    title="Replicas that hold the Lease",
                    about="One for each release is well.",
                    kind="stat",
                    width=4,
                    height=5,
                    queries={"replicas": f"sum{_ours(_LEADER)}"},
                ),
                Panel(
                    title="Version",
                    kind="table",
                    width=4,
                    height=5,
                    queries={"": "count by (version) (sglang_operator_build_info)"},
                ),
                Panel(
                    title="Passes",
                    width=8,
                    height=5,
                    unit="ops",
                    queries={
                        "{{result}}": "sum by (result) "
                        + _ours(
                            f"rate(controller_runtime_reconcile_total{{{_LOOP}}}[$__rate_interval])"
                        )
                    },
                ),
                Panel(
                    title="Duration of a pass",
                    width=8,
                    height=5,
                    unit="s",
                    queries={
                        "p50": _loop_quantile(
                            0.5, "controller_runtime_reconcile_time_seconds", f"{{{_LOOP}}}"
                        ),
                        "p99": _loop_quantile(
                            0.99, "controller_runtime_reconcile_time_seconds", f"{{{_LOOP}}}"
                        ),
                    },
                ),
                Panel(
                    title="Queue",
                    queries={
                        "due": f"sum{_ours(f'workqueue_depth{{{_QUEUE}}}')}",
                        "in work": f"sum{_ours(f'controller_runtime_active_workers{{{_LOOP}}}')}",
                        "at most": "max"
                        + _ours(f"controller_runtime_max_concurrent_reconciles{{{_LOOP}}}"),
                    },
                ),
                Panel(
                    title="Wait in the queue",
                    unit="s",
                    queries={
                        "p50": _loop_quantile(
                            0.5, "workqueue_queue_duration_seconds", f"{{{_QUEUE}}}"
                        ),
                        "p99": _loop_quantile(
                            0.99, "workqueue_queue_duration_seconds", f"{{{_QUEUE}}}"
                        ),
                    },
                ),
                Panel(
                    title="Requests to the API server",
                    unit="reqps",
                    queries={
                        "{{method}} {{code}}": "sum by (method, code) "
                        + _ours("rate(rest_client_requests_total[$__rate_interval])")
                    },
                ),
                Panel(
                    title="Silence of watches",
                    about="Bookmarks come every minute; above three minutes the probe fails.",
                    unit="s",
                    queries={
                        "{{resource}}": "max by (resource) (sglang_operator_watch_age_seconds)"
                    },
                ),
                Panel(
                    title="CPU",
                    unit="percentunit",
                    queries={"{{pod}}": _ours("rate(process_cpu_seconds_total[$__rate_interval])")},
                ),
                Panel(
                    title="Memory",
                    unit="bytes",
                    queries={"{{pod}}": _ours("process_resident_memory_bytes")},
                ),
            ),
        ),
    ),
)

_POOL = Dashboard(
    uid=POOL,
    title="SGLang pools: one pool",
    variables={
        "namespace": "label_values(sglang_operator_pool_gpus_wanted, namespace)",
        "pool": 'label_values(sglang_operator_pool_gpus_wanted{namespace=~"$namespace"}, pool)',
    },
    links={"All pools": FLEET},
    sections=(
        Section(
            title="The pool, as the operator sees it",
            panels=(
                Panel(
                    title="Conditions",
                    kind="table",
                    width=10,
                    queries={"": f"sglang_operator_pool_condition{_ONE} == 1"},
                ),
                Panel(
                    title="Engines by state",
                    width=14,
                    stacked=True,
                    queries={"{{state}}": f"sum by (state) (sglang_operator_pool_engines{_ONE})"},
                ),
                Panel(
                    title="GPUs",
                    queries={
                        "wanted": f"sglang_operator_pool_gpus_wanted{_ONE}",
                        "bound": f"sglang_operator_pool_gpus_bound{_ONE}",
                    },
                ),
                Panel(
                    title="Engines that ended, by cause (1 h)",
                    queries={
                        "{{cause}}": _counted(
                            "cause", f"sglang_operator_pool_engine_failures_total{_ONE}"
                        )
                    },
                ),
                Panel(
                    title="Engines behind a closed gate",
                    queries={
                        "engines": "rate(sglang_operator_pool_gate_closed_seconds_total"
                        f"{_ONE}[$__rate_interval])"
                    },
                ),
                Panel(
                    title="KV cache of an engine: planned and reported",
                    about="Tokens that it has room for. Reported is the engine of which the plan "
                    "was most wrong; nothing is planned for a card or a model that is not known.",
                    queries={"{{source}}": f"sglang_operator_pool_cache_tokens{_ONE}"},
                ),
            ),
        ),
        Section(
            title="Weights",
            panels=(
                Panel(
                    title="Phase",
                    width=6,
                    stacked=True,
                    queries={"{{phase}}": f"sglang_operator_pool_weight_phase{_ONE}"},
                ),
                Panel(
                    title="Syncs (1 h)",
                    width=6,
                    queries={
                        "{{result}}": _counted(
                            "result", f"sglang_operator_pool_weight_syncs_total{_ONE}"
                        )
                    },
                ),
                Panel(
                    title="Duration of a sync",
                    width=6,
                    unit="s",
                    queries={
                        "p50": _quantile(0.5, "sglang_operator_pool_weight_sync_seconds", _ONE),
                        "p95": _quantile(0.95, "sglang_operator_pool_weight_sync_seconds", _ONE),
                    },
                ),
                Panel(
                    title="Engines on another version; share of time asleep",
                    width=6,
                    queries={
                        "other version": f"sglang_operator_pool_weight_skew{_ONE}",
                        "asleep": "rate(sglang_operator_pool_sleep_seconds_total"
                        f"{_ONE}[$__rate_interval])",
                    },
                ),
            ),
        ),
        Section(
            title="The engines' own metrics (enable_metrics: true in strategy_config)",
            panels=(
                Panel(
                    title="Tokens generated",
                    unit="tok/s",
                    queries={"tokens": f"sum(max by (engine) (sglang:gen_throughput{_ONE}))"},
                ),
                Panel(
                    title="Requests running",
                    queries={"{{engine}}": _engines("sglang:num_running_reqs")},
                ),
                Panel(
                    title="Requests waiting",
                    queries={"{{engine}}": _engines("sglang:num_queue_reqs")},
                ),
                Panel(
                    title="KV cache in use",
                    unit="percentunit",
                    queries={"{{engine}}": _engines("sglang:token_usage")},
                ),
                Panel(
                    title="Prefix cache hits",
                    unit="percentunit",
                    queries={"{{engine}}": _engines("sglang:cache_hit_rate")},
                ),
                Panel(
                    title="Requests held by a pause",
                    about="Counted while a trainer has paused generation (SGLang 0.5.2 on).",
                    queries={"{{engine}}": _engines("sglang:num_paused_reqs")},
                ),
                Panel(
                    title="Time to first token",
                    unit="s",
                    queries={
                        "p50": _quantile(0.5, "sglang:time_to_first_token_seconds", _ONE),
                        "p99": _quantile(0.99, "sglang:time_to_first_token_seconds", _ONE),
                    },
                ),
                Panel(
                    title="Time between tokens",
                    unit="s",
                    queries={
                        "p50": _quantile(0.5, "sglang:inter_token_latency_seconds", _ONE),
                        "p99": _quantile(0.99, "sglang:inter_token_latency_seconds", _ONE),
                    },
                ),
                Panel(
                    title="Whole requests",
                    unit="s",
                    queries={
                        "p50": _quantile(0.5, "sglang:e2e_request_latency_seconds", _ONE),
                        "p99": _quantile(0.99, "sglang:e2e_request_latency_seconds", _ONE),
                    },
                ),
                Panel(
                    title="Tokens read and written",
                    unit="tok/s",
                    queries={
                        "prompt": f"sum(rate(sglang:prompt_tokens_total{_ONE}[$__rate_interval]))",
                        "generated": "sum(rate(sglang:generation_tokens_total"
                        f"{_ONE}[$__rate_interval]))",
                    },
                ),
                Panel(
                    title="Requests retracted",
                    about="Put back because the KV cache was full.",
                    queries={"{{engine}}": _engines("sglang:num_retracted_reqs")},
                ),
                Panel(
                    title="GPU memory: weights and KV cache",
                    about="SGLang 0.5.20 on.",
                    unit="decgbytes",
                    queries={
                        "weights {{engine}}": _engines("sglang:weight_memory_usage_gb"),
                        "KV cache {{engine}}": _engines("sglang:kv_cache_memory_usage_gb"),
                    },
                ),
            ),
        ),
    ),
)

DASHBOARDS = (_FLEET, _POOL)
