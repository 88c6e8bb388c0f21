"""Each question to an engine, put in the words of its version.

Raises EngineError and EngineUnreachableError as the client does.
"""

from sglang_operator.engine import versions
from sglang_operator.fleet import answers
from sglang_operator.fleet.client import EngineClient, EngineRequestError, EngineUnreachableError
from sglang_operator.observed.model import Resolved
from sglang_operator.observed.progress import Load

_NO_SUCH_PATH = (404, 405)


async def resolved(client: EngineClient, url: str, features: versions.Features) -> Resolved:
    """What the engine runs with, by whichever name: its version may be another than is thought."""
    paths = sorted(versions.SERVER_INFO_PATHS, key=lambda path: path != features.server_info_path)
    try:
        return (await client.get(url, paths[0], answers.SERVER_INFO)).resolved
    except EngineRequestError as error:
        if error.status not in _NO_SUCH_PATH:
            raise
        return (await client.get(url, paths[1], answers.SERVER_INFO)).resolved


async def weight_version(client: EngineClient, url: str, features: versions.Features) -> str | None:
    """The version of its weights, by its own word."""
    told = await client.get(url, features.model_info_path, answers.MODEL_INFO)
    return answers.weight_version(told)


async def sees_images(client: EngineClient, url: str, path: str) -> bool:
    """Whether its model does, by what it tells of it under this path; not where it does not say."""
    return (await client.get(url, path, answers.MODEL_INFO)).sees_images


async def load(client: EngineClient, url: str, features: versions.Features) -> Load:
    """Its work.  Never by a path that generates: that would be work, and kill one that sleeps.

    From 0.5.20 the HTTP server tells everything itself: the load from the scheduler's last
    snapshot, and whether the engine is paused.  Before, a pause shows nowhere, so the scheduler
    itself is asked (``/server_info``): one that answers does not hang, paused or not.  If it is
    silent while the HTTP server answers (``/model_info``), nothing moves.
    """
    if features.ready_endpoint:
        busy, mark = await _load(client, url, features)
        return Load(busy=busy, mark=mark, moves=not await client.probe(url, "/ready"))
    seen = Load()
    try:
        busy, mark = await _load(client, url, features)
        seen = Load(busy=busy, mark=mark)
        await client.get(url, features.server_info_path, answers.SERVER_INFO)
    except EngineUnreachableError:
        # From 0.5.4 to 0.5.9 the load too is the scheduler's to tell.
        await client.get(url, features.model_info_path, answers.MODEL_INFO)
        return seen
    return Load(busy=seen.busy, mark=seen.mark, moves=True)


async def _load(client: EngineClient, url: str, features: versions.Features) -> tuple[bool, int]:
    told = await client.get(url, features.load_path, answers.LOADS, most=answers.MAX_LOAD)
    return answers.load(told)
