"""Everything in which SGLang's versions differ for somebody who speaks HTTP to an engine.

Read in the wheels of 0.4.6.post5 to 0.5.23 (srt/entrypoints/http_server.py, srt/managers/
tokenizer_manager.py and its mixins, scheduler.py, srt/model_executor, srt/utils/auth.py); what real
engines of 0.5.14 did is in tests/data/real-engine and cited by tests/contract.
"""

from dataclasses import dataclass

from sglang_operator.engine import schema, versions

WEIGHTS, KV_CACHE, CUDA_GRAPH = "weights", "kv_cache", "cuda_graph"


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """What an engine of one version does."""

    version: versions.Version
    endpoints: frozenset[str]
    features: versions.Features
    program: str  # argparse's name for it in errors of the command line
    # /health generates a token, as /health_generate does; in 0.4.6 it is a constant 200.
    health_generates: bool
    # A command with the wrong JSON is 400 by SGLang's own handler, FastAPI's 422 before.
    invalid_status: int
    pause_modes: tuple[str, ...]
    # /pause_generation, /continue_generation without a body are errors.
    pause_needs_body: bool
    # A pause in mode abort answers when nothing runs any more; before, at once.
    pause_waits: bool
    # While paused, updates take no lock; before, they do always.
    update_while_paused: bool
    # /continue_generation waits for the update that runs.
    update_holds_pause: bool
    # A request that waits for the end of a pause keeps SIGTERM's drain waiting.
    drain_counts_paused: bool
    tags: tuple[str, ...]  # of memory, in SGLang's order; none: only all can be released
    # What the scheduler dies of when memory is released while requests run.
    busy_release: str
    # Those that are queued while paused do not count as running for a release.
    release_ignores_queued: bool
    # /resume_memory_occupation without a release: how the scheduler dies.
    wrong_resume: str
    # An update that cannot flush the cache kills the scheduler; from 0.5.23 it answers 400.
    failed_flush_kills: bool
    # An update for a group that does not exist kills the scheduler; from 0.5.21 it answers 400.
    unknown_group_kills: bool
    # Updates of weights carry names, dtypes and shapes; 0.4.6 takes one tensor at a time.
    many_tensors: bool
    flattened_buckets: bool  # load_format of updates from tensors
    # GET /get_weight_version and /weight_version: "answers", "gone" (404 with a text), "absent".
    weight_version_endpoint: str
    checker_actions: tuple[str, ...]
    # SIGTERM ends it with 0; before, with a SIGKILL of itself (137, or 0 as PID 1).
    drains_to_zero: bool
    abort_all: bool  # /abort_request knows abort_all
    levels: bool  # endpoints of administration have a key of their own
    loads: bool  # GET /v1/loads
    # /get_load and /v1/loads read what the scheduler wrote last, and answer when it blocks.
    loads_from_snapshot: bool
    pending_tokens: bool  # /get_load has num_pending_tokens
    flush_minds_waiting: bool  # in a pause, too
    flush_minds_grammars: bool  # requests that wait for theirs
    failed_flush_text: bool  # /flush_cache says so; before, the text is always the same
    # Of an answer's meta_info: how often the request was retracted.
    retractions: str
    port_in_use_code: int  # uvicorn's, which is not pinned: 3 was seen with 0.5.14
    follower_waits: bool  # SIGTERM does not end a follower: it waits for rank 0 to stop it
    sticky_unhealthy: bool  # once a health check failed, SIGTERM does not drain


def of(version: versions.Version) -> Behaviour:
    """The behaviour of a version; one that is not known behaves as the newest before it."""
    features = versions.features(version)
    known = schema.nearest(version)
    endpoints = set(known.endpoints)
    if features.begin_end_weight_update:
        endpoints |= {"/begin_weight_update", "/end_weight_update"}

    def since(text: str) -> bool:
        return version >= versions.parse(text)

    return Behaviour(
        version=version,
        endpoints=frozenset(endpoints),
        features=features,
        program="sglang serve" if since("0.5.14") else "launch_server.py",
        health_generates=since("0.4.10"),
        invalid_status=400 if since("0.4.10") else 422,
        pause_modes=_pause_modes(version),
        pause_needs_body=since("0.5.6"),
        pause_waits=since("0.5.6"),
        update_while_paused=since("0.5.6"),
        update_holds_pause=since("0.5.14"),
        drain_counts_paused=since("0.5.14"),
        tags=_tags(version),
        busy_release=_busy_release(version),
        release_ignores_queued=not since("0.5.10") or since("0.5.21"),
        wrong_resume=_wrong_resume(version),
        failed_flush_kills=not since("0.5.23"),
        unknown_group_kills=not since("0.5.21"),
        many_tensors=since("0.4.10"),
        flattened_buckets=since("0.5.2"),
        weight_version_endpoint=_weight_version_endpoint(version),
        checker_actions=("snapshot", "reset_tensors", "compare")
        + (("checksum",) if since("0.5.14") else ()),
        drains_to_zero=since("0.5.20"),
        abort_all=since("0.4.10"),
        levels=features.admin_api_key,
        loads=since("0.5.9"),
        loads_from_snapshot=since("0.5.14"),
        pending_tokens=since("0.5.14"),
        flush_minds_waiting=since("0.5.10") and not since("0.5.21"),
        flush_minds_grammars=since("0.5.10"),
        failed_flush_text=since("0.5.14"),
        retractions=_retractions(version),
        port_in_use_code=3 if since("0.5.14") else 1,
        follower_waits=since("0.5.23"),
        sticky_unhealthy=not since("0.5.2"),
    )


def _pause_modes(version: versions.Version) -> tuple[str, ...]:
    if version < versions.parse("0.4.10"):
        return ()
    return ("abort", "retract", "in_place") if version >= versions.parse("0.5.6") else ("abort",)


def _tags(version: versions.Version) -> tuple[str, ...]:
    if version < versions.parse("0.4.10"):
        return ()
    if version < versions.parse("0.5.4.post2"):
        return (WEIGHTS, KV_CACHE)
    return (KV_CACHE, WEIGHTS, CUDA_GRAPH)


def _retractions(version: versions.Version) -> str:
    if version < versions.parse("0.5.7"):
        return ""
    return "num_retractions" if version >= versions.parse("0.5.14") else "total_retractions"


def _busy_release(version: versions.Version) -> str:
    if version >= versions.parse("0.5.14"):
        return (
            "AssertionError: release_memory_occupation should be called only when server is idle."
        )
    if version >= versions.parse("0.5.4.post2"):
        return (
            "AssertionError: release_memory_occupation should be called only when no ongoing "
            "request."
        )
    return "RuntimeError: CUDA error: an illegal memory access was encountered"


def _wrong_resume(version: versions.Version) -> str:
    """From 0.5.2 the tags that were released are kept; before, what was stashed is missing."""
    if version >= versions.parse("0.5.2"):
        return "KeyError: {tag!r}"
    return "AttributeError: 'Scheduler' object has no attribute 'stashed_model_static_state'"


def _weight_version_endpoint(version: versions.Version) -> str:
    if version < versions.parse("0.5.2") or version >= versions.parse("0.5.21"):
        return "absent"
    return "answers" if version < versions.parse("0.5.9") else "gone"
