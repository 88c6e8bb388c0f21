"""A spec as far as it can be understood, whatever is wrong with it.  Pure.

Each part is made of what the user wrote, with the problems that were found on the way; nothing
stops at the first one.  ``pool.checks`` looks at the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_operator.api import errors, names, pod_template, spec
from sglang_operator.api.spec import PoolSpec, WeightsGate
from sglang_operator.engine import arguments, environment, schema, versions
from sglang_operator.placement import modes
from sglang_operator.pool.model import Engine, Owner
from sglang_operator.roll import device_mapping, sampling, worker

Problems = tuple[errors.Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A pool that may yet be refused, and what is wrong with its parts."""

    owner: Owner
    spec: PoolSpec
    engines: tuple[Engine, ...]  # the capacity, by rank
    mapping_problems: Problems
    image: str
    detected: versions.Detected  # the version, and its problems
    features: versions.Features
    request: arguments.EngineRequest
    arguments: arguments.Arguments  # with their problems
    environment: Mapping[str, str]
    environment_problems: Problems
    template: pod_template.Overlay
    template_problems: Problems
    gate: WeightsGate  # resolved: never Auto

    @property
    def version(self) -> versions.Version:
        """The version of SGLang, detected or given."""
        return self.detected.version

    @property
    def known(self) -> schema.Schema:
        """What is known of the arguments of this version."""
        return schema.nearest(self.version)

    @property
    def nodes(self) -> int:
        """How many nodes each engine spans: so many pods it is."""
        return _nodes(self.engines, self.spec)

    @property
    def gated(self) -> bool:
        """Whether requests are kept away until somebody says that the weights are right."""
        return self.gate is not WeightsGate.OFF

    @property
    def active(self) -> int:
        """How many engines to run: ``replicas`` may use less than the mapping has room for."""
        if self.spec.suspend:
            return 0
        if self.spec.replicas is None or self.spec.device_mapping is None:
            return len(self.engines)
        return min(self.spec.replicas, len(self.engines))


def understand(owner: Owner, parsed: PoolSpec) -> Draft:
    """What this spec describes, right or wrong."""
    engines, mapping_problems = _engines(parsed)
    image = parsed.image or versions.DEFAULT_IMAGE
    detected = versions.detect(image, parsed.engine_version)
    features = versions.features(detected.version)
    request = _request(parsed, detected, _nodes(engines, parsed))
    rendered = arguments.render(request)
    variables, environment_problems = environment.environment(parsed.system_envs, features)
    template, template_problems = pod_template.parse(parsed.pod_template, modes.resource(parsed))
    return Draft(
        owner=owner,
        spec=parsed,
        engines=engines,
        mapping_problems=mapping_problems,
        image=image,
        detected=detected,
        features=features,
        request=request,
        arguments=rendered,
        environment=variables,
        environment_problems=tuple(environment_problems),
        template=template,
        template_problems=tuple(template_problems),
        gate=_gate(parsed, rendered.load_format),
    )


def _engines(parsed: PoolSpec) -> tuple[tuple[Engine, ...], tuple[errors.Problem, ...]]:
    """The engines by rank, and what is wrong with the mapping."""
    if parsed.num_gpus_per_worker < 1 or parsed.num_gpus_per_node < 1:
        return (), ()  # said by the range check
    if parsed.device_mapping is None:
        if parsed.replicas is None:
            return (), (errors.MAPPING_OR_REPLICAS("spec.device_mapping"),)
        return _unmapped_engines(parsed.replicas, _fewest_nodes(parsed)), ()
    try:
        ids = device_mapping.parse(parsed.device_mapping)
        groups = device_mapping.groups(ids, parsed.num_gpus_per_worker)
    except errors.InvalidError as error:
        return (), (error.problem,)
    return tuple(_engine(rank, group, parsed) for rank, group in enumerate(groups)), ()


def _engine(rank: int, devices: tuple[int, ...], parsed: PoolSpec) -> Engine:
    """The engine with these GPUs; one that lies unevenly is refused, and taken for one pod."""
    shares = device_mapping.shares(devices, parsed.num_gpus_per_node)
    pods = min(device_mapping.spans(shares) or 1, names.MAX_NODES)
    name = device_mapping.engine_name(devices, pods)
    return Engine(rank=rank, name=name, devices=devices, pods=pods)


def _fewest_nodes(parsed: PoolSpec) -> int:
    """How many nodes an engine of a pool without GPU ids needs."""
    return max(1, -(-parsed.num_gpus_per_worker // max(1, parsed.num_gpus_per_node)))


def _unmapped_engines(replicas: int, pods: int) -> tuple[Engine, ...]:
    """Engines of a pool that counts replicas: they have no GPU ids, so the rank is the name."""
    return tuple(
        Engine(rank=rank, name=names.EngineName(f"r{rank}"), devices=(), pods=pods)
        for rank in range(min(replicas, 4096))
    )


def _nodes(engines: tuple[Engine, ...], parsed: PoolSpec) -> int:
    """Of all engines alike, which is checked; an empty pool's will be as many as they need."""
    return engines[0].pods if engines else _fewest_nodes(parsed)


def _request(parsed: PoolSpec, detected: versions.Detected, nodes: int) -> arguments.EngineRequest:
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
        nodes=nodes,
        seed=parsed.seed,
        router_replay_mode=parsed.router_replay.mode,
        sampling=defaults,
        beside_trainer=modes.joins(parsed),
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
