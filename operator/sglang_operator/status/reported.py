"""What the engines say they really run with, where that is known.  Pure.

An engine is asked once (``questions``); afterwards the status is the memory, so that a new
operator does not take back what an earlier one has learnt.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_operator.api import errors, texts
from sglang_operator.engine import arguments, versions
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import EngineReport, Resolved
from sglang_operator.pool.resolve import Pool

_FIELDS = {
    "engineVersion": "version",
    "memFractionStatic": "mem_fraction_static",
    "maxTotalTokens": "max_total_tokens",
    "maxRunningRequests": "max_running_requests",
    "contextLength": "context_length",
    "attentionBackend": "attention_backend",
}


def reported(
    pool: Pool,
    engines: Sequence[EngineStatus],
    reports: Mapping[str, EngineReport],
    previous: Mapping[str, Any],
) -> dict[str, Any]:
    """``status.reported``, from the lowest-ranked engine that answered /server_info; {} if none.

    Engines of one revision are equal but for the memory that was free when they started.
    """
    told = next(_told(engines, reports), None)
    if told is not None:
        values = {name: getattr(told, field) for name, field in _FIELDS.items()}
        return {name: value for name, value in values.items() if value not in (None, "")}
    if previous.get("revision") != pool.revision:
        return {}
    return dict(previous.get("reported", {}))


def warnings(
    pool: Pool, said: Mapping[str, Any], engines: Sequence[EngineStatus]
) -> Iterator[errors.Problem]:
    """What is odd about them: they are of another version than the operator thinks, or are
    reached by addresses on which they do not listen."""
    address = next((engine.ip for engine in engines if engine.ip), "")
    listens = pool.spec.network.listen_on_pod_ip  # whatever its family
    if address and not listens and arguments.any_address(address) != pool.host:
        family = "IPv6" if pool.host == arguments.ANY_IPV6_ADDRESS else "IPv4"
        yield errors.ADDRESS_FAMILY("spec", found=address, host=pool.host, family=family)
    yield from _other_version(pool, said.get("engineVersion", ""))


def _other_version(pool: Pool, said: str) -> Iterator[errors.Problem]:
    version = versions.reported(said)
    if not said or version == pool.version:
        return
    advice = texts.VERSION_UNRELEASED
    if version is not None:
        advice = texts.VERSION_TO_SET.format(version=version)
        if why := pool.facts_as(version).no_sync:
            advice += texts.VERSION_FORBIDS_SYNC.format(why=why)
    yield errors.VERSION_REPORTED(
        "spec.engineVersion", found=errors.shown(said), version=pool.version, advice=advice
    )


def _told(
    engines: Sequence[EngineStatus], reports: Mapping[str, EngineReport]
) -> Iterator[Resolved]:
    for engine in engines:
        report = reports.get(engine.instance or "")
        if engine.current and report is not None and report.resolved is not None:
            yield report.resolved
