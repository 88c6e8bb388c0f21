"""What the person who installs the operator may decide."""

from dataclasses import dataclass
from pathlib import Path

from sglang_operator.api import names
from sglang_operator.engine import arguments


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one operator process.  Times in seconds."""

    namespaces: tuple[str, ...] = ()  # none: the whole cluster
    watch_nodes: bool = True  # given up by itself where access to nodes is not granted
    engine_host: str = arguments.ANY_ADDRESS  # where engines listen in their pods
    # That engines may ask for though they count no GPUs, or give more of the node than these.
    allowed_resources: tuple[str, ...] = ()
    host_folders: tuple[str, ...] = ()  # that engines may be shown; none: by their names
    gangs: tuple[str, ...] = ()  # of which pools may choose, that have objects of their own
    ask_engines: bool = True  # else what only engines can tell is not known
    kubeconfig: Path | None = None
    context: str | None = None
    health_address: str | None = None  # "host:port" of the probes; None: no server
    metrics_address: str | None = None  # the same for /metrics
    identity: str = "sglang-operator"
    lease_namespace: str = ""  # where the Lease is by which one replica writes; "": no election
    lease_name: str = names.LEASE_NAME
    passes: int = 8  # pools in work at a time
    publish_interval: float = 1.0  # between two writes of one pool's status or registry
    drain_seconds: float = 10.0  # what is under way may finish for so long at the end

    @property
    def scopes(self) -> tuple[str, ...]:
        """The namespaces to watch one by one, or "" for all at once."""
        return self.namespaces or ("",)
