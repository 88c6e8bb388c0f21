"""Reading a request's JSON as FastAPI does for SGLang: fields that are missing are an error."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sglang_operator.testing.engine.behaviour import Behaviour

_KINDS: Mapping[type, str] = {
    str: "a valid string",
    int: "a valid integer",
    list: "a valid list",
    dict: "a valid dictionary",
}


def invalid(behaviour: Behaviour, where: str, message: str, kind: str) -> web.HTTPException:
    """The answer to JSON that does not fit: 400 in SGLang's form; before 0.4.10 FastAPI's 422."""
    error = {"type": kind, "loc": ["body", *([where] if where else [])], "msg": message}
    if behaviour.invalid_status == 422:
        text = json.dumps({"detail": [error]})
        return web.HTTPUnprocessableEntity(text=text, content_type="application/json")
    body = {
        "object": "error",
        "message": f"1 validation error:\n  {error} [{error}]",
        "type": "Bad Request",
        "param": None,
        "code": 400,
    }
    return web.HTTPBadRequest(text=json.dumps(body), content_type="application/json")


async def read(
    request: web.Request,
    behaviour: Behaviour,
    required: Mapping[str, type] | None = None,
    *,
    optional: bool = False,
) -> dict[str, Any]:
    """The body, with these fields of these types; ``optional``: none at all will do.

    Raises the HTTP error that SGLang answers otherwise.
    """
    raw = await request.read()
    if not raw:
        if optional:
            return {}
        raise invalid(behaviour, "", "Field required", "missing")
    try:
        body = json.loads(raw)
    except ValueError:
        raise invalid(behaviour, "", "JSON decode error", "json_invalid") from None
    if not isinstance(body, dict):
        raise invalid(behaviour, "", "Input should be a valid dictionary", "dict_type")
    for name, kind in (required or {}).items():
        if name not in body:
            raise invalid(behaviour, name, "Field required", "missing")
        if kind is int and isinstance(body[name], str) and body[name].strip().isdecimal():
            body[name] = int(body[name])  # as pydantic reads it, and AReaL sends its port
        if not isinstance(body[name], kind):
            raise invalid(behaviour, name, f"Input should be {_KINDS[kind]}", "type")
    return body


def refused(message: str) -> web.Response:
    """What SGLang answers to a request that it cannot do: 400 and the text."""
    return web.json_response({"error": {"message": message}}, status=400)


def outcome(success: bool, message: str, **more: object) -> web.Response:
    """What SGLang answers to commands of trainers."""
    body = {"success": success, "message": message, **more}
    return web.json_response(body, status=200 if success else 400)
