"""What a pass has the poller do: ask engines, and let those catch up that the Lease names."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from sglang_operator.ask import engines
from sglang_operator.clocks import moment
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.memory import Memory
from sglang_operator.fleet.poller import Permit, Poller
from sglang_operator.gates.decide import GatePlan
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.observed import facts, groups, wire
from sglang_operator.observed.model import EngineReport, Observed, ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import LEASE_SECONDS

# Of its duration for which a hold lets requests leave.  The rest is for those under way: they
# reach their engine before others may take the Lease, or never (``fleet.client``).
SENDING_SECONDS = LEASE_SECONDS / 2
# An answer of the API server that takes longer may be of before its pod went.
CONFIRM_SECONDS = 5.0

# The pod of this name as it is now, or None; raises what keeps that from being learnt.
Look = Callable[[PoolKey, str], Awaitable[wire.Pod | None]]


class Asker:
    """The poller, as passes use it; without one, engines are not asked.

    ``holder``: of weights Leases, while engines load; no other process has it.  ``look`` is asked
    before a load whether the engine is at its address: a stream of pods may stall for a minute.
    """

    def __init__(self, poller: Poller | None, holder: str, look: Look) -> None:
        self._poller = poller
        self._look = look
        self.holder = holder if poller is not None else ""

    def reports(self, key: PoolKey, at: Moment) -> Mapping[str, EngineReport]:
        """What is known of this pool's engines, by instance.

        The time of the next load is told by the clock by which the Lease is decided about.
        """
        known = self._poller.reports(key) if self._poller is not None else {}
        for instance, report in known.items():
            loading = report.loading
            if loading is not None and loading.error:
                loading = replace(loading, again=at.told(loading.again))
                known[instance] = replace(report, loading=loading)
        return known

    def ask(
        self,
        key: PoolKey,
        memory: Memory,
        pool: Pool,
        plan: Plan,
        weights: GatePlan,
        observed: Observed,
    ) -> None:
        """Have the engines asked what the next passes want to know, and let some catch up."""
        if self._poller is None:
            return
        self.permit(key, memory, weights)
        current = weights.transaction
        loading = current.recovering if current.recovers else ()
        known = weights.revisions, weights.reports
        every = (*plan.engines, *plan.heirs.values())
        asked = engines.questions(pool, every, current, loading, *known)
        # What an engine was sent goes on while kubelet tells of no container.
        there = groups.of(observed.pods)
        instances = filter(None, (group.last_instance for group in there))
        self._poller.ask(key, asked, instances)
        unseen = {group.last_instance for group in there if group.out_of_sight}
        for wanted in weights.recoveries:
            if wanted.instance in unseen:
                continue  # and nothing more is sent to it meanwhile
            engine = facts.of(pool, wanted.pod, wanted.instance, *known)
            self._poller.load(
                key,
                wanted.instance,
                engines.url(wanted.pod.ip, engine.port),
                wanted.checkpoint,
                wanted.version,
                commit=wanted.commit,
                pause=engine.features.quickest_pause,
                session=engine.features.begin_end_weight_update,
                images=engine.features.model_info_path if wanted.pod.keeps_images else "",
                confirm=partial(self._moved, key, wanted.pod),
            )

    async def _moved(self, key: PoolKey, pod: ObservedPod) -> str:
        """Why this engine may not be at its address any more; "" if the API server shows it."""
        unknown = f"whether {pod.ip} is the engine's cannot be told, so nothing was sent: "
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                found = await self._look(key, pod.name)
        except TimeoutError:
            return f"{unknown}no answer about its pod in {CONFIRM_SECONDS:.0f} s"
        except (ApiError, ApiUnreachableError) as error:
            return f"{unknown}{error}"
        now = wire.observed_pod(found, moment()) if found is not None else None
        same = now is not None and (now.instance, now.ip) == (pod.instance, pod.ip)
        if now is None or not same or now.deleting or now.ended or not now.engine_runs:
            return f"it does not run at {pod.ip} any more, so nothing was sent"
        return ""

    def permit(self, key: PoolKey, memory: Memory, plan: GatePlan) -> None:
        """Loads are under way by what the Lease says of them, and for as long as that counts."""
        if self._poller is None:
            return
        permit = None
        if plan.recoveries:
            permit = Permit(
                commit=plan.transaction.id,
                instances=frozenset(wanted.instance for wanted in plan.recoveries),
                until=memory.stepped_at + SENDING_SECONDS,
            )
        self._poller.permit(key, permit)

    def nothing(self, key: PoolKey) -> None:
        """The pool is gone, or on its way."""
        if self._poller is not None:
            self._poller.forget(key)
