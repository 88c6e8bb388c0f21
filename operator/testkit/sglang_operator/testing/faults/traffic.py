"""What passes through the proxy: requests by verb and resource, and how they are matched."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import Enum
from urllib.parse import parse_qs

WRITES = frozenset({"create", "update", "patch", "delete"})


class Agent(Enum):
    """Who asks: the operator's own client, or kopf inside the same process."""

    OPERATOR = "operator"
    KOPF = "kopf"
    OTHER = "other"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request, in Kubernetes' terms.  ``write`` is its number among the writes, from 1."""

    agent: Agent
    verb: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    write: int = 0
    selector: str = ""  # of labels: two streams of one resource are told apart by it
    token: str = dataclasses.field(default="", repr=False)  # by which it is authorized

    @property
    def kind(self) -> str:
        """Verb and resource, as counted: ``create pods``, ``patch sglanginferences/status``."""
        below = f"/{self.subresource}" if self.subresource else ""
        return f"{self.verb} {self.resource}{below}"

    def __str__(self) -> str:
        place = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.kind} {place}".rstrip()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """One write and what the API server said; ``status`` is 0 if it was never asked."""

    request: Request
    status: int
    at: float  # monotonic
    uid: str = ""  # of the object in the answer
    owner: str = ""  # UID of that object's controller
    owner_name: str = ""
    owner_sent: str = ""  # UID of the controller in the request's body
    told: bool = True  # whether the operator got the answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """Which requests a rule is for; what is None or empty matches everything."""

    agent: Agent | None = None
    verbs: Iterable[str] = ()
    resource: str | None = None
    subresource: str | None = None
    namespace: str | None = None
    name: str | None = None
    token: str | None = None
    selector: str | None = None

    def __call__(self, request: Request) -> bool:
        """Whether the request is meant."""
        return (
            self.agent in (None, request.agent)
            and (not self.verbs or request.verb in self.verbs)
            and self.resource in (None, request.resource)
            and self.subresource in (None, request.subresource)
            and self.namespace in (None, request.namespace)
            and self.name in (None, request.name)
            and self.token in (None, request.token)
            and self.selector in (None, request.selector)
        )


def parse(method: str, path: str, query: str, user_agent: str, authorization: str = "") -> Request:
    """The request in Kubernetes' terms; a path that is none of its resources is one itself."""
    parts = [part for part in path.split("/") if part]
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "", "")[:3]
    return Request(
        agent=_agent(user_agent),
        verb=_verb(method, name, query),
        resource=resource or path,
        subresource=subresource,
        namespace=namespace,
        name=name,
        selector=parse_qs(query).get("labelSelector", [""])[0],
        token=authorization.removeprefix("Bearer ").strip(),
    )


def _agent(user_agent: str) -> Agent:
    if user_agent.startswith("sglang-operator"):
        return Agent.OPERATOR
    return Agent.KOPF if user_agent.startswith("kopf") else Agent.OTHER


def _verb(method: str, name: str, query: str) -> str:
    if method == "GET":
        if name:
            return "get"
        watched = {"watch=1", "watch=true"} & set(query.split("&"))
        return "watch" if watched else "list"
    if method == "POST" and "dryRun=All" in query.split("&"):
        return "try"  # nothing is written
    return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
        method, method.lower()
    )
