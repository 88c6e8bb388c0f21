"""What the design forbids, put into copies of the operator: each has to be found."""

from tests.mutants.catalogue import Edit, Mutant

OPENS_AT_BEGIN = Mutant(
    name="opens-at-begin",
    harm="every gate opens while a trainer writes",
    edits=(
        Edit(
            path="gates/decide.py",
            before="        return _run_again(gate, group, current, observed)",
            after="        return _opened(group, COMMITTED, current.target_version or '-')",
        ),
    ),
)

_TAKES_THE_LEASE = """
    state = steps.recover(current, view.operator, instances=due, now=now, seen=view.lease.seen)
    return RecoveryPlan(step=view.step(state, f"{', '.join(due)} lack the committed weights"))
"""
_LOADS_AT_ONCE = """
    lacks = {"checkpoint": current.checkpoint, "version": current.version, "commit": current.id}
    return Recovery(
        loads=tuple(Recover(pod=lacking[run], instance=run, **lacks) for run in due)
    )
"""
# Its load takes no step in the Lease, and leaves when there may have been a sync since.
LOADS_OUTSIDE = Mutant(
    name="loads-outside-the-lease",
    harm="a checkpoint is read over weights that were committed since",
    edits=(
        Edit(path="gates/recovery.py", before=_TAKES_THE_LEASE, after=_LOADS_AT_ONCE),
        Edit(
            path="fleet/poller.py",
            before="return _covers(permit, instance, commit) and steady() < permit.until",
            after="return True",
        ),
        Edit(
            path="fleet/poller.py",
            before="if loading is None or not _covers(permit, instance, loading.commit):",
            after="if loading is None:",
        ),
        Edit(
            path="fleet/poller.py",
            before="            await self._client.update_weights_from_disk(",
            after="            await asyncio.sleep(3.0)\n"
            "            await self._client.update_weights_from_disk(",
        ),
    ),
)

# Nobody asks whose turn it is before an engine is made.
STARTS_ANYWAY = Mutant(
    name="starts-amid-a-turn",
    harm="an engine that ends asleep comes back on the memory that its trainer has by then",
    edits=(
        Edit(
            path="plan/turns.py",
            before="    return said(pool, observed).trainers\n",
            after="    return ENGINES\n",
        ),
    ),
)
