"""An API server in memory, as far as writes go: names, UIDs, versions, preconditions, merges.

It stands where the operator's own client stands (``kube.client.ApiClient``), so that what
controllers do can be tested in a millisecond.  That a real kube-apiserver refuses what this one
refuses is seen by ``tests/faults``, which re-create and change objects under the operator's writes.
"""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import orjson

from sglang_operator.kube.client import (
    APPLY_PATCH,
    JSON,
    MERGE_PATCH,
    STRATEGIC_PATCH,
)
from sglang_operator.kube.errors import ApiError

Json = dict[str, Any]


class MemoryApi:
    """Objects by their path.  ``calls`` lists the writes that were asked for, done or refused."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    # --- what tests do to the world

    def add(self, path: str, body: Mapping[str, Any], *, version: str = "", uid: str = "") -> Json:
        """Put an object there, in the place of any other, as its UID and version say or anew."""
        made = copy.deepcopy(dict(body))
        collection, _, name = path.rpartition("/")
        namespace = collection.split("/namespaces/")[-1].split("/")[0]
        metadata = made.setdefault("metadata", {})
        metadata |= {"name": name, "namespace": namespace}
        metadata["uid"] = uid or f"uid-{next(self._uids)}"
        metadata["resourceVersion"] = version or str(next(self._versions))
        self.objects[path] = made
        return made

    def touch(self, path: str, changes: Mapping[str, Any]) -> Json:
        """Somebody else changes the object."""
        self._merge(self.objects[path], changes)
        return self._stored(path)

    # --- what the client asks

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = JSON,
        params: Mapping[str, str] | None = None,
        **_: object,
    ) -> bytes:
        """As ``ApiClient.request``; raises ApiError."""
        if method == "POST" and (params or {}).get("dryRun") == "All":
            return orjson.dumps(self._tried(path, orjson.loads(body or b"{}")))
        if method == "GET":
            return orjson.dumps(self._found(path))
        self.calls.append((method, path))
        content = orjson.loads(body) if body else {}
        if method == "POST":
            return orjson.dumps(self._create(path, content))
        if method == "DELETE":
            return orjson.dumps(self._delete(path, content))
        return orjson.dumps(self._change(method, path, content, content_type))

    def _found(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found", None, missing=True)
        return self.objects[path]

    def _create(self, collection: str, content: Json) -> Json:
        path = f"{collection}/{content['metadata']['name']}"
        if path in self.objects:
            raise ApiError(409, "AlreadyExists", f"{path} already exists", None)
        return self.add(path, content)

    def _tried(self, collection: str, content: Json) -> Json:
        """A create that is not carried out."""
        if f"{collection}/{content['metadata']['name']}" in self.objects:
            raise ApiError(409, "AlreadyExists", f"{collection}: it already exists", None)
        return content

    def _delete(self, path: str, options: Json) -> Json:
        found = self._found(path)
        self._meets(found["metadata"], options.get("preconditions") or {})
        del self.objects[path]
        found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        return found

    def _change(self, method: str, path: str, content: Json, content_type: str) -> Json:
        base = path.removesuffix("/status")
        found = self._found(base)
        self._meets(found["metadata"], content.get("metadata") or {})
        if base != path:
            content = {"status": content.get("status") or {}}
        if method == "PUT":
            kept = {key: found["metadata"][key] for key in ("uid", "name", "namespace")}
            self.objects[base] = {**content, "metadata": {**content["metadata"], **kept}}
        elif content_type == APPLY_PATCH:
            found |= content
        elif content_type in (MERGE_PATCH, STRATEGIC_PATCH):
            self._merge(found, content, strategic=content_type == STRATEGIC_PATCH)
        else:
            raise ApiError(415, "UnsupportedMediaType", content_type, None)
        return self._stored(base)

    def _meets(self, found: Json, asked: Mapping[str, Any]) -> None:
        for key in ("uid", "resourceVersion"):
            if asked.get(key) and asked[key] != found[key]:
                words = f"Precondition failed: {key} asked {asked[key]}, found {found[key]}"
                raise ApiError(409, "Conflict", words, None)

    def _merge(self, into: Json, changes: Mapping[str, Any], *, strategic: bool = False) -> None:
        for key, value in changes.items():
            if key in ("uid", "resourceVersion"):
                continue
            if value is None:
                into.pop(key, None)
            elif strategic and key == "conditions":
                by_type = {each["type"]: each for each in into.get(key, [])}
                by_type |= {
                    each["type"]: {**by_type.get(each["type"], {}), **each} for each in value
                }
                into[key] = list(by_type.values())
            elif isinstance(value, Mapping):
                self._merge(into.setdefault(key, {}), value, strategic=strategic)
            else:
                into[key] = value

    def _stored(self, path: str) -> Json:
        self.objects[path]["metadata"]["resourceVersion"] = str(next(self._versions))
        return self.objects[path]
