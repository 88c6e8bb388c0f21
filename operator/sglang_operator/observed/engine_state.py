"""The words for how an engine stands.  Pure."""

from enum import Enum


class EngineState(Enum):
    """Where an engine stands, for status and registry."""

    IN_SERVICE = "InService"  # Ready: clients reach it
    UP = "Up"  # answers, but its gate is closed
    STARTING = "Starting"
    PENDING = "Pending"  # waits for a node
    LOST = "Lost"  # waits for its node (onNodeLost: Wait)
    BACKOFF = "Backoff"  # waits after failures
    # Its own pod is on its way out; or it has none yet, because engines that are being replaced,
    # orphans or pods put aside have its GPUs or its place.  One beside the pool's own: it leaves.
    WAITING = "Waiting"
    CREATING = "Creating"
