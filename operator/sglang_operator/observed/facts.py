"""What an engine is: by its own word, else as it was started; never by the pool's present spec.

Pure.  An engine of an earlier revision may listen on another port and be of another version than
the spec asks for now, and one of the present revision may be of another version than was assumed:
many images have tags that name none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from sglang_operator.engine import versions
from sglang_operator.observed.model import EngineReport, ObservedPod
from sglang_operator.pool.model import EngineFacts, Pool


class EngineRun(Protocol):
    """One life of an engine: an ``EngineStatus`` is one, and a ``Group``."""

    @property
    def revision(self) -> str:
        """What it was made of."""

    @property
    def instance(self) -> str | None:
        """Its name."""


def of(
    pool: Pool,
    pod: ObservedPod | None,
    run: str | None,
    revisions: Mapping[str, EngineFacts],
    reports: Mapping[str, EngineReport],
) -> EngineFacts:
    """Of the engine that answers in this pod, and of this run of it.

    ``revisions``: what is known of those that engines were started with.  An engine of which
    nothing is known, or that is yet to be, is as the spec says; but its GPUs its pod tells.
    """
    own = pod is None or _is_own(pool, pod.revision)
    started = pool.facts
    known = revisions.get(pool.revision if pod is None else pod.revision)
    if known is not None and (known.reported or not own):
        started = known if known.gpus else replace(known, gpus=_gpus(pool, pod))
    elif pod is not None and not own:
        started = replace(started, gpus=_gpus(pool, pod))
    version = _said(reports.get(run or ""))
    if version is None or str(version) == started.version:
        return started
    return pool.facts_as(version) if own else replace(started, version=str(version), reported=True)


def learnt(
    pool: Pool,
    engines: Iterable[EngineRun],
    revisions: Mapping[str, EngineFacts],
    reports: Mapping[str, EngineReport],
) -> EngineFacts:
    """What is known of engines of the present revision, whichever of them said it.

    That stays known while none of them can be asked.  Those of one tag may differ: then what
    forbids a sync counts.
    """
    runs = [each.instance for each in engines if each.instance and _is_own(pool, each.revision)]
    said = {version for run in runs if (version := _said(reports.get(run))) is not None}
    if said:
        found = [pool.facts_as(version) for version in sorted(said)]
        return next((each for each in found if each.no_sync), found[0])
    return of(pool, None, None, revisions, {})


def _gpus(pool: Pool, pod: ObservedPod | None) -> int:
    """The GPUs of the engine in this pod, as that and those beside it ask for them."""
    own = pod.gpus(pool.resource, 0) * pod.nodes if pod is not None else 0
    return own or pool.gpus


def _is_own(pool: Pool, revision: str) -> bool:
    return revision == pool.revision or pool.accepts(revision)


def _said(report: EngineReport | None) -> versions.Version | None:
    """The release that an engine says it is; None if it says nothing, or none that is known."""
    if report is None or report.resolved is None:
        return None
    return versions.reported(report.resolved.version)
