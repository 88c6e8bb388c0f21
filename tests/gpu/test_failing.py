"""Engines that cannot start, on a real GPU: the status says why, and what to do."""

import contextlib
import subprocess
import sys
from typing import Any

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.engine import endings
from sglang_operator.testing import errors
from sglang_operator.testing.gpu import pool, story

pytestmark = pytest.mark.gpu1

FAILED_SECONDS = 200.0

# name -> settings, the reason that is told, and a word of the advice
FAILURES: dict[str, tuple[dict[str, Any], set[str], str]] = {
    "wrong-path": ({"load_format": "auto"}, {"ModelNotFound"}, "model_name_or_path"),
    "too-high": (
        {"mem_fraction_static": 0.9999},
        {"CUDAOutOfMemory", endings.CUDA_ERROR},
        "lower mem_fraction_static",
    ),
    "port-taken": ({}, {"PortInUse"}, "network.port"),
}
PORT = 30000
RUNS_SECONDS = 60.0
# Another server in the engine's network, as on a host: it answers all that it is asked.  One that
# kept silent would be asked by SGLang's warm-up for minutes, before the engine ends.
LISTENER = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{{}}")
    do_POST = do_GET
http.server.HTTPServer(("", {PORT}), Handler).serve_forever()
"""


@pytest.mark.parametrize("name", FAILURES)
def test_a_pool_that_cannot_start_says_why_and_what_to_do(room, figures, name):
    config, reasons, advice = FAILURES[name]
    manifest = room.manifest(name, **config)
    if name == "wrong-path":
        manifest = manifest.replace(pool.BASE, f"{pool.MODELS}/absent")
    if name == "port-taken" and room.stand_in:
        manifest = slow(manifest)
    room.make_way()
    room.plane.kubectl("apply", "-f", "-", input=manifest)
    taken = port_taken(room, name) if name == "port-taken" else contextlib.nullcontext()
    try:
        with taken:
            failure = room.wait(
                lambda: next(iter(room.failures(name)), None), FAILED_SECONDS, "the pool to tell"
            )
    except errors.WaitTimeoutError:
        label = f"{names.LABEL_POOL}={name}"
        for shown in (
            ("logs", "--tail=80", "-l", label),
            ("get", "pods", "-o", "yaml", "-l", label),
        ):
            print(room.plane.kubectl(*shown, check=False).stdout)
        raise
    finally:
        room.plane.kubectl("delete", "sgi", name, "--wait=false", "--ignore-not-found")
    figures["told"] = failure
    assert failure["reason"] in reasons
    assert advice in failure["advice"]


def slow(manifest):
    """A stand-in that takes its time, as engines do, before it listens."""
    made = yaml.safe_load(manifest)
    template = made["spec"].setdefault("podTemplate", {}).setdefault("spec", {})
    variable = {"name": "FAKE_SGLANG_LOAD_SECONDS", "value": "10"}
    template["containers"] = [{"name": names.ENGINE_CONTAINER, "env": [variable]}]
    return yaml.safe_dump(made, sort_keys=False)


@contextlib.contextmanager
def port_taken(room, name):
    """Another server has the engine's port, in its network, before the engine does."""

    def process():
        for each in room.pods(name):
            states = each["status"].get("containerStatuses") or [{}]
            if "running" in states[0].get("state", {}):  # before, it has no network of its own
                return next(iter(dict(story.processes(each["metadata"]["uid"]))), None)
        return None

    pid = room.wait(process, RUNS_SECONDS, "a process of the engine")
    entered = ["nsenter", f"--target={pid}", "--net", sys.executable, "-c", LISTENER]
    with subprocess.Popen(entered) as listener:
        try:
            yield
        finally:
            listener.kill()
