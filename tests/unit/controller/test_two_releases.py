"""Two releases in one namespace, for two teams, elect by one Lease."""

import asyncio

from sglang_operator.kube import leader_election
from tests.unit.controller import fake_api


def test_the_release_that_waits_for_the_other_tells_why_and_replicas_do_not(monkeypatch):
    async def story() -> None:
        monkeypatch.setattr(leader_election, "APART_SECONDS", 0.0)
        api = fake_api.Api()
        rooms, running = [], []
        for pod, team in enumerate(("team-a", "team-b", "team-a")):
            api.make(team, f"pool-{pod}")
            identity = f"sglang-operator-{pod}"
            room = fake_api.a_room(
                api, namespaces=(team,), watch_nodes=False, lease_namespace="ops", identity=identity
            )
            rooms.append(room)
            running.append(asyncio.create_task(room.run()))
            await api.until(lambda: rooms[0].dispatching)
        first, second, replica = rooms
        await api.until(lambda: second.apart())
        assert "sglang-operator-0 holds: it serves team-a" in second.apart()
        await api.until(lambda: not replica.unsynced())
        assert not first.apart()
        assert not replica.apart()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(story())
