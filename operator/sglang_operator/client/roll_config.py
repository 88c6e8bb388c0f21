"""What ROLL's config says of a pool: its name, what it wants of engines, and what they are.

A worker finds its pool by ``strategy_config.pool`` and ``namespace``, else by the name of its
cluster, as ``convert`` names the object: actor_infer has the pool actor-infer.  The keys of a pool
that has any come from the environment (``system_envs`` in ROLL's file), or from files that it
names, as a mounted Secret is one.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_operator.client import colocated, given, texts
from sglang_operator.client.errors import EngineError, InvalidArgument
from sglang_operator.client.registry import Engine, Registry, features_of
from sglang_operator.engine import versions
from sglang_operator.weights.lease_state import SLEEP_TAGS

if TYPE_CHECKING:
    from sglang_operator.client.pool import AsyncPool

log = logging.getLogger(__name__)

_KV_CACHE = "kv_cache"
_OURS = ("pool", "namespace")  # of strategy_config; the rest is SGLang's
_KEYS = ("SGLANG_API_KEY", "SGLANG_ADMIN_API_KEY")
_ROLLS_NAMES = {"tensor_parallel_size": "tp_size", "pipeline_parallel_size": "pp_size"}
# What makes prompts of what no pool can be sent, by its kind.
_FUNCTIONS = {"video": "video_r1_get_data_kwargs", "audio": "audio_test_get_data_kwargs"}
_NOT_A_NAME = re.compile(r"[^a-z0-9]+")


def strategy_config(worker: Any) -> Mapping[str, Any]:
    """The role's strategy_config; empty where there is none."""
    return dict(worker.worker_config.strategy_args.strategy_config or {})


def role_of(worker: Any) -> str:
    """The name of its cluster."""
    return str(getattr(worker, "cluster_name", None) or "actor_infer")


def pool_name(worker: Any) -> str:
    """The pool of this worker's role."""
    if named := strategy_config(worker).get("pool"):
        return str(named)
    role = re.sub("^reward-", "rewards-", role_of(worker).lower())  # as ROLL's file has it
    return _NOT_A_NAME.sub("-", role).strip("-")


def namespace(worker: Any) -> str | None:
    """Where the pool is; None: where the trainer is."""
    found = strategy_config(worker).get("namespace")
    return None if found is None else str(found)


def keys(environment: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """The engines' API key and admin key, from variables or from the files that variables name.

    Raises InvalidArgument for a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    api_key, admin_api_key = (_key(environment, variable) for variable in _KEYS)
    return api_key, admin_api_key


def _key(environment: Mapping[str, str], variable: str) -> str | None:
    path = environment.get(f"{variable}_FILE")
    if environment.get(variable) or not path:
        return environment.get(variable) or None
    try:
        return given.key(Path(path).read_text().strip(), f"{variable}_FILE")
    except (OSError, UnicodeDecodeError) as error:
        # Neither told as it stands: whoever writes the key itself there has it for a file's name.
        detail = getattr(error, "strerror", None) or "it is not UTF-8"
        words = texts.KEY_FILE.format(variable=f"{variable}_FILE", detail=detail)
        raise InvalidArgument(words) from None


# --- what it wants of engines


def replays(worker: Any) -> bool:
    """Whether answers have to tell which experts each token was routed to (R3)."""
    replay = getattr(worker.worker_config, "router_replay", None)
    return getattr(replay, "mode", "disable") != "disable"


def refusal(worker: Any, registry: Registry | None = None) -> str:
    """What of this worker's config this pool cannot do, all at once; "" if there is nothing.

    Without a registry: what no pool can whose engines have GPUs of their own.
    """
    found = (colocated.refusal(worker, registry), *_lora(worker), *_media(worker))
    return ". Besides, ".join(filter(None, found))


def sleep_tags(worker: Any) -> tuple[str, ...]:
    """What the engines release where ROLL offloads them.

    Where not every step updates the model, the weights are needed on.
    """
    return (_KV_CACHE,) if _update_frequency(worker) > 1 else SLEEP_TAGS


def _update_frequency(worker: Any) -> int:
    train = getattr(worker.pipeline_config, "actor_train", None)
    return int(getattr(train, "model_update_frequency", None) or 1)


def unsupported(worker: Any, registry: Registry) -> str:
    """What of this worker's config these engines cannot do; "" if there is nothing."""
    if refused := refusal(worker, registry):
        return refused
    wanted = registry.engine_version
    spec = {wanted: features_of(wanted)}
    found = (_lacks(worker, registry, *each) for each in (spec | registry.features).items())
    return next(filter(None, found), "")


def _lacks(worker: Any, registry: Registry, version: str, features: versions.Features) -> str:
    if replays(worker) and not features.routed_experts_as_text:
        return texts.ROLL_REPLAY.format(version=version)
    frequency = _update_frequency(worker)
    sleeps = getattr(worker.pipeline_config, "is_actor_infer_colocated", False)
    if (
        sleeps
        and registry.memory_saver is not False
        and frequency > 1
        and _KV_CACHE not in features.memory_tags
    ):
        return texts.ROLL_FREQUENCY.format(frequency=frequency, version=version)
    return ""


def _lora(worker: Any) -> Iterator[str]:
    for role, section in _sections(worker):
        if target := getattr(getattr(section, "model_args", None), "lora_target", None):
            yield texts.ROLL_LORA.format(role=role, target=target)
            return


def _sections(worker: Any) -> Iterator[tuple[str, Any]]:
    """What is said of its model: in its own section, and in its trainer's."""
    config = worker.pipeline_config
    if colocated.is_policy(worker, config):
        yield "actor_train", getattr(config, "actor_train", None)
    yield role_of(worker), worker.worker_config


def _media(worker: Any) -> Iterator[str]:
    """Videos and sounds that its prompts have, as far as the file tells.

    ROLL has a function for either, which the file names (roll/datasets/vlm_dataset_utils.py), and
    a folder to look in.
    """
    config = worker.pipeline_config
    if not colocated.is_policy(worker, config):
        return
    for role in ("actor_train", "validation"):
        data = getattr(getattr(config, role, None), "data_args", None)
        made_by = str(getattr(data, "custom_data_kwargs_func", None) or "")
        for kind, function in _FUNCTIONS.items():
            if made_by.endswith(f".{function}"):
                key, told = "custom_data_kwargs_func", made_by
            else:
                key = f"{kind}_folder"
                told = str(getattr(data, key, None) or "")
            if told:
                yield texts.ROLL_MEDIA_FILE.format(role=role, key=key, told=told, kind=kind)
                return


# --- what engines are


def differences(worker: Any, told: Mapping[str, Any]) -> Iterator[str]:
    """In what an engine, by its /server_info, differs from what the worker's section says."""
    model = getattr(getattr(worker.worker_config, "model_args", None), "model_name_or_path", None)
    found = told.get("model_path")
    if model and found and _model(str(model)) != _model(str(found)):
        yield texts.ROLL_OTHER.format(name="model_name_or_path", given=model, found=found)
    for key, value in strategy_config(worker).items():
        name = _ROLLS_NAMES.get(key, key)
        if key not in _OURS and value is not None and not _alike(told.get(name, value), value):
            yield texts.ROLL_OTHER.format(name=key, given=value, found=told[name])
    if replays(worker) and told.get("enable_return_routed_experts") is False:
        yield texts.ROLL_NO_EXPERTS


async def compare(worker: Any, pool: "AsyncPool", engine: Engine) -> None:
    """Tell in what the pool differs from what ROLL's file says of it."""
    try:
        found = await pool.calls.get(engine, engine.features.server_info_path)
    except EngineError as error:
        log.warning(texts.ROLL_NOT_COMPARED.format(error=error))
        return
    if differing := list(differences(worker, found)):
        role, said = role_of(worker), "; ".join(differing)
        log.warning(texts.ROLL_DIFFERS.format(pool=pool.name, role=role, differences=said))


def _alike(one: object, other: object) -> bool:
    """Whether two values are the same as an argument of a command line."""
    return one == other or str(one).lower() == str(other).lower()


def _model(path: str) -> str:
    """A model's own name: in a folder, on a hub, or in the cache of one."""
    parts = [part for part in path.split("/") if part]
    cached = [part for part in parts if part.startswith("models--")]  # Hugging Face's
    name = cached[-1].rpartition("--")[2] if cached else parts[-1] if parts else ""
    return name.replace("___", ".").lower()  # ModelScope's for a dot
