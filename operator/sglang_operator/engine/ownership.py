"""Arguments that are not the user's to set here (explanation/roll.md, rule 2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import aliases

_TOPOLOGY = "the operator places engines by device_mapping and num_gpus_per_worker"
_PYTHON_ONLY = "it takes a Python object, which no command line can carry"
_ONE_COMMAND_LINE = "write its keys into strategy_config"

# Refused.  ROLL overwrites model_path, host, nnodes, node_rank and dist_init_addr in silence.
OWNED: Mapping[str, str] = {
    "model_path": "write model_args.model_name_or_path",
    "host": "an engine listens where its pod is reached, by the family of the pod's first address",
    "nnodes": _TOPOLOGY,
    "node_rank": _TOPOLOGY,
    "dist_init_addr": _TOPOLOGY,
    "base_gpu_id": "the pod sees only the GPUs of its engine",
    "gpu_id_step": "the pod sees only the GPUs of its engine",
    "config": _ONE_COMMAND_LINE,
    "use_ray": "the operator starts engines, not Ray",
    "custom_sigquit_handler": _PYTHON_ONLY,
    "stat_loggers": _PYTHON_ONLY,
    "smg_grpc_mode": "engines are reached over HTTP",
    "api_key": "name a Secret in security.apiKey",
    "admin_api_key": "name a Secret in security.adminApiKey",
    "weight_version": "every engine starts as unsynced, and trainers set it",
}
# Refused.  A password would stand in clear on the command line besides, for all who may read pods.
TLS = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_keyfile_password", "enable_ssl_refresh")
# Not to be set behind the operator's back: it decides by these, or sets them by other fields.
DECIDES_BY: Mapping[str, str] = {
    **OWNED,
    "port": "write network.port",
    "load_format": "write it into strategy_config",
    "tp_size": "write it into strategy_config",
    "pp_size": "write it into strategy_config",
    "dp_size": "write it into strategy_config",
    **dict.fromkeys(TLS, "engines are reached over plain HTTP"),
}


@dataclass(frozen=True, kw_only=True)
class ArgumentDecision:
    """A value that another field of the object decides, and that field."""

    value: object
    owner: str


def refuse(given: aliases.Given) -> Iterator[errors.Problem]:
    """Take the operator's own arguments out, each with advice on where to say it instead."""
    for key in sorted(given.values.keys() & OWNED.keys()):
        # A key in the wrong place is still a secret: it is not repeated.
        found = aliases.shown(key, given.values[key])
        yield errors.ARGUMENT_OWNED(
            given.path(key), key=given.spelling(key), found=found, advice=OWNED[key]
        )
        del given.values[key]


def refuse_tls(given: aliases.Given) -> Iterator[errors.Problem]:
    """Take out what would make an engine answer nobody who knows it by plain HTTP."""
    for key in TLS:
        value = given.values.pop(key, None)
        if value not in (None, False):
            found = aliases.shown(key, value)
            yield errors.ARGUMENT_TLS(given.path(key), key=given.spelling(key), found=found)


def override(
    given: aliases.Given, decided: Mapping[str, ArgumentDecision]
) -> Iterator[errors.Problem]:
    """Put the decided values in the place of the user's, with a warning where they differ."""
    for key, decision in decided.items():
        found = given.values.get(key)
        if found is not None and found != decision.value:
            yield errors.ARGUMENT_OVERRIDDEN(
                given.path(key),
                key=given.spelling(key),
                found=errors.typed(found),
                owner=decision.owner,
                value=errors.shown(decision.value),
            )
        given.values[key] = decision.value
