"""Which pods a pool has at this moment, past the stream that tells of them.

An operator that was just elected does not know what the one before it has created: its own stream
of pods may be behind.  A pod's name keeps two of one attempt apart, not two of one engine.
"""

from sglang_operator.api import names
from sglang_operator.cluster.stores import PodStore, PoolKey
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.decoding import Decoder, Unread
from sglang_operator.observed import wire

PAGE = 500


class RollCall:
    """Reads the pods of one pool at a time."""

    def __init__(self, client: ApiClient, pods: PodStore) -> None:
        self._client = client
        self._pods = pods
        self._decoder = Decoder(wire.Pod)

    async def take(self, key: PoolKey) -> bool:
        """Take in the pool's pods as they are; whether they are others than were known.

        Raises ApiError, ApiUnreachableError, and ValueError for what is no list.
        """
        records: list[wire.Pod] = []
        unread: list[Unread] = []
        params = {"labelSelector": names.pods_text(key.name), "limit": str(PAGE)}
        while True:
            path = paths.pods(key.namespace)
            page = self._decoder.any_page(await self._client.request("GET", path, params=params))
            records += page.records
            unread += page.unread
            if not page.more:
                break
            params["continue"] = page.more
        before = self._known(key)
        self._pods.replace_of(key, records, int(page.version), [each.metadata for each in unread])
        return self._known(key) != before

    def _known(self, key: PoolKey) -> set[tuple[names.Uid, int]]:
        return {(entry.pod.uid, entry.pod.resource_version) for entry in self._pods.of(key)}
