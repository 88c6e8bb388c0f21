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
    WAITING = "Waiting"  # waits for GPUs of an engine that is being replaced
    CREATING = "Creating"
