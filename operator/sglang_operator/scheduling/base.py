"""What a scheduler needs of each pod of a pool.

Nothing that renders pods knows them apart; whether there is any, ``controller.acting`` and
``children.origin`` ask.  What a pod that waits says of it is read by each one's
own words: ``observed.queues`` and ``observed.model`` (``is_queued``), ``cli.cluster.queues``, and
texts that name Kueue (``api.texts``, ``cli.cluster.verdict``, ``diagnosis.pod_signatures``).

What every pool may say of its scheduling, whichever scheduler it has, is rendered and judged in
``gangs``: an adapter has only its own to add.
What it writes on pods, ``children.origin`` takes for the user's when the API server refuses it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from sglang_operator.api import names
from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec


class Member(NamedTuple):
    """One of the pods that an engine is."""

    pool: str  # its name; engines of two pools of a namespace have the same names
    engine: EngineName
    attempt: int
    pods: int = 1  # that the engine is
    node_rank: int = 0
    revisions: tuple[str, ...] = ()  # by which engines of its pool are made now
    start: str = ""  # the group that it starts in with other engines (``plan.starting``)
    begun: bool = False  # pods of that have their nodes: nobody in it waits for others any more

    @property
    def group(self) -> str:
        """A name for the pods of this try at the engine together; no other try has it.

        Of those with which the pool starts it is the name of all of them together.
        """
        return self.start or names.pod_name(self.pool, self.engine, self.attempt)

    @property
    def together(self) -> int:
        """How many pods that group is of."""
        start = names.start_of(self.start, self.pool)
        return self.pods if start is None else start[0]

    @property
    def least(self) -> int:
        """How many of these have to find room before any of them gets it.

        Of a start that is over one is as good as all: engines of it go one by one, and who comes
        in their place is of another group.
        """
        return 1 if self.begun else self.together

    @property
    def is_first(self) -> bool:
        """Whether it is made before the others: leaders are last (``plan.rules.incomplete``)."""
        return self.node_rank == min(1, self.pods - 1)


class Waiting(NamedTuple):
    """A queue that pods wait in, as they say themselves."""

    queue: str
    priority: str = ""  # the class that orders those who wait; empty: the queue's own


class Grouped(NamedTuple):
    """The kind of object by which a scheduler knows the pods that start at once or not at all."""

    name: str  # as scheduling.gang has it
    kind: str  # with its API group, by which each gang's PodGroup is another
    api_version: str
    plural: str
    install: str  # what to do where a cluster does not serve it, in words

    @property
    def groups(self) -> str:
        """As kubectl takes it: ``podgroups.scheduling.volcano.sh``."""
        return f"{self.plural}.{self.api_version.rpartition('/')[0]}"


class Gang(Protocol):
    """How one scheduler starts the pods of an engine together, or that it does not."""

    def problems(self, parsed: PoolSpec) -> Iterator[Problem]:
        """Why a pool cannot be scheduled so."""
        ...

    def pod_spec(self, parsed: PoolSpec) -> Mapping[str, Any]:
        """What it adds to the spec of each engine pod.

        ``spec.scheduling`` stays over it; a key of the operator's own, or of podTemplate, that it
        has too is replaced whole (``children.engine_pod``).
        """
        ...

    def member_spec(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        """What it adds to the spec of this pod alone, under keys that nobody else writes."""
        ...

    def labels(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        """The labels that it writes on this pod; those of the operator stay over them."""
        ...

    def annotations(self, parsed: PoolSpec, member: Member) -> Mapping[str, str]:
        """What it writes on this pod, such as the gang that the pod is of."""
        ...

    def queue(self, parsed: PoolSpec) -> Waiting | None:
        """The queue in which a pod that is made now waits; None: it waits in none."""
        ...

    @property
    def grouped(self) -> Grouped | None:
        """What there is to be of each try at an engine before its pods; None: nothing is."""
        ...

    def group(self, parsed: PoolSpec, member: Member) -> Mapping[str, Any]:
        """The spec of that object, for the try, or for the start, that this pod is of."""
        ...
