"""Fake engines of a pool, and a trainer's flows on them in an environment of its own."""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import yaml

from sglang_operator.api import names
from sglang_operator.children import trainer_registry
from sglang_operator.client import Pool
from sglang_operator.engine import schema, versions
from sglang_operator.pool.resolve import Owner, resolve_pool
from sglang_operator.pool.resolve import Pool as Planned
from sglang_operator.testing.engine.process import FakeEngine
from tests import checkouts
from tests.builders import all_pods, weighed
from tests.checkouts import Source
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

ROOT = Path(__file__).parents[2]
# The package of each, and the commit that its flows were written against.
TRAINERS = {"slime": "624b824a", "miles": "31f1ca96", "areal": "4aef98d8"}
FORMS = {
    "slime": trainer_registry.SLIME_KEY,
    "miles": trainer_registry.SLIME_KEY,
    "areal": trainer_registry.AREAL_KEY,
}
ENGINES, GPUS = 2, 2
# Of SGLang: miles brackets its updates, which engines know from 0.5.21 on.
VERSIONS = {"slime": "0.5.14", "miles": "0.5.23", "areal": "0.5.14"}
SECONDS = 600.0
HOW = (
    "No checkout is given: make trainers SLIME_SOURCE=… MILES_SOURCE=… AREAL_SOURCE=… (clones of "
    "THUDM/slime, radixark/miles, inclusionAI/AReaL), and TRAINERS_PYTHON=… of an environment with "
    "torch, ray and transformers. Without one, operator/docs/reference/trainers.md says what the "
    "last run saw."
)


def checkout(path: Path, package: str) -> AbstractContextManager[Source]:
    """This trainer's package in a clone.  Raises ValueError if it is none of this trainer."""
    return checkouts.checkout(path, package, how=HOW)


def planned(name: str) -> Planned:
    """The sample for trainers without GPU ids, of so many engines, as this trainer needs it."""
    network = {"listenOnPodIP": name == "miles"}
    body = yaml.safe_load((ROOT / "manifests/samples/replicas.yaml").read_text())
    spec = {**body["spec"], "replicas": ENGINES, "num_gpus_per_worker": GPUS, "network": network}
    owner = Owner(name="rollout", namespace="rl", uid=names.Uid("uid"), generation=1)
    pool = resolve_pool(owner, {**spec, "image": f"lmsysorg/sglang:v{VERSIONS[name]}"})
    assert isinstance(pool, Planned), pool
    return pool


def form(pool: Planned, key: str, urls: list[str]) -> str:
    """The engines as the registry tells them to a trainer, at these addresses."""
    data = trainer_registry.registry(pool, weighed(pool, all_pods(pool)))["data"]
    text = str(data[key])
    for address, url in zip(list(_addresses(text)), urls, strict=True):
        text = text.replace(address, url.removeprefix("http://"), 1)
    return text


def _addresses(text: str) -> Iterator[str]:
    yield from text.replace(",", " ").split()


def arguments(pool: Planned, *more: str) -> list[str]:
    """An engine's command line, on the loopback: what the kubelet makes of a pod's address."""
    own = ("--model-path", "--host", "--port")
    return [*(item for item in pool.argv if not item.startswith(own)), "--host=127.0.0.1", *more]


@contextlib.contextmanager
def _engines(pool: Planned, version: str) -> Iterator[tuple[list[FakeEngine], FakeEngine]]:
    """Those of the pool, and one more that skips its tokenizer."""
    with contextlib.ExitStack() as stack:
        lines = [arguments(pool)] * ENGINES + [arguments(pool, "--skip-tokenizer-init")]
        found = [stack.enter_context(FakeEngine(line, version=version)) for line in lines]
        for engine in found:
            engine.wait_ready()
        yield found[:-1], found[-1]


def run(name: str, source: Source, python: str, log: IO[str]) -> dict[str, Any]:
    """One trainer's flows, as they came out; ``log`` is what the trainer says meanwhile."""
    pool, version = planned(name), VERSIONS[name]
    with _engines(pool, version) as (engines, skipping), _world(engines, version) as world:
        urls = [engine.url for engine in engines]
        job = {
            "trainer": name,
            "form": form(pool, FORMS[name], urls),
            "urls": urls,
            "skipping": skipping.url,
            "gpus": GPUS,
            "model": "/models/fake",
            "fields": sorted(schema.nearest(versions.parse(version)).arguments),
        }
        found = _inside(job, source, python, world, log)
    return {"trainer": name, "commit": source.commit, "sglang": version, **found}


@contextlib.contextmanager
def _world(engines: list[FakeEngine], version: str) -> Iterator[FakePool]:
    """An API server with the pool of these engines."""
    with FakePool(engines=len(engines), version=version, gate="Off") as world:
        for entry, engine in zip(world.engines, engines, strict=True):
            entry.url = engine.url
        world.call(world.publish)
        yield world


def _reset(world: FakePool) -> None:
    """As ``kubectl sglang weights reset`` does it."""
    with Pool(POOL, NAMESPACE, identity=world.identity) as pool:
        pool.reset()


def _inside(
    job: dict[str, Any], source: Source, python: str, world: FakePool, log: IO[str]
) -> dict[str, Any]:
    ours = [ROOT, ROOT / "operator", ROOT / "operator/testkit"]
    path = [*ours, source.path, *filter(None, [os.environ.get("TRAINERS_PATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "SLIME_HOST_IP": "127.0.0.1",
        "MILES_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    process = subprocess.Popen(
        [python, "-m", "tests.trainers.inside"],
        cwd=tempfile.gettempdir(),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    assert process.stdin is not None and process.stdout is not None
    try:
        _say(process, json.dumps(job))
        for line in process.stdout:
            if line.startswith("ASK reset"):
                _reset(world)
                _say(process, "done")
            if line.startswith("RESULT "):
                found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return found
    finally:
        watchdog.cancel()
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait(30)
    raise ValueError(f"{job['trainer']} ended without a result; its log says why (--log)")


def _say(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
