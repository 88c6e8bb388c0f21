"""Rule: the operator takes over from the kubelet's crash loop.  Pure.

Kubelet starts the container of an ungated engine of one pod again, for ever (one on the GPUs of a
trainer stays down).  One that fails at its start
gets a new pod instead, which stays when it fails (``children.engine_pod`` gives it restartPolicy
Never), so that the next failures are counted here.
"""

from sglang_operator.diagnosis import causes
from sglang_operator.plan import startup
from sglang_operator.plan.planner import Planner


def take_over_crash_loops(planner: Planner) -> None:
    """An engine whose container was started again in place, and fails at its start, goes."""
    for engine in planner.pool.running:
        found = planner.groups_of(engine.name)
        group = found.beside or found.kept
        pod = group.first if group is not None else None
        if group is None or pod is None or pod.restarts == 0 or pod.last_termination is None:
            continue
        if pod.uid in planner.observed.stays:
            continue
        if group is found.beside and planner.leaves_alone:
            continue  # nothing begins beside an engine now
        told = causes.of_termination(pod, pod.last_termination, planner.about)
        streak = startup.streak_in_place(pod, told)
        if streak is None or not planner.pool.accepts(pod.revision):
            continue
        if engine.name in planner.without_seat:
            continue  # it could not come back: kubelet goes on with it
        planner.remove(pod, f"its container fails at its start: {told.reason}", drains=False)
        beside = group is found.beside
        if beside:
            found.beside = None
        else:
            found.live.remove(group)
        planner.taken_over.append(pod)
        if beside and planner.surge_room() <= 0:
            continue  # maxSurge was lowered: others are beside
        # What is known of its failures goes with the pod, so nothing else waits for another pass;
        # where no scheduler counts its GPUs the next pod waits, and that is remembered for it.
        why = f"pod {pod.name} is taken over"
        planner.create(engine, reason=why, failures=1, streak=streak, after=pod)
