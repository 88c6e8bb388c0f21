"""From the spec to the pool as it should be: its engines, their GPUs and how each is started.

``plan_pool`` is the only place where a spec is judged as a whole.  It finds every problem, not
only the first, and returns a plan only if none of them is an error.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sglang_operator.api import errors, names, pod_container, pod_template, spec, syntax
from sglang_operator.api.problems import sparing
from sglang_operator.api.spec import PoolSpec, TuneRange, WeightsGate
from sglang_operator.engine import (
    aliases,
    arguments,
    environment,
    images,
    model_size,
    schema,
    versions,
)
from sglang_operator.engine.arguments import ANY_ADDRESS
from sglang_operator.planner import (
    registry_size,
    revision,
    shared_memory,
    shares,
    tuning,
    weight_arguments,
)
from sglang_operator.planner.tuning import Tuning
from sglang_operator.roll import device_mapping, sampling, worker

_POOL_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The object a pool comes from; children refer to it by its UID."""

    name: str
    namespace: str
    uid: names.Uid
    generation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One engine: identified by its group, addressed by its rank (ROLL's dp_rank)."""

    rank: int
    group: names.GroupName
    devices: tuple[int, ...]
    pods: int = 1  # that it runs in


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool that can be run."""

    owner: Owner
    spec: PoolSpec
    image: str
    version: versions.Version
    features: versions.Features
    engines: tuple[Engine, ...]  # the capacity, by rank
    active: int  # engines to run: the ranks below it
    arguments: arguments.Arguments
    environment: Mapping[str, str]
    gate: WeightsGate  # resolved: never Auto
    no_sync: str  # why no trainer may sync these engines; empty: it may
    template: pod_template.Overlay
    sampling: Mapping[str, object]
    revision: str
    warnings: tuple[errors.Problem, ...]
    tuning: Tuning | None = None  # in force
    base_revision: str = ""  # of the spec as it is written, without the tuning
    # Revisions of pods that run as well as those of the present one would: what was tuned since
    # reaches them with their next pod.
    accepted: frozenset[str] = frozenset()
    # Where engines listen.  It is the cluster's, not the spec's, and no part of the revision.
    host: str = ANY_ADDRESS

    @property
    def saves_memory(self) -> bool:
        """Whether its engines can release their memory."""
        return arguments.MEMORY_SAVER in self.argv

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line of every engine, as its pod has it."""
        own = self.spec.network.listen_on_pod_ip
        return arguments.listening(self.arguments.argv, arguments.POD_IP if own else self.host)

    @property
    def bounds(self) -> TuneRange | None:
        """Within which mem_fraction_static may be tuned; None: it may not."""
        tune = self.spec.restart.auto_tune
        return tune.mem_fraction_static if tune is not None else None

    @property
    def gated(self) -> bool:
        """Whether requests are kept away until somebody says that the weights are right."""
        return self.gate is not WeightsGate.OFF

    @property
    def gpus(self) -> int:
        """GPUs of one engine."""
        return self.spec.num_gpus_per_worker

    @property
    def max_unavailable(self) -> int:
        """Engines that may be out of service for the sake of a change."""
        return shares.engines(self.spec.rollout.max_unavailable, self.active)

    @property
    def startup_seconds(self) -> int:
        """How long an engine may take from its container's start to its first healthy answer."""
        given = self.spec.startup.timeout_seconds
        if given is not None:
            return given
        model = self.spec.model_args.get("model_name_or_path")
        return model_size.startup_seconds(str(model), self.arguments.load_format)

    @property
    def running(self) -> tuple[Engine, ...]:
        """The engines to run, by rank."""
        return self.engines[: self.active]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A pool that cannot be run, and everything that is wrong with it."""

    owner: Owner
    problems: tuple[errors.Problem, ...]

    @property
    def errors(self) -> tuple[errors.Problem, ...]:
        return tuple(p for p in self.problems if p.severity is errors.Severity.ERROR)


@sparing()
def plan_pool(owner: Owner, raw: Mapping[str, Any], tuned: Tuning | None = None) -> Pool | Refused:
    """The pool that this spec describes, or all that is wrong with it.

    ``tuned`` is what the status remembers of ``restart.autoTune``; it counts only for the spec
    that it was found for.
    """
    try:
        parsed = spec.parse(raw)
    except errors.InvalidError as error:
        return Refused(owner=owner, problems=error.problems)
    problems: list[errors.Problem] = [
        *_name_problems(owner.name),
        *worker.problems(parsed),
        *_range_problems(parsed),
        *_share_problems(parsed.rollout),
        *_reference_problems(parsed),
        *_unsupported(parsed),
        *sampling.problems(parsed.generating_args),
    ]
    engines = _engines(parsed, problems)
    image = parsed.image or versions.DEFAULT_IMAGE
    problems += images.problems(image)
    detected = versions.detect(image, parsed.engine_version)
    problems += detected.problems
    version, features = detected.version, versions.features(detected.version)
    rendered = arguments.render(_request(parsed, detected))
    problems += rendered.problems
    env, env_problems = environment.environment(parsed.system_envs, features)
    problems += env_problems
    overlay, template_problems = pod_template.parse(
        parsed.pod_template, parsed.placement.resource_name
    )
    problems += template_problems
    problems += environment.template_problems(overlay.variables)
    if not any(problem.severity is errors.Severity.ERROR for problem in template_problems):
        problems += shared_memory.of_template(overlay, parsed.num_gpus_per_worker)
    gate = _gate(parsed, rendered.load_format)
    problems += _asking_problems(parsed, gate, version, features)
    problems += _lora_problems(gate, parsed)
    known = schema.nearest(version)
    if gate is not WeightsGate.OFF:
        problems += weight_arguments.problems(rendered.argv, known, features)
    problems += _tuning_problems(parsed, rendered)
    active = _active(parsed, len(engines), problems)
    problems += _size_problems(owner, engines[:active], parsed)
    if any(problem.severity is errors.Severity.ERROR for problem in problems):
        return Refused(owner=owner, problems=tuple(problems))

    def revised(argv: tuple[str, ...]) -> str:
        gated = gate is not WeightsGate.OFF
        return revision.digest(revision.inputs(parsed, image, argv, env, gated))

    base = revised(rendered.argv)
    pool = Pool(
        owner=owner,
        spec=parsed,
        image=image,
        version=version,
        features=features,
        engines=engines,
        active=active,
        arguments=rendered,
        environment=env,
        gate=gate,
        no_sync=weight_arguments.refusal(rendered.argv, known, features),
        template=overlay,
        sampling=sampling.sampling_params(parsed.generating_args),
        revision=base,
        warnings=tuple(problems),
        base_revision=base,
        accepted=frozenset({base}),
    )
    if tuned is None or pool.bounds is None or tuned.base != base:
        return pool
    request = _request(parsed, detected)
    for value in tuning.values(tuned, pool.bounds):
        rendered = arguments.render(replace(request, tuned_mem_fraction=value))
        now = revised(rendered.argv)
        accepted = pool.accepted | {now}
        pool = replace(pool, arguments=rendered, revision=now, accepted=accepted, tuning=tuned)
    return pool


def _tuning_problems(parsed: PoolSpec, rendered: arguments.Arguments) -> Iterator[errors.Problem]:
    tune = parsed.restart.auto_tune
    bounds = tune.mem_fraction_static if tune is not None else None
    if bounds is None:
        return
    shown = f"{bounds.min:g} to {bounds.max:g} in steps of {bounds.step:g}"
    field = "spec.restart.autoTune.mem_fraction_static"
    fits = 0 < bounds.min < bounds.max < 1 and 0 < bounds.step < 1 and 1 <= bounds.tries <= 10
    if not fits:
        expected = "0 < min < max < 1, a step above 0, and 1 to 10 tries"
        yield errors.AUTO_TUNE(field, found=shown, expected=expected, advice="correct it")
        return
    start = rendered.mem_fraction_static
    if start is None or not bounds.min <= start <= bounds.max:
        found = "nothing" if start is None else f"{start:g}"
        yield errors.AUTO_TUNE(
            field,
            found=shown,
            expected=f"bounds around strategy_config's mem_fraction_static, which is {found}",
            advice="set one of the two so that tuning begins within its bounds",
        )


def _name_problems(name: str) -> Iterator[errors.Problem]:
    if len(name) > names.MAX_POOL_NAME or not _POOL_NAME.fullmatch(name):
        yield errors.POOL_NAME(
            "metadata.name", found=name, length=len(name), limit=names.MAX_POOL_NAME
        )


def _size_problems(
    owner: Owner, engines: tuple[Engine, ...], parsed: PoolSpec
) -> Iterator[errors.Problem]:
    """Whether the registry has room for all engines."""
    written = [(engine.group, len(json.dumps(engine.devices))) for engine in engines]
    gpus, generation = parsed.num_gpus_per_worker, parsed.generating_args
    size = registry_size.most(owner.name, written, gpus, generation)
    if size > registry_size.LIMIT:
        yield errors.POOL_TOO_LARGE(
            "spec",
            engines=len(engines),
            size=size // 1024,
            limit=registry_size.LIMIT // 1024,
            most=len(engines) * registry_size.LIMIT // size,
        )


_BOUNDS: tuple[tuple[str, str, int, int], ...] = (
    ("num_gpus_per_worker", "num_gpus_per_worker", 1, 1024),
    ("num_gpus_per_node", "num_gpus_per_node", 1, 64),
    ("replicas", "replicas", 0, 4096),
    # NumPy's limit: SGLang seeds it too (srt/utils, set_random_seed), and dies of more.
    ("seed", "seed", 0, 2**32 - 1),
    ("rollout.partition", "rollout.partition", 0, 4096),
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


def _range_problems(parsed: PoolSpec) -> Iterator[errors.Problem]:
    for path, shown, low, high in _BOUNDS:
        value: Any = parsed
        for part in path.split("."):
            value = getattr(value, part)
        if value is not None and not low <= value <= high:
            advice = "correct it"
            yield errors.FIELD_RANGE(
                f"spec.{shown}", found=value, expected=f"{low} to {high}", advice=advice
            )


def _reference_problems(parsed: PoolSpec) -> Iterator[errors.Problem]:
    """Names of other objects, which exist by Kubernetes' rules or not at all."""
    for name, secret in (
        ("apiKey", parsed.security.api_key),
        ("adminApiKey", parsed.security.admin_api_key),
    ):
        if secret is not None and not syntax.is_subdomain(secret.name):
            yield syntax.wrong(f"spec.security.{name}.name", secret.name, syntax.SUBDOMAIN)
        if secret is not None and not syntax.is_config_key(secret.key):
            yield syntax.wrong(f"spec.security.{name}.key", secret.key, syntax.CONFIG_KEY)
    priority = parsed.scheduling.priority_class_name
    if priority and not syntax.is_subdomain(priority):
        yield syntax.wrong("spec.scheduling.priorityClassName", priority, syntax.SUBDOMAIN)


def _share_problems(rollout: spec.Rollout) -> Iterator[errors.Problem]:
    """Numbers of engines that may be percentages."""
    for name, value, low in (
        ("maxUnavailable", rollout.max_unavailable, 1),
        ("maxSurge", rollout.max_surge, 0),
    ):
        if not shares.is_share(value, low=low, high=4096):
            yield errors.ROLLOUT_SHARE(
                f"spec.rollout.{name}", field=name, found=errors.shown(value), low=low
            )


def _unsupported(parsed: PoolSpec) -> Iterator[errors.Problem]:
    mode, resource = parsed.placement.mode, parsed.placement.resource_name
    if not pod_container.is_counted(resource):
        yield syntax.wrong(
            "spec.placement.resourceName",
            resource,
            "a resource that counts devices, such as nvidia.com/gpu or amd.com/gpu",
            "write what nodes have in status.allocatable",
        )
    if mode is not spec.PlacementMode.COUNT:
        yield errors.NOT_YET_SUPPORTED(
            "spec.placement.mode", found=mode.value, advice="use Count, or leave placement out"
        )
    if parsed.router is not None:
        yield errors.NOT_YET_SUPPORTED(
            "spec.router", found="a router", advice="send requests to the pool's Service"
        )
    if parsed.rollout.max_surge not in (0, "0%"):
        yield errors.NOT_YET_SUPPORTED(
            "spec.rollout.maxSurge",
            found=parsed.rollout.max_surge,
            advice="use 0; rollouts go by maxUnavailable",
        )
    per_worker, per_node = parsed.num_gpus_per_worker, parsed.num_gpus_per_node
    if per_worker > per_node >= 1:
        yield errors.ENGINE_SPANS_NODES(
            "spec.num_gpus_per_worker", per_worker=per_worker, per_node=per_node
        )


def _engines(parsed: PoolSpec, problems: list[errors.Problem]) -> tuple[Engine, ...]:
    """The engines by rank; what is wrong with the mapping goes to ``problems``."""
    if parsed.num_gpus_per_worker < 1 or parsed.num_gpus_per_node < 1:
        return ()  # said by the range check
    if parsed.device_mapping is None:
        return _unmapped_engines(parsed, problems)
    try:
        ids = device_mapping.parse(parsed.device_mapping)
        groups = device_mapping.groups(ids, parsed.num_gpus_per_worker)
    except errors.InvalidError as error:
        problems.append(error.problem)
        return ()
    if parsed.num_gpus_per_worker <= parsed.num_gpus_per_node:
        problems.extend(_straddling(groups, parsed))
    return tuple(
        Engine(rank=rank, group=device_mapping.group_name(group), devices=group)
        for rank, group in enumerate(groups)
    )


def _unmapped_engines(parsed: PoolSpec, problems: list[errors.Problem]) -> tuple[Engine, ...]:
    """Engines of a pool that counts replicas: they have no GPU ids, so the rank is the group."""
    if parsed.replicas is None:
        problems.append(errors.MAPPING_OR_REPLICAS("spec.device_mapping"))
        return ()
    return tuple(
        Engine(rank=rank, group=names.GroupName(f"r{rank}"), devices=())
        for rank in range(min(parsed.replicas, 4096))
    )


def _straddling(groups: tuple[tuple[int, ...], ...], parsed: PoolSpec) -> Iterator[errors.Problem]:
    """The first engine whose GPUs lie on more than one node: ROLL would see only one of them."""
    for rank, group in enumerate(groups):
        nodes = sorted({device_mapping.node_rank(i, parsed.num_gpus_per_node) for i in group})
        if len(nodes) > 1:
            yield errors.ENGINE_STRADDLES_NODES(
                "spec.device_mapping",
                rank=rank,
                devices=device_mapping.describe(group),
                nodes=device_mapping.describe(nodes),
                per_node=parsed.num_gpus_per_node,
                per_worker=parsed.num_gpus_per_worker,
            )
            return


def _request(parsed: PoolSpec, detected: versions.Detected) -> arguments.EngineRequest:
    defaults = (
        sampling.sampling_params(parsed.generating_args)
        if parsed.generation is spec.Generation.SERVER_DEFAULT
        else None
    )
    return arguments.EngineRequest(
        model=worker.model(parsed.model_args),
        dtype=parsed.model_args.get("dtype"),
        strategy_config=parsed.strategy_args.strategy_config or {},
        gpus=parsed.num_gpus_per_worker,
        seed=parsed.seed,
        router_replay_mode=parsed.router_replay.mode,
        sampling=defaults,
        extra_args=tuple(parsed.extra_args),
        port=parsed.network.port,
        version=detected.version,
        version_known=detected.known,
        has_api_key=parsed.security.api_key is not None,
        has_admin_api_key=parsed.security.admin_api_key is not None,
    )


def _gate(parsed: PoolSpec, load_format: str) -> WeightsGate:
    """Auto: a pool that starts with random weights is gated, one that loads them is not."""
    if parsed.weights.gate is not WeightsGate.AUTO:
        return parsed.weights.gate
    return WeightsGate.COMMITTED if load_format == "dummy" else WeightsGate.OFF


def _asking_problems(
    parsed: PoolSpec, gate: WeightsGate, version: versions.Version, features: versions.Features
) -> Iterator[errors.Problem]:
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


def _lora_problems(gate: WeightsGate, parsed: PoolSpec) -> Iterator[errors.Problem]:
    """LoRA where a trainer brings the weights."""
    if gate is WeightsGate.OFF:
        return
    target = parsed.model_args.get("lora_target")
    if target is not None:
        yield errors.LORA_SYNC("spec.model_args.lora_target", found=errors.shown(target))
    config = parsed.strategy_args.strategy_config or {}
    for name in sorted(filter(config.get, config)):
        if aliases.canonical(name) in ("enable_lora", "lora_paths"):
            yield errors.LORA_ADAPTERS(f"{aliases.FIELD}.{name}", key=name)


def _active(parsed: PoolSpec, capacity: int, problems: list[errors.Problem]) -> int:
    """How many engines to run: ``replicas`` may use less than the mapping has room for."""
    if parsed.suspend:
        return 0
    if parsed.replicas is None or parsed.device_mapping is None:
        return capacity
    if parsed.replicas > capacity:
        problems.append(
            errors.REPLICAS_ABOVE_CAPACITY(
                "spec.replicas",
                found=parsed.replicas,
                capacity=capacity,
                per_worker=parsed.num_gpus_per_worker,
            )
        )
    return min(parsed.replicas, capacity)
