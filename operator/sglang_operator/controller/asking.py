"""What a pass has the poller do: ask engines, and let those catch up that the Lease names."""

from collections.abc import Mapping
from dataclasses import replace

from sglang_operator.ask import engines
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.memory import Memory
from sglang_operator.fleet.poller import Permit, Poller
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed import facts
from sglang_operator.observed.model import EngineReport, Observed
from sglang_operator.observed.moment import Moment
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import LEASE_SECONDS

# Of its duration for which a hold lets requests leave.  The rest is for those under way: they
# reach their engine before others may take the Lease, or never (``fleet.client``).
SENDING_SECONDS = LEASE_SECONDS / 2


class Asker:
    """The poller, as passes use it; without one, engines are not asked.

    ``holder``: of weights Leases, while engines load; no other process has it.
    """

    def __init__(self, poller: Poller | None, holder: str) -> None:
        self._poller = poller
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
        asked = engines.questions(pool, plan.engines, current.phase, loading, *known)
        # What an engine was sent goes on while kubelet tells of no container.
        instances = filter(None, (pod.last_instance for pod in observed.pods))
        self._poller.ask(key, asked, instances)
        for wanted in weights.recoveries:
            if wanted.pod.out_of_sight:
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
            )

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
