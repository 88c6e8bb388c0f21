"""The API server's audit log: what is written, and how it is read back."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

POLICY: Mapping[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """One request that the API server answered, or the start of one that streams.

    ``timestamp`` is when it arrived; ``impersonated_by`` is who sent it under ``user``'s name.
    """

    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    user_agent: str
    timestamp: datetime.datetime
    stage: str
    uri: str
    impersonated_by: str


def parse(line: str) -> AuditEvent:
    """Read one line of the log; raises ValueError on a line that is not whole."""
    event = json.loads(line)
    target = event.get("objectRef", {})
    sender = event["user"].get("username", "")
    impersonated = event.get("impersonatedUser", {}).get("username", "")
    return AuditEvent(
        user=impersonated or sender,
        verb=event["verb"],
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        user_agent=event.get("userAgent", ""),
        timestamp=datetime.datetime.fromisoformat(event["requestReceivedTimestamp"]),
        stage=event["stage"],
        uri=event["requestURI"],
        impersonated_by=sender if impersonated else "",
    )


def read(
    log: Path, *, user: str | None = None, since: datetime.datetime | None = None
) -> Iterator[AuditEvent]:
    """Yield the events in the log, in the order in which they were answered."""
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return  # is being written
            if user is not None and user not in line:
                continue  # cheaper than reading it
            event = parse(line)
            if user is not None and event.user != user:
                continue
            if since is None or event.timestamp >= since:
                yield event
