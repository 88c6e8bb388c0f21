"""What may be wrong with a spec as a whole: a chain of checks, each finds all it can.  Pure.

What one value may be is checked where it is understood (``engine``, ``roll``, ``api``); a check
here passes that on, or looks at values together.  A new one is a function and its place in
``CHECKS``; the first error of a refused spec is the reason that its status gives.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sglang_operator.api import errors, names, pod_container, pod_volumes, spec, syntax
from sglang_operator.api.pod_template import FIELD
from sglang_operator.api.spec import WeightsGate
from sglang_operator.engine import aliases, environment, images, model_size, versions
from sglang_operator.placement import modes
from sglang_operator.pool import (
    devices,
    planned_memory,
    registry_size,
    shared_memory,
    shares,
    tuning,
    weight_arguments,
)
from sglang_operator.pool.draft import Draft
from sglang_operator.roll import device_mapping, sampling, worker
from sglang_operator.scheduling import gangs

Check = Callable[[Draft], Iterable[errors.Problem]]

_POOL_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def problems(draft: Draft) -> tuple[errors.Problem, ...]:
    """Everything that is wrong, or odd, in the order of the checks."""
    return tuple(problem for check in CHECKS for problem in check(draft))


def is_error(problem: errors.Problem) -> bool:
    """Whether a pool with this problem cannot be run."""
    return problem.severity is errors.Severity.ERROR


def _name(draft: Draft) -> Iterator[errors.Problem]:
    name = draft.owner.name
    if len(name) > names.MAX_POOL_NAME or not _POOL_NAME.fullmatch(name):
        yield errors.POOL_NAME(
            "metadata.name", found=name, length=len(name), limit=names.MAX_POOL_NAME
        )


def _worker(draft: Draft) -> Iterable[errors.Problem]:
    """ROLL's sections by their names."""
    return worker.problems(draft.spec)


_MOST_ENGINES = 4096
_BOUNDS: tuple[tuple[str, str, int, int], ...] = (
    ("num_gpus_per_worker", "num_gpus_per_worker", 1, 1024),
    ("num_gpus_per_node", "num_gpus_per_node", 1, 64),
    ("replicas", "replicas", 0, _MOST_ENGINES),
    # NumPy's limit: SGLang seeds it too (srt/utils, set_random_seed), and dies of more.
    ("seed", "seed", 0, 2**32 - 1),
    ("rollout.partition", "rollout.partition", 0, _MOST_ENGINES),
    ("rollout.revision_history_limit", "rollout.revisionHistoryLimit", 0, 100),
    ("rollout.window_deadline_seconds", "rollout.windowDeadlineSeconds", 0, 604800),
    ("rollout.progress_deadline_seconds", "rollout.progressDeadlineSeconds", 30, 86400),
    ("restart.node_lost_seconds", "restart.nodeLostSeconds", 0, 86400),
    ("restart.backoff_seconds", "restart.backoffSeconds", 1, 3600),
    ("restart.max_backoff_seconds", "restart.maxBackoffSeconds", 1, 86400),
    ("restart.reset_seconds", "restart.resetSeconds", 1, 86400),
    ("restart.startup_budget", "restart.startupBudget", 1, 100),
    ("restart.hang_seconds", "restart.hangSeconds", 30, 86400),
    ("drain.grace_period_seconds", "drain.gracePeriodSeconds", 0, 86400),
    ("startup.timeout_seconds", "startup.timeoutSeconds", 30, 86400),
    ("network.port", "network.port", 1024, 65535),
)


def _ranges(draft: Draft) -> Iterator[errors.Problem]:
    """Numbers by themselves."""
    for path, shown, low, high in _BOUNDS:
        value: Any = draft.spec
        for part in path.split("."):
            value = getattr(value, part)
        if value is not None and not low <= value <= high:
            advice = "correct it"
            yield errors.FIELD_RANGE(
                f"spec.{shown}", found=value, expected=f"{low} to {high}", advice=advice
            )


def _shares(draft: Draft) -> Iterator[errors.Problem]:
    """Numbers of engines that may be percentages."""
    rollout = draft.spec.rollout
    for name, value, low in (
        ("maxUnavailable", rollout.max_unavailable, 1),
        ("maxSurge", rollout.max_surge, 0),
    ):
        if not shares.is_share(value, low=low, high=4096):
            yield errors.ROLLOUT_SHARE(
                f"spec.rollout.{name}", field=name, found=errors.word(value), low=low
            )


def _surge(draft: Draft) -> Iterator[errors.Problem]:
    """Engines beside those that they replace, where nobody tells when a trainer writes."""
    surge = draft.spec.rollout.max_surge
    if draft.gate is WeightsGate.VERSIONED and surge not in (0, "0%"):
        yield errors.SURGE_VERSIONED("spec.rollout.maxSurge", found=errors.word(surge))


def _window(draft: Draft) -> Iterator[errors.Problem]:
    """Steps of which nobody tells when they end."""
    window = draft.spec.rollout.window
    if draft.gate is WeightsGate.VERSIONED and window is not spec.RolloutWindow.ANYTIME:
        yield errors.WINDOW_VERSIONED("spec.rollout.window", found=window.value)


def _references(draft: Draft) -> Iterator[errors.Problem]:
    """Names of other objects, which exist by Kubernetes' rules or not at all."""
    security = draft.spec.security
    for name, secret in (
        ("apiKey", security.api_key),
        ("adminApiKey", security.admin_api_key),
    ):
        if secret is not None and not syntax.is_subdomain(secret.name):
            yield syntax.wrong(f"spec.security.{name}.name", secret.name, syntax.SUBDOMAIN)
        if secret is not None and not syntax.is_config_key(secret.key):
            yield syntax.wrong(f"spec.security.{name}.key", secret.key, syntax.CONFIG_KEY)


def _scheduling(draft: Draft) -> Iterator[errors.Problem]:
    return gangs.problems(draft.spec)


def _placement(draft: Draft) -> Iterator[errors.Problem]:
    """How engines get their GPUs, and what a podTemplate may not have for it."""
    engines = {each.name: each.shares for each in draft.engines}
    yield from modes.problems(draft.spec, draft.owner.namespace, engines)
    parts = modes.parts(draft.spec, draft.owner.namespace)
    if parts.shm is not None and draft.template.mounts_at(pod_volumes.SHM_DIR):
        yield errors.POD_TEMPLATE(
            f"{FIELD}.spec.containers[0].volumeMounts",
            found=f"a mount at {pod_volumes.SHM_DIR}",
            expected="what engines and their trainer have in common there",
            advice=f"remove it, or name it in {_as_written(parts.field_of('shm'))}",
        )
    for name in sorted(parts.spec.keys() & draft.template.spec.keys()):
        yield errors.POD_TEMPLATE(
            f"{FIELD}.spec.{name}",
            found=name,
            expected=_as_written(parts.field_of(name)),
            advice="write it once",
        )


def _as_written(field: str) -> str:
    """A field of the spec as sentences name it."""
    return field.removeprefix("spec.")


def _unsupported(draft: Draft) -> Iterator[errors.Problem]:
    """What the definition allows, and this operator cannot do yet."""
    parsed = draft.spec
    if parsed.router is not None:
        yield errors.NOT_YET_SUPPORTED(
            "spec.router", found="a router", advice="send requests to the pool's Service"
        )


def _sampling(draft: Draft) -> Iterable[errors.Problem]:
    """ROLL's generating_args."""
    return sampling.problems(draft.spec.generating_args)


def _mapping(draft: Draft) -> Iterator[errors.Problem]:
    """What is wrong with device_mapping, or with replicas in its place."""
    yield from draft.mapping_problems
    yield from _straddling(draft)


def _straddling(draft: Draft) -> Iterator[errors.Problem]:
    """The first engine whose GPUs lie unevenly, or on more nodes than it needs."""
    parsed, field = draft.spec, "spec.device_mapping"
    if parsed.device_mapping is None:
        return
    for engine in draft.engines:
        lie = device_mapping.shares(engine.devices, parsed.num_gpus_per_node)
        if device_mapping.spans(lie) is None:
            expected = "as many on each of its nodes, one node after the other"
        elif len(lie) != draft.nodes:
            expected = f"each engine on as many nodes as engine 0, which is on {draft.nodes}"
        else:
            continue
        yield errors.ENGINE_STRADDLES_NODES(
            field,
            rank=engine.rank,
            devices=device_mapping.describe(engine.devices),
            found=", ".join(f"{count} on node {node}" for node, count in lie[:_MOST_NODES]),
            per_node=parsed.num_gpus_per_node,
            expected=expected,
            advice=_nearest(parsed),
        )
        return
    if draft.nodes > 1 and parsed.num_gpus_per_worker <= parsed.num_gpus_per_node:
        first = draft.engines[0]
        yield errors.ENGINE_SPANS_NODES(
            field,
            rank=first.rank,
            devices=device_mapping.describe(first.devices),
            count=first.pods,
            per_node=parsed.num_gpus_per_node,
            per_worker=parsed.num_gpus_per_worker,
        )


_MOST_NODES = 4  # that are told of an engine


def _nearest(parsed: spec.PoolSpec) -> str:
    """How engines of about so many GPUs lie evenly on nodes."""
    per_worker, per_node = parsed.num_gpus_per_worker, parsed.num_gpus_per_node
    if per_worker <= per_node:
        return f"begin each group of {per_worker} at a multiple of {per_worker}"
    whole, rest = divmod(per_worker, per_node)
    if not rest:
        return f"begin each group of {per_worker} at a multiple of {per_node}"
    return (
        f"use num_gpus_per_worker {whole * per_node} or {(whole + 1) * per_node}, which are whole "
        f"nodes, or set num_gpus_per_node if your nodes have more"
    )


def _spanning(draft: Draft) -> Iterator[errors.Problem]:
    """Engines across nodes: as many GPUs on each, time to load, and a follower that answers."""
    parsed, nodes = draft.spec, draft.nodes
    if nodes == 1:
        return
    if parsed.num_gpus_per_worker % nodes:
        share = parsed.num_gpus_per_worker // nodes
        yield errors.FIELD_RANGE(
            "spec.num_gpus_per_worker",
            found=parsed.num_gpus_per_worker,
            expected=f"a multiple of the {nodes} nodes that an engine needs",
            advice=f"use {share * nodes} or {(share + 1) * nodes}",
        )
    yield from environment.of_followers(parsed.system_envs)
    given = parsed.startup.timeout_seconds
    if given is not None and given <= model_size.LOADING_APART_SECONDS:
        yield errors.FIELD_RANGE(
            "spec.startup.timeoutSeconds",
            found=given,
            expected=f"above {model_size.LOADING_APART_SECONDS}, for which the pods of one engine "
            "may load apart",
            advice="leave it out",
        )


def _image(draft: Draft) -> Iterator[errors.Problem]:
    """The image by its name, and the version of SGLang that it has."""
    yield from images.problems(draft.image)
    yield from draft.detected.problems


def _arguments(draft: Draft) -> Iterable[errors.Problem]:
    """The engine's command line (``engine.arguments.RULES``)."""
    return draft.arguments.problems


def _environment(draft: Draft) -> Iterable[errors.Problem]:
    """ROLL's system_envs."""
    return draft.environment_problems


def _template(draft: Draft) -> Iterator[errors.Problem]:
    """podTemplate: what it may not have, its variables, and its memory."""
    yield from draft.template_problems
    yield from environment.template_problems(draft.template.variables)
    if not any(map(is_error, draft.template_problems)):
        if pod_container.is_counted(modes.resource(draft.spec)):
            yield from devices.doubts(draft.spec, draft.template)
        if modes.parts(draft.spec, draft.owner.namespace).shm is None:
            yield from shared_memory.of_template(
                draft.template, draft.spec.num_gpus_per_worker // draft.nodes
            )


def _asking(draft: Draft) -> Iterator[errors.Problem]:
    """What the operator would have to ask engines for, and cannot."""
    parsed, gate, version, features = draft.spec, draft.gate, draft.version, draft.features
    if gate is WeightsGate.VERSIONED and not features.weight_version_flag:
        yield errors.VERSIONED_GATE("spec.weights.gate", version=version, needed="0.5.2")
    recovers = parsed.weights.recovery is spec.Recovery.FROM_CHECKPOINT
    if recovers and gate is WeightsGate.OFF:
        yield errors.RECOVERY_UNGATED("spec.weights.recovery")
    hang = parsed.restart.hang_seconds
    if hang is not None and not features.load_path:
        yield errors.HANG_DETECTION(
            "spec.restart.hangSeconds", version=version, needed=versions.GET_LOAD_SINCE
        )
    keys = (("apiKey", parsed.security.api_key), ("adminApiKey", parsed.security.admin_api_key))
    key = next((name for name, reference in keys if reference is not None), None)
    if key is None:
        return
    if hang is not None:
        yield errors.HANG_DETECTION_KEYED("spec.restart.hangSeconds", key=key)
    if gate is WeightsGate.VERSIONED:
        yield _keyed("gate", "Versioned", key, "Committed")
    if recovers and gate is not WeightsGate.OFF:
        yield _keyed("recovery", "FromCheckpoint", key, "Wait")


def _keyed(field: str, found: str, key: str, instead: str) -> errors.Problem:
    return errors.WEIGHTS_KEYED(
        f"spec.weights.{field}", field=f"weights.{field}", found=found, key=key, instead=instead
    )


def _lora(draft: Draft) -> Iterator[errors.Problem]:
    """LoRA where a trainer brings the weights."""
    if not draft.gated:
        return
    target = draft.spec.model_args.get("lora_target")
    if target is not None:
        yield errors.LORA_SYNC("spec.model_args.lora_target", found=errors.shown(target))
    config = draft.spec.strategy_args.strategy_config or {}
    for name in sorted(filter(config.get, config)):
        if aliases.canonical(name) in ("enable_lora", "lora_paths"):
            yield errors.LORA_ADAPTERS(f"{aliases.FIELD}.{name}", key=name)


def _weight_arguments(draft: Draft) -> Iterable[errors.Problem]:
    """Arguments with which no trainer can bring weights, or have engines sleep."""
    check = weight_arguments.problems if draft.gated else weight_arguments.of_sleepers
    return check(draft.arguments.argv, draft.known, draft.features)


def _tuning(draft: Draft) -> Iterator[errors.Problem]:
    """The bounds of restart.autoTune."""
    tune = draft.spec.restart.auto_tune
    bounds = tune.mem_fraction_static if tune is not None else None
    if bounds is None:
        return
    shown = f"{bounds.min:g} to {bounds.max:g} in steps of {bounds.step:g}"
    field = "spec.restart.autoTune.mem_fraction_static"
    most = tuning.MOST_TRIES
    fits = 0 < bounds.min < bounds.max < 1 and 0 < bounds.step < 1 and 1 <= bounds.tries <= most
    if not fits:
        expected = f"0 < min < max < 1, a step above 0, and 1 to {most} tries"
        yield errors.AUTO_TUNE(field, found=shown, expected=expected, advice="correct it")
        return
    start = draft.arguments.mem_fraction_static
    if start is None or not bounds.min <= start <= bounds.max:
        found = "nothing" if start is None else f"{start:g}"
        yield errors.AUTO_TUNE(
            field,
            found=shown,
            expected=f"bounds around strategy_config's mem_fraction_static, which is {found}",
            advice="set one of the two so that tuning begins within its bounds",
        )


def _memory(draft: Draft) -> Iterable[errors.Problem]:
    """Engines that cannot fit their GPUs."""
    return planned_memory.problems(draft)


def _capacity(draft: Draft) -> Iterator[errors.Problem]:
    """Whether the mapping has room for all replicas."""
    parsed, capacity = draft.spec, len(draft.engines)
    if parsed.suspend or parsed.replicas is None or parsed.device_mapping is None:
        return
    if parsed.replicas > capacity:
        yield errors.REPLICAS_ABOVE_CAPACITY(
            "spec.replicas",
            found=parsed.replicas,
            capacity=capacity,
            per_worker=parsed.num_gpus_per_worker,
        )


def _start(draft: Draft) -> Iterator[errors.Problem]:
    """Whether as many engines can be as are to start at once."""
    least, most = draft.spec.scheduling.min_engines, _MOST_ENGINES
    if draft.engines and draft.spec.device_mapping is not None:
        most = len(draft.engines)  # fewer replicas may come and go: all that are wanted start then
    if least is not None and not 1 <= least <= most:
        yield errors.FIELD_RANGE(
            "spec.scheduling.minEngines",
            found=least,
            expected=f"1 to {most}, as many engines as the pool can have",
            advice="start with fewer, or leave it out",
        )


def _registry_size(draft: Draft) -> Iterator[errors.Problem]:
    """Whether the registry has room for all engines."""
    owner, engines, parsed = draft.owner, draft.engines[: draft.active], draft.spec
    written = [(engine.name, len(json.dumps(engine.devices))) for engine in engines]
    gpus, generation = parsed.num_gpus_per_worker, parsed.generating_args
    mode = modes.MODES.get(parsed.placement.mode)
    told = mode is not None and mode.seats
    size = registry_size.most(owner.name, written, gpus, generation, told_gpus=told)
    if size > registry_size.LIMIT:
        yield errors.POOL_TOO_LARGE(
            "spec",
            engines=len(engines),
            size=size // 1024,
            limit=registry_size.LIMIT // 1024,
            most=len(engines) * registry_size.LIMIT // size,
        )


CHECKS: tuple[Check, ...] = (
    _name,
    _worker,
    _ranges,
    _shares,
    _surge,
    _window,
    _references,
    _scheduling,
    _placement,
    _unsupported,
    _sampling,
    _mapping,
    _spanning,
    _image,
    _arguments,
    _environment,
    _template,
    _asking,
    _lora,
    _weight_arguments,
    _tuning,
    _memory,
    _capacity,
    _start,
    _registry_size,
)
