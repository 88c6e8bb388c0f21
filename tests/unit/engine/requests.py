"""Requests for engines, as short as the tests want them."""

from sglang_operator.engine import arguments, versions

ROLL_GUIDE = {"mem_fraction_static": 0.7, "load_format": "dummy"}


def request(config=None, *, version="0.5.7", **changes):
    """The example of ROLL's guide to SGLang with these changes."""
    fields = {
        "model": "Qwen/Qwen3-30B-A3B-Base",
        "dtype": "bf16",
        "strategy_config": ROLL_GUIDE if config is None else config,
        "gpus": 2,
        "seed": 42,
        "router_replay_mode": "disable",
        "sampling": None,
        "extra_args": (),
        "port": 30000,
        "version": versions.parse(version),
        "has_api_key": False,
        "has_admin_api_key": False,
    }
    return arguments.EngineRequest(**{**fields, **changes})


def render(config=None, **changes):
    return arguments.render(request(config, **changes))


def added(config=None, **changes):
    """What a request renders beyond the ROLL guide's example, in order."""
    guide = render().argv
    config = {**ROLL_GUIDE, **(config or {})}
    return [token for token in render(config, **changes).argv if token not in guide]


def problems(config=None, **changes):
    return render({**ROLL_GUIDE, **(config or {})}, **changes).problems


def only_problem(config=None, **changes):
    (problem,) = problems(config, **changes)
    return problem
