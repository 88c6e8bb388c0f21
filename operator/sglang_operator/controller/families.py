"""The table of metrics: every name, its labels and what it means.  The reference is made of it.

Names of controllers' common metrics are controller-runtime's and client-go's, so that dashboards
and alerts that exist for those read this operator too.  Ours begin with ``sglang_operator_``.
Labels are bounded: namespace and name of a pool, and words out of fixed sets; never text from a
spec.
"""

from dataclasses import dataclass

GAUGE = "gauge"
COUNTER = "counter"
HISTOGRAM = "histogram"

_POOL = ("namespace", "pool")
_CONTROLLER = ("controller",)
_QUEUE = ("name", "controller")


@dataclass(frozen=True, kw_only=True)
class Family:
    """One metric.  A counter's name ends in ``_total``."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


def _family(name: str, kind: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name=name, kind=kind, help=text, labels=labels)


# --- passes and queue, as controller-runtime names them
RECONCILES = _family(
    "controller_runtime_reconcile_total",
    COUNTER,
    (*_CONTROLLER, "result"),
    "Passes by result: success, requeue_after (it asked to be run again), error (a defect).",
)
RECONCILE_ERRORS = _family(
    "controller_runtime_reconcile_errors_total",
    COUNTER,
    _CONTROLLER,
    "Passes that ended in an unexpected error.",
)
RECONCILE_PANICS = _family(
    "controller_runtime_reconcile_panics_total",
    COUNTER,
    _CONTROLLER,
    "The same: every unexpected error is a defect of the operator.",
)
RECONCILE_SECONDS = _family(
    "controller_runtime_reconcile_time_seconds",
    HISTOGRAM,
    _CONTROLLER,
    "How long passes took, waiting for the API server included.",
)
MAX_CONCURRENT = _family(
    "controller_runtime_max_concurrent_reconciles",
    GAUGE,
    _CONTROLLER,
    "Passes that may run at a time; one that waits for the API server lets another begin.",
)
ACTIVE_WORKERS = _family(
    "controller_runtime_active_workers", GAUGE, _CONTROLLER, "Pools in work at this moment."
)
QUEUE_DEPTH = _family(
    "workqueue_depth", GAUGE, _QUEUE, "Pools that are due and wait for a free worker."
)
QUEUE_ADDS = _family(
    "workqueue_adds_total", COUNTER, _QUEUE, "How often a pool was asked to be looked at."
)
QUEUE_RETRIES = _family(
    "workqueue_retries_total", COUNTER, _QUEUE, "How often a pass asked to be run again."
)
QUEUE_WAIT = _family(
    "workqueue_queue_duration_seconds",
    HISTOGRAM,
    _QUEUE,
    "How long pools that were due waited for a worker.",
)
QUEUE_WORK = _family(
    "workqueue_work_duration_seconds", HISTOGRAM, _QUEUE, "How long pools were in work."
)
QUEUE_UNFINISHED = _family(
    "workqueue_unfinished_work_seconds",
    GAUGE,
    _QUEUE,
    "Seconds that the pools now in work have been so, summed up: large means stuck.",
)
QUEUE_LONGEST = _family(
    "workqueue_longest_running_processor_seconds",
    GAUGE,
    _QUEUE,
    "Seconds that the longest of the pools now in work has been so.",
)

# --- the API server and the Lease
REQUESTS = _family(
    "rest_client_requests_total",
    COUNTER,
    ("code", "method", "host"),
    "Requests to the API server by status code, <error> if there was no answer; a watch is a GET.",
)
LEADER = _family(
    "leader_election_master_status",
    GAUGE,
    ("name",),
    "1 if this replica holds the Lease, 0 if it stands by; absent without an election.",
)
STREAM_AGE = _family(
    "sglang_operator_watch_age_seconds",
    GAUGE,
    ("resource",),
    "Seconds since a watch last heard from the API server; bookmarks come every minute.",
)
STREAM_LISTS = _family(
    "sglang_operator_watch_lists_total",
    COUNTER,
    ("resource",),
    "Lists of a resource: one at the start; more mean broken or expired watches.",
)
STREAM_REFUSED = _family(
    "sglang_operator_watch_refused",
    GAUGE,
    ("resource",),
    "1 while the API server refuses a resource (403, 404): pools of that namespace are not served.",
)
STREAM_UNREAD = _family(
    "sglang_operator_unreadable_objects",
    GAUGE,
    ("resource",),
    "Objects that cannot be decoded; each stays as it was last seen, and is named in the log.",
)
UNEXPECTED = _family(
    "sglang_operator_unexpected_errors_total",
    COUNTER,
    ("task",),
    "Errors that nobody expected, by what they happened in; each is in the log with its traceback.",
)
WRITE_WINDOW = _family(
    "sglang_operator_write_window",
    GAUGE,
    (),
    "Writes that may be under way at a time; it shrinks when the API server is overloaded.",
)
EVENTS = _family(
    "sglang_operator_events_total",
    COUNTER,
    ("result",),
    "Events about pools: posted, aggregated into an earlier one, dropped for their rate, failed.",
)
TASKS = _family(
    "sglang_operator_tasks", GAUGE, (), "Tasks of the loop; without work as many as streams."
)
SHELL_STARTS = _family(
    "sglang_operator_kopf_starts_total",
    COUNTER,
    (),
    "How often kopf was started; the loop goes on without it.",
)
WATCHES_ANEW = _family(
    "sglang_operator_watches_begun_anew_total",
    COUNTER,
    (),
    "Watches of pools that were begun anew because kopf had heard of what they had not told.",
)
BUILD = _family("sglang_operator_build_info", GAUGE, ("version",), "1, with the version.")

# --- pools, told by the replica that holds the Lease
POOL_INFO = _family(
    "sglang_operator_pool_info",
    GAUGE,
    (*_POOL, "engine_version", "gate", "placement"),
    "1, with what the pool was resolved to.",
)
POOL_CONDITION = _family(
    "sglang_operator_pool_condition",
    GAUGE,
    (*_POOL, "condition", "status", "reason"),
    "1 for each condition in the status of the pool, with its present status and reason.",
)
POOL_ENGINES = _family(
    "sglang_operator_pool_engines",
    GAUGE,
    (*_POOL, "state"),
    "Engines by state; over all states as many as the pool wants.",
)
POOL_GPUS_WANTED = _family(
    "sglang_operator_pool_gpus_wanted", GAUGE, _POOL, "GPUs that the pool's engines ask for."
)
POOL_GPUS_BOUND = _family(
    "sglang_operator_pool_gpus_bound", GAUGE, _POOL, "GPUs of engines that have a node."
)
POOL_FAILURES = _family(
    "sglang_operator_pool_engine_failures_total",
    COUNTER,
    (*_POOL, "cause"),
    "Ends of engines, each followed by a restart, by diagnosed cause: a reason of lastFailures.",
)
POOL_GATE_CLOSED = _family(
    "sglang_operator_pool_gate_closed_seconds_total",
    COUNTER,
    _POOL,
    "Engine-seconds spent up behind a closed weights gate: paid for, and serving nobody.",
)
POOL_CACHE_TOKENS = _family(
    "sglang_operator_pool_cache_tokens",
    GAUGE,
    (*_POOL, "source"),
    "Tokens that an engine's KV cache has room for: planned, and reported by the engine of which "
    "the plan was most wrong; what is not known is absent.",
)

POOL_SYNC_SECONDS = _family(
    "sglang_operator_pool_weight_sync_seconds",
    HISTOGRAM,
    _POOL,
    "How long trainers took from begin to commit, by their own clock.",
)
POOL_SYNCS = _family(
    "sglang_operator_pool_weight_syncs_total",
    COUNTER,
    (*_POOL, "result"),
    "Transactions that ended: committed, aborted (by the trainer, or because it went away).",
)
POOL_PHASE = _family(
    "sglang_operator_pool_weight_phase",
    GAUGE,
    (*_POOL, "phase"),
    "1 for the phase in which the weights Lease is.",
)
POOL_SKEW = _family(
    "sglang_operator_pool_weight_skew",
    GAUGE,
    _POOL,
    "Engines that hold another version of the weights than was committed last.",
)
POOL_ASLEEP = _family(
    "sglang_operator_pool_sleep_seconds_total",
    COUNTER,
    _POOL,
    "Seconds in which a trainer had released the engines' memory; of a part its share of them.",
)
POOL_SLEEPERS = _family(
    "sglang_operator_pool_engines_asleep",
    GAUGE,
    _POOL,
    "Engines whose memory a trainer has released, or is about to.",
)


def families() -> list[Family]:
    """All of them, in the order they stand here."""
    return [value for value in globals().values() if isinstance(value, Family)]
