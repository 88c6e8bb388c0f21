"""The mutants: one defect each, as it could be written by mistake, told as text to replace.

Written from the loop's source and the list of what goes wrong in controllers, without a look at
the suite that is to catch them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Edit:
    """``before`` stands exactly once in ``path`` (below the package) and becomes ``after``."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A defect, and what it does to a user."""

    name: str
    harm: str
    edits: tuple[Edit, ...]


def _mutant(name: str, harm: str, path: str, before: str, after: str) -> Mutant:
    return Mutant(name=name, harm=harm, edits=(Edit(path=path, before=before, after=after),))


MUTANTS = (
    _mutant(
        "duplicate-create",
        "a pod's name differs from try to try: a lost answer makes two pods of one engine",
        "children/engine_pod.py",
        "    return names.pod_name(pool.owner.name, engine.name, attempt, member)\n",
        "    name = names.pod_name(pool.owner.name, engine.name, attempt, member)\n"
        '    return name + __import__("secrets").token_hex(2)\n',
    ),
    _mutant(
        "ghost-after-410",
        "what was deleted while the watch was blind stays in the store",
        "cluster/stores.py",
        "            if missing and told(unread) and entry.pod.resource_version <= version:\n",
        "            if False and missing and entry.pod.resource_version <= version:\n",
    ),
    Mutant(
        name="ownership-by-label",
        harm="a pod that carries our labels counts as ours, whoever controls it",
        edits=(
            Edit(
                path="cluster/pod_entry.py",
                before="    elif controller is None and _has_engine_name(meta):\n",
                after="    elif names.LABEL_POOL in meta.labels:\n",
            ),
            Edit(
                path="controller/observing.py",
                before="            if entry.owner == memory.uid and not entry.aside:\n",
                after="            if entry.owner in ('', memory.uid):\n",
            ),
        ),
    ),
    _mutant(
        "ownership-by-name",
        "pods of an earlier pool of the same name count as those of the present one",
        "controller/observing.py",
        "            if entry.owner == memory.uid and not entry.aside:\n",
        "            if entry.pool == key:\n",
    ),
    _mutant(
        "stale-leader-writes-status",
        "an operator that lost the Lease still writes the status of pools",
        "kube/client.py",
        'if fenced and method != "GET" and not self.fence():',
        'if fenced and method not in ("GET", "PATCH") and not self.fence():',
    ),
    _mutant(
        "no-fence",
        "an operator that lost the Lease goes on creating and deleting",
        "kube/client.py",
        'if fenced and method != "GET" and not self.fence():',
        "if False:",
    ),
    _mutant(
        "no-delete-preconditions",
        "a delete meant for one pod hits whatever has its name by then",
        "cluster/executor.py",
        '        "preconditions": exactly,\n',
        "",
    ),
    _mutant(
        "delete-on-stale-list",
        "an old view of the pool takes away engines that its present spec wants",
        "cluster/executor.py",
        "        if any(isinstance(action, actions.DeletePod) for action in batch) and not (\n",
        "        if False and not (\n",
    ),
    _mutant(
        "attempt-reused",
        "a replacement has the name of the pod it replaces, which may never go",
        "plan/planner.py",
        "attempt = self.groups_of(engine.name).highest + 1",
        "attempt = 0",
    ),
    _mutant(
        "failure-not-recorded",
        "a failed pod is deleted before its cause stands in the status",
        "plan/rules/ended.py",
        "if superseded and pod.uid in planner.observed.recorded:",
        "if superseded:",
    ),
    _mutant(
        "gates-never-written",
        "a commit opens no gate: engines with the right weights get no requests, and the others do",
        "controller/acting.py",
        "        outcome = await self._executor.gates(this.key, decision.owner.uid, batch)\n",
        "        outcome = Outcome(moved=len(batch))\n",
    ),
    _mutant(
        "acknowledged-early",
        "a trainer is told of gates that are still to move",
        "controller/reconcile.py",
        "        return moved or long or leaves\n",
        "        return long or leaves\n",
    ),
    _mutant(
        "gate-not-tried-again",
        "a gate that could not be written stays as it is until something else happens",
        "controller/acting.py",
        "            this.requeue.after(Reason.GATES_FAILED, wait)\n",
        "",
    ),
    _mutant(
        "failures-never-recorded",
        "a failed engine is never made again: nobody notes that its cause stands in the status",
        "controller/publishing.py",
        "        memory.recorded |= ended\n",
        "",
    ),
    _mutant(
        "recorded-though-not-told",
        "a failed pod goes although the status with its cause could not be written",
        "controller/publishing.py",
        "        goes_on = told and _goes_on(this, decision)\n",
        "        goes_on = _goes_on(this, decision)\n",
    ),
    _mutant(
        "budget-ignored",
        "a changed argument restarts all engines at once",
        "plan/rollout.py",
        "            if not self._affords({name}):\n                return\n",
        "",
    ),
    _mutant(
        "closed-gates-stand-in",
        "the last engine that misses a probe goes, because one counts that nobody ever reached",
        "plan/footing.py",
        "if state is Health.LOST or not group.let_in or serves(group, state):",
        "if state is Health.LOST or serves(group, state):",
    ),
    _mutant(
        "extra-by-probe",
        "of two pods of an engine the one goes that only misses a probe",
        "plan/planner.py",
        "far = footing.distance(group, self.health(group))",
        "far = self.health(group) is not Health.UP",
    ),
    _mutant(
        "deleted-comes-back",
        "a late answer of an own write brings a deleted pod back into the store",
        "cluster/stores.py",
        "        uid = record.metadata.uid\n        if self._gone.cover(record.metadata):\n"
        "            return\n",
        "        uid = record.metadata.uid\n",
    ),
    _mutant(
        "older-wins",
        "an older state of a pod overwrites a newer one",
        "cluster/stores.py",
        "        if known and not pod_entry.is_news(record, known.pod):\n            return\n",
        "",
    ),
    Mutant(
        name="creates-for-the-deleted",
        harm="a pool that is deleted or changed while it grows goes on growing",
        edits=(
            Edit(
                path="cluster/executor.py",
                before=" and not outcome.stop and self._asked_for(key, asked)\n",
                after=" and not outcome.stop\n",
            ),
            Edit(
                path="controller/reconcile.py",
                before="                acting.stop()  # another spec, or none\n",
                after="                pass\n",
            ),
        ),
    ),
    _mutant(
        "foreign-adopted",
        "a stranger's pod that has an engine's name counts as the engine",
        "cluster/executor.py",
        "        if controller is not None and controller.uid == batch.owner:\n"
        "            self._pods.answered(pod)\n"
        "            if self._pods.has(pod.metadata.uid, batch.owner):\n",
        "        if True:\n            self._pods.answered(pod)\n            if True:\n",
    ),
    _mutant(
        "hot-refusals",
        "a full quota is asked again at once, without end",
        "controller/memory.py",
        "        self.blocked_until = now + delay\n",
        "        self.blocked_until = now + 0 * delay\n",
    ),
    _mutant(
        "failures-forgotten",
        "what the API server failed to do is not tried again",
        "controller/acting.py",
        "            this.requeue.after(Reason.PODS_FAILED, delay)\n",
        "",
    ),
    _mutant(
        "lost-wakeups",
        "what happens to a pool while it is worked on is not looked at again",
        "controller/workqueue.py",
        "        when = self._again.pop(key, None)\n        if when is not None:\n",
        "        when = self._again.pop(key, None)\n        if False and when is not None:\n",
    ),
    _mutant(
        "lease-taken-early",
        "a standby does not wait for the holder's term to end",
        "kube/leader_election.py",
        "            return self._others_until\n"
        "        return max(self._others_until, self._rivals.until())\n",
        "            return self._others_until\n        return self._rivals.until()\n",
    ),
    _mutant(
        "status-of-another",
        "a late status lands on a pool that was made anew under the same name",
        "cluster/executor.py",
        '                "uid": record.metadata.uid,\n'
        '                "resourceVersion": record.metadata.resource_version,\n',
        "",
    ),
    _mutant(
        "half-an-engine-left",
        "the other pods of an engine that has lost one hold their GPUs until a watchdog ends them",
        "plan/rules/members.py",
        "    for pod in pods:\n        planner.remove(pod, why, drains=False)\n",
        "    for pod in pods[1:]:\n        planner.remove(pod, why, drains=False)\n",
    ),
    _mutant(
        "gone-member-made-again",
        "a pod that is gone is made again beside its old engine, and waits for ever",
        "plan/rules/members.py",
        "    if not group.missing or not (group.leader is not None or answered):\n",
        "    if not group.missing or not answered:\n",
    ),
    _mutant(
        "leader-not-last",
        "the pods of an engine are made in any order: one that is gone is taken for one to come",
        "plan/rules/incomplete.py",
        "    followers = tuple(rank for rank in group.missing if rank)\n",
        "    followers = group.missing\n",
    ),
    _mutant(
        "waiting-charged",
        "who waits for a leader without a node is charged, until the pool is Stalled",
        "plan/planner.py",
        "                if self.waited_in_vain(group):\n",
        "                if False:\n",
    ),
    _mutant(
        "engines-block-each-other",
        "each engine holds a part of its GPUs and waits for the rest for ever",
        "plan/rules/cramped.py",
        "    if not going:\n",
        "    if going:\n",
    ),
    _mutant(
        "half-an-engine-up",
        "an engine is up although one of its pods is not there",
        "observed/groups.py",
        "    if group.whole and all(state is _UP for state in found):\n",
        "    if all(state is _UP for state in found):\n",
    ),
    _mutant(
        "follower-in-the-service",
        "clients are sent to pods that answer their probes and nothing else",
        "children/engine_pod.py",
        "        labels[names.LABEL_COMPONENT] = names.FOLLOWER\n",
        "        labels[names.LABEL_COMPONENT] = names.ENGINE\n",
    ),
    _mutant(
        "evicted-by-pods",
        "a drain takes one pod each of several engines at once",
        "children/disruption_budget.py",
        "    wanted = sum(each.engine.pods for each in engines)\n",
        "    wanted = len(engines)\n",
    ),
    _mutant(
        "other-words-for-a-cause",
        "of an engine that failed the next try is decided on by what its other pods died of",
        "diagnosis/causes.py",
        "    return min(pods, key=order)\n",
        "    return max(pods, key=order)\n",
    ),
    # --- of surge and of groups, from what docs/how-to/scale-and-roll-out.md says of them
    _mutant(
        "serves-unsynced",
        "a new engine takes the old one's place before it has weights: clients have fewer",
        "plan/footing.py",
        "    return state is Health.UP and group.ready\n",
        "    return state is Health.UP\n",
    ),
    _mutant(
        "old-goes-early",
        "the old engine goes as soon as a new one is begun beside it",
        "plan/planner.py",
        "        return far, group.dying, outdated, *self.seniority(group)\n",
        "        return int(outdated), group.dying, bool(far), *self.seniority(group)\n",
    ),
    _mutant(
        "closes-before-it-opens",
        "a commit closes the old engine's gate though the new one's could not be opened",
        "cluster/gate_order.py",
        "        return uid in opened and await opened[uid] and await one(action)\n",
        "        return await one(action)\n",
    ),
    _mutant(
        "closes-at-once",
        "a commit closes the old engine's gate beside the new one's opening, which may take long",
        "actions.py",
        "            after=None if gate.is_open else takes_over.get(gate.pod.uid),\n",
        "",
    ),
    _mutant(
        "two-beside-one",
        "an engine gets one new one after the other beside it, and none of them its place",
        "plan/rollout.py",
        "state.outdated.keys() - self.gone - state.beside, key=self._turn",
        "state.outdated.keys() - self.gone, key=self._turn",
    ),
    _mutant(
        "more-beside-than-allowed",
        "new engines that wait for their sync do not count: all come up at once",
        "plan/rollout.py",
        "        count = state.max_surge - len(state.beside)\n",
        "        count = state.max_surge - len(state.beside - state.awaiting)\n",
    ),
    _mutant(
        "other-engines-amid-a-sync",
        "the registry names another engine than the one that a sync has begun to write to",
        "plan/heirs.py",
        "    if planner.in_turn:\n",
        "    if False:\n",
    ),
    _mutant(
        "an-end-leaves-the-others",
        "the pods of an engine of which one has ended run on, and hold their GPUs",
        "plan/rules/members.py",
        "                _follow(planner, [pod for pod in group.members if not pod.ended], why)\n",
        "                _follow(planner, [pod for pod in group.members if pod.ended], why)\n",
    ),
    _mutant(
        "budget-by-pods",
        "an engine of two pods costs a rollout one of them: twice as many go as are allowed",
        "plan/footing.py",
        "            gpus=pool.gpus,\n",
        "            gpus=pool.gpus_per_pod,\n",
    ),
    _mutant(
        "a-surging-groups-pods-stand-in",
        "a drain counts the followers of an engine that comes up beside another as the pool's own",
        "children/disruption_budget.py",
        "        if pod.node_rank and not pod.deleting\n",
        "        if False\n",
    ),
)
