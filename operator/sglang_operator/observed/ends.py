"""Ends of engines are read a few at a time: when thousands fail at once, that takes seconds.  Pure.

What an unread end says is not known yet: an engine that it left without a pod waits, and nothing
is recorded of it.  A pod whose container runs on, or is started again, is seen without it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from sglang_operator.api.names import Uid
from sglang_operator.observed.model import Companion, ObservedPod, Termination


def unread(pods: Iterable[ObservedPod]) -> Iterator[Termination]:
    """The ends that have yet to be read."""
    for pod in pods:
        yield from (end for end in pod.terminations if not end.is_read)


def as_read(pods: Iterable[ObservedPod]) -> tuple[tuple[ObservedPod, ...], frozenset[Uid]]:
    """The pods as far as their ends have been read, and those that ended with one that is not."""
    seen, ended = list[ObservedPod](), set[Uid]()
    for pod in pods:
        ends = pod.terminations
        if not ends or all(end.is_read for end in ends):
            seen.append(pod)
        elif pod.ended:
            ended.add(pod.uid)
            seen.append(pod)
        else:
            seen.append(_without(pod))
    return tuple(seen), frozenset(ended)


def _without(pod: ObservedPod) -> ObservedPod:
    companions = tuple(map(_companion, pod.companions))
    return replace(pod, last_termination=_read(pod.last_termination), companions=companions)


def _companion(one: Companion) -> Companion:
    """Why kubelet waits with one that it starts again is what its end says: told with that."""
    last = _read(one.last_termination)
    waits_untold = last is not one.last_termination
    return replace(
        one,
        last_termination=last,
        termination=_read(one.termination),
        waiting_reason="" if waits_untold else one.waiting_reason,
        waiting_message="" if waits_untold else one.waiting_message,
    )


def _read(end: Termination | None) -> Termination | None:
    return end if end is not None and end.is_read else None
