"""Argo CD's view of a pool: the health script, run as Argo CD runs it."""

from typing import Any

from lupa import lua51

from generators.chart.generated import HEALTH


def health(found: Any) -> tuple[str, str]:
    """Status and message for a live object."""
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    # Argo CD opens the basic library, tables and strings, and no others.
    runtime.execute("os, io, package, require, dofile, loadfile, debug = nil")
    runtime.globals().obj = _table(runtime, found)
    answer = runtime.execute(HEALTH.read_text())
    return answer["status"], answer["message"]


def _table(runtime: Any, found: Any) -> Any:
    """JSON as Lua tables."""
    if isinstance(found, dict):
        return runtime.table_from({key: _table(runtime, value) for key, value in found.items()})
    if isinstance(found, list):
        return runtime.table_from([_table(runtime, value) for value in found])
    return found
