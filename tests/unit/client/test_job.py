"""Who a job of ROLL is: the same for all of its workers, and for no other job's."""

import asyncio
from types import SimpleNamespace

from sglang_operator.client import job


class Storage:
    """ROLL's SharedStorage, called as a Ray actor is."""

    def __init__(self):
        self.kept = {}
        self.put_if_absent = SimpleNamespace(remote=self._put_if_absent)
        self.get = SimpleNamespace(remote=self._get)

    async def _put_if_absent(self, key, value):
        await asyncio.sleep(0)
        return self.kept.setdefault(key, value) is value

    async def _get(self, key):
        return self.kept.get(key)


def worker(rank=0, address="10.0.0.1", port=29400, storage=None, cluster="actor_infer"):
    return SimpleNamespace(
        rank=rank,
        cluster_name=cluster,
        master_addr=address,
        master_port=port,
        shared_storage=storage,
    )


def names(*workers):
    async def each():
        return await asyncio.gather(*map(job.identity, workers))

    return asyncio.run(each())


def test_all_workers_of_a_job_have_one_name():
    storage = Storage()
    found = names(*(worker(rank, storage=storage) for rank in range(8)))
    assert len(set(found)) == 1
    assert found[0].startswith("actor_infer_10.0.0.1_29400_")


def test_jobs_have_different_names_also_where_address_and_port_are_used_again():
    found = names(worker(storage=Storage()), worker(storage=Storage()), worker(address="10.0.0.2"))
    assert len(set(found)) == 3


def test_the_clusters_of_one_job_have_different_names():
    """A judge on a pool of its own is another trainer than the policy's workers."""
    storage = Storage()
    found = names(worker(storage=storage), worker(port=29401, storage=storage, cluster="judge"))
    assert len(set(found)) == 2


def test_without_its_storage_the_address_tells():
    broken = SimpleNamespace(put_if_absent=SimpleNamespace(remote=lambda *_: None))
    assert names(worker(), worker(3, storage=broken)) == ["actor_infer_10.0.0.1_29400"] * 2


def test_who_is_no_worker_of_rolls_has_no_such_name():
    assert names(SimpleNamespace(rank=0)) == [None]
