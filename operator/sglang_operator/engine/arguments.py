"""From ROLL's strategy to the command line of one engine (explanation/roll.md).

``render`` applies the rules of ``RULES`` in order.  Each takes out of what was given the
arguments it answers for, puts in what it decides, and says what is wrong; nothing stops at the
first problem, and nothing raises.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import (
    aliases,
    checking,
    combinations,
    extra_arguments,
    generation,
    ownership,
    schema,
    topology,
    values,
    versions,
)

SENTINEL = "unsynced"  # the weight version of an engine that no trainer has written to
DEFAULT_LOAD_FORMAT = "auto"  # SGLang's own
API_KEY_VARIABLE = "SGLANG_API_KEY"
ADMIN_API_KEY_VARIABLE = "SGLANG_ADMIN_API_KEY"

# ROLL's spelling of a dtype -> SGLang's; without one ROLL takes bf16 (its ModelArguments).
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "auto": "auto"}
DEFAULT_DTYPE = "bf16"

# ROLL's defaults where the user says nothing.  ROLL forces the first two; here they can be set to
# false, because a pool for agents needs the tokenizer and a careful one trusts no remote code.
DEFAULTS: Mapping[str, object] = {
    "skip_tokenizer_init": True,
    "trust_remote_code": True,
    "disable_custom_all_reduce": True,
    "log_level": "info",
    "log_level_http": "warning",
}
# What other rules decide, or judge in words of their own.
_OWN_RULES = frozenset(
    {
        "port",
        "dtype",
        "random_seed",
        "enable_return_routed_experts",
        "grpc_mode",
        "mem_fraction_static",
        "tp_size",
        "pp_size",
        "dp_size",
    }
)
_SAVER = "enable_memory_saver"
MEMORY_SAVER = "--enable-memory-saver"  # without it, what is released stays where it is
_SWITCHES = (
    "skip_tokenizer_init",
    "trust_remote_code",
    "disable_custom_all_reduce",
    _SAVER,
    "enable_dp_attention",
    "grpc_mode",
)


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """What one engine is to be; of a spec exactly the parts that its command line depends on."""

    model: str | None
    dtype: object  # model_args.dtype in ROLL's spelling; anything a user may write
    strategy_config: Mapping[str, object]
    gpus: int  # of the engine, at least 1
    nodes: int = 1  # that it spans, with as many GPUs on each
    seed: int
    router_replay_mode: str
    sampling: Mapping[str, object] | None  # defaults of the server; None: requests bring them
    beside_trainer: bool = False  # on GPUs that are a trainer's too
    extra_args: Sequence[str]
    port: int
    tuned_mem_fraction: float | None = None  # instead of the one in strategy_config
    version: versions.Version
    version_known: bool = True  # false: only assumed, so that its schema can only warn
    has_api_key: bool
    has_admin_api_key: bool


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line of one engine, and everything there is to say about it.

    It can be run only if none of the problems is an error.
    """

    argv: tuple[str, ...]  # flags in alphabetical order, then extraArgs as they are
    load_format: str
    tp_size: int
    pp_size: int
    mem_fraction_static: float | None  # None: SGLang decides
    problems: tuple[errors.Problem, ...]


Rule = Callable[[EngineRequest, aliases.Given], Iterator[errors.Problem]]


# Where an engine listens: on all addresses of one family, that of its pod's first address.  "::" is
# IPv6 alone: SGLang's server (uvicorn on uvloop) takes no IPv4 there.
ANY_ADDRESS = "0.0.0.0"
ANY_IPV6_ADDRESS = "::"
# Or on the address of its own pod alone, which the kubelet fills in.
POD_IP_VARIABLE = "SGLANG_OPERATOR_POD_IP"
POD_IP = f"$({POD_IP_VARIABLE})"


def any_address(pod_address: str) -> str:
    """Where engines listen in a cluster whose pods have such addresses first."""
    return ANY_IPV6_ADDRESS if ":" in pod_address else ANY_ADDRESS


def listening(argv: Sequence[str], host: str) -> tuple[str, ...]:
    """A command line, for engines that listen there."""
    return tuple(f"--host={host}" if item == f"--host={ANY_ADDRESS}" else item for item in argv)


# Where the pods of one engine meet: the leader, whose command line all have, takes its own address,
# because older versions bind sockets to what they are given, and that has to be a number; the
# others know it by its name.  With attention data parallelism SGLang uses the six ports after it
# (``PortArgs``) and the thirteenth (``DP_ATTENTION_HANDSHAKE_PORT_DELTA``); the server's is the
# user's.
_RANK, _MEETING = "--node-rank=", "--dist-init-addr="
_MEETING_PORTS = (20000, 20100)
_PORTS_AFTER = 20


def _meeting_port(port: int) -> int:
    first, second = _MEETING_PORTS
    return first if not first <= port <= first + _PORTS_AFTER else second


def meeting(argv: Sequence[str], host: str) -> tuple[str, ...]:
    """A command line, for pods that have such addresses: those of IPv6 stand in brackets."""
    own = f"[{POD_IP}]" if host == ANY_IPV6_ADDRESS else POD_IP
    any_ = f"{_MEETING}{ANY_ADDRESS}:"
    return tuple(
        f"{_MEETING}{own}:{item.removeprefix(any_)}" if item.startswith(any_) else item
        for item in argv
    )


def following(argv: Sequence[str], node_rank: int, leader: str) -> list[str]:
    """The leader's command line, for the pod of this rank; ``leader``: its name in DNS."""

    def turned(item: str) -> str:
        if item.startswith(_RANK):
            return f"{_RANK}{node_rank}"
        if item.startswith(_MEETING):
            return f"{_MEETING}{leader}:{item.rpartition(':')[2]}"
        return item

    return [turned(item) for item in argv]


_SEED = "--random-seed="
_MOST_SEED = 2**32  # NumPy's, by which SGLang seeds it


def seeded(argv: Sequence[str], rank: int) -> list[str]:
    """A command line of rank 0, for the engine of this rank: its seed is so much higher.

    Two engines of one seed answer one prompt with the same samples.  What extraArgs say stays.
    """
    found = list(argv)
    index = next((i for i, item in enumerate(found) if item.startswith(_SEED)), None)
    if index is not None:
        seed = int(found[index].removeprefix(_SEED)) + rank
        found[index] = f"{_SEED}{seed % _MOST_SEED}"
    return found


def command(argv: Sequence[str]) -> list[str]:
    """The process of an engine; ``python3 -m`` works with every version, ``sglang serve`` not."""
    return ["python3", "-m", "sglang.launch_server", *argv]


def render(request: EngineRequest) -> Arguments:
    """One engine's command line, with every problem of the request; never raises."""
    given, problems = aliases.normalise(request.strategy_config, schema.nearest(request.version))
    for rule in RULES:
        problems += rule(request, given)
    sizes = topology.parallelism(given, request.gpus, request.nodes)
    given.values |= {"tp_size": sizes.tp, "pp_size": sizes.pp if sizes.pp > 1 else None}
    problems += _together(request, given)
    return Arguments(
        argv=(*_flags(request, given), *request.extra_args),
        load_format=str(given.values.get("load_format", DEFAULT_LOAD_FORMAT)),
        tp_size=sizes.tp,
        pp_size=sizes.pp,
        mem_fraction_static=_number(given.values.get("mem_fraction_static")),
        problems=(*problems, *sizes.problems),
    )


def _together(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    known = schema.nearest(request.version)
    exact = request.version_known and known.version == request.version
    yield from combinations.check(given, known, exact, request.extra_args)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _flags(request: EngineRequest, given: aliases.Given) -> Iterator[str]:
    known = schema.nearest(request.version)
    groups = _key_references(request)
    for key, value in given.values.items():
        argument = known.argument(key)
        if argument is not None:
            groups[argument.flag] = values.argument_tokens(argument, value)
        else:
            flag = aliases.flag(key)
            groups[flag] = values.tokens(flag, value)
    for flag in sorted(groups):
        yield from groups[flag]


def _key_references(request: EngineRequest) -> dict[str, tuple[str, ...]]:
    """Keys by reference: the kubelet fills them in from the container's environment."""
    keys = (
        ("--api-key", API_KEY_VARIABLE, request.has_api_key),
        ("--admin-api-key", ADMIN_API_KEY_VARIABLE, request.has_admin_api_key),
    )
    return {flag: (f"{flag}=$({variable})",) for flag, variable, wanted in keys if wanted}


def _owned(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    yield from ownership.refuse(given)
    known = schema.nearest(request.version)
    exact = request.version_known and known.version == request.version
    yield from extra_arguments.check(request.extra_args, known, exact)


def _decided(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """What ROLL overwrites in silence, in the words of the fields that decide it."""
    dtype = given.values.get("dtype")
    if isinstance(dtype, str) and dtype in DTYPES:
        given.values["dtype"] = DTYPES[dtype]
    wanted = request.dtype if isinstance(request.dtype, str) else DEFAULT_DTYPE
    decisions: dict[str, tuple[object, str]] = {
        "port": (request.port, "network.port"),
        "dtype": (DTYPES.get(wanted, DTYPES[DEFAULT_DTYPE]), "model_args.dtype"),
        "random_seed": (request.seed, "seed"),
        "enable_return_routed_experts": (_replays(request), "router_replay.mode"),
    }
    yield from ownership.override(
        given,
        {
            key: ownership.ArgumentDecision(value=value, owner=owner)
            for key, (value, owner) in decisions.items()
        },
    )


def _replays(request: EngineRequest) -> bool:
    return request.router_replay_mode == "R3"


def _writable(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """Drop values that no command line can carry, so that later rules need not mind them."""
    known = schema.nearest(request.version)
    for key, value in list(given.values.items()):
        argument = known.argument(key)
        as_json = argument is not None and argument.is_json
        problem = values.problem(given.path(key), given.spelling(key), value, as_json=as_json)
        if problem is not None:
            if key in given.spelled:  # else it is told at the field that decides it
                yield problem
            del given.values[key]


def _checked(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    known = schema.nearest(request.version)
    exact = request.version_known and known.version == request.version
    yield from checking.check(given, known, exact, _OWN_RULES)


def _spelled(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    yield from aliases.respelt(given)


def _tls(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    yield from ownership.refuse_tls(given)


def _model(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    path = "spec.model_args.model_name_or_path"
    if request.model is None or not request.model.strip():
        yield errors.MODEL_MISSING(path)
        return
    problem = values.problem(path, "model_name_or_path", request.model)
    if problem is not None:
        yield problem
    else:
        given.values["model_path"] = request.model


def _dtype(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    if request.dtype is None or request.dtype in tuple(DTYPES):
        return
    row = errors.UNRESOLVED if values.unresolved(request.dtype) else errors.MODEL_DTYPE
    yield row("spec.model_args.dtype", found=errors.word(request.dtype))


def _switches(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """Arguments known to be flags are true or false."""
    for key in _SWITCHES:
        value = given.values.get(key)
        if value is not None and not isinstance(value, bool):
            yield aliases.wrong_value(given, key, "true or false", "correct it")
            del given.values[key]


def _own(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """What the operator says itself, and ROLL's defaults under what the user says."""
    saver = {_SAVER: True} if request.beside_trainer else {}
    given.values = {**DEFAULTS, **saver, **given.values}
    # SGLang listens on 127.0.0.1 unless told otherwise, where no other pod reaches it.
    given.values["host"] = ANY_ADDRESS
    if versions.features(request.version).weight_version_flag:
        given.values["weight_version"] = SENTINEL
    if request.nodes > 1:
        port = _meeting_port(request.port)
        meeting = {
            "nnodes": request.nodes,
            "node_rank": 0,
            "dist_init_addr": f"{ANY_ADDRESS}:{port}",
        }
        given.values |= meeting
    yield from ()


def _saver(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """Engines that hold on to their memory leave their trainer none."""
    if request.beside_trainer and not given.values.get(_SAVER):
        yield errors.MEMORY_SAVER_OFF(given.path(_SAVER))


def _grpc_mode(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """ROLL's own switch, no argument: false means the HTTP server, which is what engines are."""
    if given.values.pop("grpc_mode", False):
        yield errors.GRPC_MODE(given.path("grpc_mode"))


def _memory(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    key = "mem_fraction_static"
    value = given.values.get(key)
    if value is None:
        # It is there, and its value was refused, or its name.
        if key not in given.spelled and key not in given.meant:
            yield errors.MEM_FRACTION_MISSING(given.path(key))
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        yield aliases.wrong_value(given, key, "a number above 0 and below 1", "use 0.6 to 0.85")
    elif request.tuned_mem_fraction is not None:
        given.values[key] = request.tuned_mem_fraction


def _load_format(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """The gate of a pool depends on it, so it has to be what it seems."""
    value = given.values.get("load_format")
    if value is not None and not (isinstance(value, str) and value):
        expected = "a string such as auto or dummy"
        yield aliases.wrong_value(given, "load_format", expected, "correct it")
        del given.values["load_format"]


def _router_replay(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    """R3 replays the experts that the engine chose; ROLL raises NotImplementedError for R2."""
    mode, path = request.router_replay_mode, "spec.router_replay.mode"
    if mode not in ("disable", "R3"):
        yield errors.ROUTER_REPLAY_MODE(
            path, found=errors.word(mode), advice="ROLL itself implements no other"
        )
    elif mode == "R3" and not versions.features(request.version).return_routed_experts:
        yield errors.ROUTER_REPLAY_VERSION(
            path, version=request.version, needed=versions.ROUTED_EXPERTS_SINCE
        )


def _keys(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    if request.has_admin_api_key and not versions.features(request.version).admin_api_key:
        yield errors.ARGUMENT_VERSION(
            "spec.security.adminApiKey",
            key="admin_api_key",
            needed=versions.ADMIN_API_KEY_SINCE,
            version=request.version,
            advice="use apiKey, which guards everything but the probes, or a newer image",
        )


def _sampling(request: EngineRequest, given: aliases.Given) -> Iterator[errors.Problem]:
    if request.sampling is not None:
        yield from generation.set_defaults(given, request.sampling, request.version)


# The order is the specification: first what is not the user's, then what cannot be written down,
# then single arguments; ROLL's defaults come before what depends on them.
RULES: tuple[Rule, ...] = (
    _owned,
    _decided,
    _writable,
    _checked,
    _tls,
    _switches,
    _spelled,
    _own,
    _saver,
    _model,
    _dtype,
    _grpc_mode,
    _memory,
    _load_format,
    _router_replay,
    _keys,
    _sampling,
)
