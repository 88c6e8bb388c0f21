"""The kubelet's probes of an engine, by SGLang version.

No probe may make an engine generate while it serves: a generating ``/health`` kills an engine
whose memory is released, and fails while a trainer has it paused (both measured).  A probe that
answers says nothing about weights; that is the readiness gate's business.
"""

import math
from typing import Any

from sglang_operator.engine import versions

_STARTUP_PERIOD = 5  # seconds between probes while the model loads
_PERIOD = 5
_TIMEOUT = 5
_READINESS_FAILURES = 3
# The HTTP server shares its process with the tokenizer and may stall for long while it takes in
# weights; a liveness probe that gives up early kills engines in the middle of an update.
_LIVENESS_PERIOD = 15
_LIVENESS_TIMEOUT = 10
_LIVENESS_FAILURES = 20
# Where /health generates it answers after 1 s at the least and gives up after 20 s.
_GENERATING_TIMEOUT = 25


def probes(
    features: versions.Features, *, port: int, startup_seconds: int, has_api_key: bool
) -> dict[str, Any]:
    """The three probes of the engine's container, as Kubernetes JSON."""
    serving = _serving(features, port, has_api_key)
    generating = not features.health_without_generation
    return {
        "startupProbe": {
            **_get("/health", port),
            "periodSeconds": _STARTUP_PERIOD,
            "timeoutSeconds": _GENERATING_TIMEOUT if generating else _TIMEOUT,
            "failureThreshold": max(1, math.ceil(startup_seconds / _STARTUP_PERIOD)),
        },
        "readinessProbe": {
            **serving,
            "periodSeconds": _PERIOD,
            "timeoutSeconds": _TIMEOUT,
            "failureThreshold": _READINESS_FAILURES,
        },
        "livenessProbe": {
            **serving,
            "periodSeconds": _LIVENESS_PERIOD,
            "timeoutSeconds": _LIVENESS_TIMEOUT,
            "failureThreshold": _LIVENESS_FAILURES,
        },
    }


def follower(features: versions.Features, *, port: int, startup_seconds: int) -> dict[str, Any]:
    """The same of a pod that only follows the engine's leader.

    Once its ranks have loaded it answers ``/health``, of every version at once and for ever, and
    little else.
    """
    found = probes(features, port=port, startup_seconds=startup_seconds, has_api_key=False)
    return {probe: {**body, **_get("/health", port)} for probe, body in found.items()}


def _serving(features: versions.Features, port: int, has_api_key: bool) -> dict[str, Any]:
    """How to ask an engine that has started, without making it generate."""
    if features.health_without_generation:
        return _get("/health", port)
    if has_api_key:
        # Only /health and /metrics are exempt from the key, and probes have none.
        return {"tcpSocket": {"port": port}}
    return _get(features.model_info_path, port)


def _get(path: str, port: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}}
