"""A redirect is no success: what was asked was done nowhere."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from sglang_operator.client import ClusterError, EngineError, Pool, credentials
from sglang_operator.client.cluster import Cluster
from sglang_operator.testing import credentials as kit
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


REDIRECTS = {
    301: web.HTTPMovedPermanently,
    302: web.HTTPFound,
    307: web.HTTPTemporaryRedirect,
    308: web.HTTPPermanentRedirect,
}


@pytest.mark.parametrize("status", REDIRECTS)
def test_an_engine_that_redirects_has_not_done_what_it_was_asked(world, pool, status):
    real = world.engines[1].answer

    def answer(path, payload):
        if path == "/update_weights_from_disk":
            raise REDIRECTS[status](f"{world.engines[0].url}/health")
        return real(path, payload)

    world.engines[1].answer = answer
    with pytest.raises(EngineError, match=rf"engine 1 .* {status} it redirects to http://127") as e:
        pool.update_from_disk("/c/1", "step-1")
    assert e.value.status == status
    assert world.state.phase is Phase.ABORTED


@pytest.mark.parametrize("status", [302, 307])
def test_an_api_server_that_redirects_has_written_nothing(world, pool, status):
    async def elsewhere(request):
        return web.Response(status=status, headers={"Location": "/apis/other"})

    world.put_lease = elsewhere
    with pytest.raises(ClusterError, match=rf"{status} it redirects to /apis/other") as caught:
        pool.update_from_disk("/c/1", "step-1")
    assert caught.value.status == status
    assert not any(engine.asked for engine in world.engines)


@asynccontextmanager
async def serving(made):
    async def lease(request):
        return web.json_response({"kind": "Lease", "metadata": {}, "spec": {}})

    app = web.Application()
    app.router.add_get("/{path:.*}", lease)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(made.server_cert, made.server_key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("else.example", False)])
def test_a_certificate_is_checked_against_the_name_in_the_kubeconfig(tmp_path, name, trusted):
    made = kit.create(tmp_path / "kit")

    async def story():
        async with serving(made) as port:
            identity = credentials.Credentials(
                server=f"https://127.0.0.1:{port}",
                namespace="rl",
                tls=lambda: ssl.create_default_context(cafile=made.ca),
                authorization=lambda: None,
                tls_server_name=name,
            )
            cluster = Cluster(identity, "rl", "pool")
            try:
                return await cluster.lease()
            finally:
                await cluster.close()

    if trusted:
        assert asyncio.run(story())["kind"] == "Lease"
    else:
        with pytest.raises(ClusterError, match="certificate"):
            asyncio.run(story())
