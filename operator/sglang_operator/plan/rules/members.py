"""Rule: the pods of one engine die together.  Pure.

What became of one has become of all: ranks that are left wait for it until a watchdog ends them,
after minutes in which they hold their GPUs.  So the others go at once, the leader first, which
takes the engine out of the Services.  Only a leader that is deleted while all is well answers what
it was asked, within its grace, and needs them for that; they follow when it has ended.

A pod that is missing may not be there yet, or may be gone.  The leader is made last
(``rules.incomplete``), and nobody gets past the rendezvous without it: where it is, or where one
has answered, all of them have been.  Nor does anybody get there twice: whoever may have met a
leader that is gone follows it, for another by its name would wait for them in vain.
"""

from collections.abc import Sequence

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan.planner import Planner


def keep_members_together(planner: Planner) -> None:
    """What is left of an engine goes once one of its pods has ended, goes, or is gone."""
    if not planner.several:
        return
    aside = {(pod.engine, pod.attempt): pod for pod in planner.observed.aside}
    for name, found in planner.engines.items():
        for group in [g for g in found.live if g.size > 1 and not planner.stays(g)]:
            taken = planner.observed.taken.get(name, -1) >= group.attempt
            if why := _why_broken(group, aside.get((name, group.attempt)), taken=taken):
                _follow(planner, group.members, why)
                planner.taken_over += [p for p in group.members if p.last_termination is not None]
                found.live.remove(group)
                found.dying.append(group)
        for group in found.ended:
            if group.size > 1:
                why = f"pod {group.first_end.name} of its engine has ended"
                _follow(planner, [pod for pod in group.members if not pod.ended], why)
        for group in found.dying:
            if group.size == 1:
                continue
            if group.drains(planner.now):
                if group.first.deleting:  # else somebody is about to take it: that is an event
                    planner.wakes.append(group.first.seen.due)
                # They hold their GPUs until then: no others are asked for beside them.
                planner.podless[name] = EngineState.WAITING
                continue
            if planner.waited_in_vain(group):
                _wait_anew(planner, group)
                continue
            gone = next((pod.name for pod in group.members if pod.dying), "")
            why = f"pod {gone} of its engine goes" if gone else "a pod of its engine was deleted"
            # Also one that has ended since, as it had to: that is no failure to be kept.
            _follow(planner, group.members, why)


def _wait_anew(planner: Planner, group: Group) -> None:
    """Others wait in their place, but not again and again where they end at once.

    Those that ended stay until then: they know of failures before (``rules.missing``).
    """
    left = [pod for pod in group.members if not pod.ended]
    _follow(planner, left, f"pod {group.first_end.name} waited for its leader in vain")
    due = group.first_end.seen.first + planner.policy.max_backoff_seconds
    if due > planner.now and group.engine in planner.wanted:
        planner.wakes.append(due)
        planner.podless[group.engine] = EngineState.WAITING
    found = planner.groups_of(group.engine)
    over = group.engine not in planner.wanted or found.highest > group.attempt or bool(found.live)
    # A container that runs on beside it may use up the next one's quota.
    blocked = planner.observed.creates_blocked_until > planner.now
    ended = [pod for pod in group.members if pod.ended]
    _follow(planner, [p for p in ended if over or (blocked and p.holds_gpus)], "nobody waits in it")


def _follow(planner: Planner, pods: Sequence[ObservedPod], why: str) -> None:
    """None of them answers anybody any more, whatever its process does: nothing drains."""
    for pod in pods:
        planner.remove(pod, why, drains=False)


def _why_broken(group: Group, aside: ObservedPod | None, *, taken: bool) -> str:
    """Why these pods will never be one engine again; empty if they may.

    ``aside``: one of them that is there, and that nobody may take for one of the engine's any more;
    ``taken``: a pod that is none of the engine's, or is out of sight, has a name of this attempt.
    """
    if aside is not None:
        return f"pod {aside.name} of its engine stands aside"
    for pod in group.members:
        if pod.last_termination is not None:
            return f"the container of pod {pod.name} of its engine was started again"
    if taken and not group.whole:
        return "the name of a pod that its engine lacks is taken"
    if not group.whole and any(pod.seen.headless for pod in group.members):
        return "its engine has lost its leader, which had run"
    answered = any(pod.answered or pod.started for pod in group.members)
    if not group.missing or not (group.leader is not None or answered):
        return ""
    gone = ", ".join(map(str, group.missing))
    return f"its engine has lost its pods of node ranks {gone}"
