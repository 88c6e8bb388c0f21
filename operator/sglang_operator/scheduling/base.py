"""What a scheduler needs of each pod of a pool; nothing else in the tree knows them apart.

What every pool may say of its scheduling, whichever scheduler it has, is rendered and judged in
``gangs``: an adapter has only its own to add.
What it writes on pods, ``children.origin`` takes for the user's when the API server refuses it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec


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

    def annotations(self, parsed: PoolSpec, pool: str, engine: EngineName) -> Mapping[str, str]:
        """What it writes on each pod of this engine, such as the gang that the pod is of.

        ``pool``: its name; engines of two pools of a namespace have the same names.
        """
        ...
