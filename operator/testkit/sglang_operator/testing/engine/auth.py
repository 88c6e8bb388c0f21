"""API keys (srt/utils/auth.py; before 0.5.8 add_api_key_middleware): who may call what."""

import secrets

from sglang_operator.testing.engine.behaviour import Behaviour

# The endpoints of level ADMIN_OPTIONAL in 0.5.9 to 0.5.23, as far as this engine has them.
ADMIN = frozenset(
    {
        "/abort_request",
        "/begin_weight_update",
        "/continue_generation",
        "/destroy_weights_update_group",
        "/end_weight_update",
        "/flush_cache",
        "/get_weights_by_name",
        "/init_weights_update_group",
        "/pause_generation",
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/update_weight_version",
        "/update_weights_from_disk",
        "/update_weights_from_distributed",
        "/update_weights_from_ipc",
        "/update_weights_from_tensor",
        "/weights_checker",
    }
)


def allowed(
    behaviour: Behaviour,
    path: str,
    authorization: str,
    *,
    api_key: str | None,
    admin_api_key: str | None,
) -> bool:
    """Whether a request with this Authorization header may pass; otherwise it is 401."""
    open_to_all = ["/health", "/metrics"]
    open_to_all += ["/ready"] if behaviour.features.ready_endpoint else []
    if path.startswith(tuple(open_to_all)):
        return True
    wanted = api_key
    if behaviour.levels and path in ADMIN:
        wanted = admin_api_key or api_key
    return not wanted or _bears(behaviour, authorization, wanted)


def _bears(behaviour: Behaviour, authorization: str, key: str) -> bool:
    scheme, _, token = authorization.partition(" ")
    if behaviour.levels:
        scheme = scheme.lower().replace("bearer", "Bearer")
    return scheme == "Bearer" and secrets.compare_digest(token.encode(), key.encode())
