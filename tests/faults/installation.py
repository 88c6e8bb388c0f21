"""What an operator is installed with goes and comes back: its token, its definition: F13, F21."""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from sglang_operator.testing import credentials, installed
from sglang_operator.testing.faults import Match, ProxiedOperator
from sglang_operator.testing.faults.rules import Reply
from tests import collecting
from tests.faults.lab import FaultPool, Lab, Result
from tests.faults.surroundings import four
from tests.faults.watches import judged_restarted

DEFINITION = (
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sglanginferences.sglang-operator.dev"
)
# A token is asked for again after ten seconds, and what was refused meanwhile is tried again.
ROTATED_SECONDS = 45.0
INVALID_SECONDS = 20.0
ABSENT_SECONDS = 6.0


def rotated_token(lab: Lab) -> Iterator[Result]:
    """F13: the token is another one from one moment to the next; and for a while none is good."""
    for name, invalid in (("at once", 0.0), (f"after {INVALID_SECONDS:g} s", INVALID_SECONDS)):

        def act(lab: Lab, pool: FaultPool, invalid: float = invalid) -> list[str]:
            return _rotate(lab, pool, invalid)

        yield judged_restarted(lab, Result(point=f"token rotated, new one {name}"), four, act)


def _rotate(lab: Lab, pool: FaultPool, invalid: float) -> list[str]:
    lab.operator.kill()
    operator = _OperatorWithTokenFile(lab)
    operator.start()
    process = operator.pid
    try:
        problems = lab.settle(pool)
        old, new = operator.token, operator.issue()
        refusal = lab.proxy.add(Match(token=old), Reply(401, "Unauthorized"))
        for stream in lab.proxy.live(Match(verbs=["watch"])):
            stream.cut()
        pool.patch(device_mapping="list(range(0,12))", replicas=6)
        time.sleep(invalid)
        operator.write(new)
        problems += lab.settle(pool, ROTATED_SECONDS)
        refused = refusal.hits
        if operator.pid != process:
            problems.append("the operator ended")
        return problems if refused else [*problems, "the old token was never refused"]
    finally:
        if operator.pid is not None:
            operator.kill()
        lab.operator.start()


class _OperatorWithTokenFile(ProxiedOperator):
    """It is given its token by a program that reads a file, and told that it expires soon."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab.plane, lab.proxy, package=lab.package)
        self._file: Path = lab.plane.data / f"{self.name}.token"
        self.token = self.issue()
        self.write(self.token)

    def issue(self) -> str:
        """Another token of the same account."""
        account = (installed.NAMESPACE, installed.ACCOUNT)
        return credentials.read_token(self._plane.service_account_kubeconfig(*account))

    def write(self, token: str) -> None:
        """From now on this token is handed out."""
        self._file.write_text(token)

    def kubeconfig(self) -> Path:
        config = yaml.safe_load(super().kubeconfig().read_text())
        program = self._file.with_suffix(".py")
        program.write_text(_PROGRAM.format(python=sys.executable, file=str(self._file)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        config["users"][0]["user"] = {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": str(program),
                "interactiveMode": "Never",
            }
        }
        path = self._file.with_suffix(".kubeconfig")
        path.write_text(json.dumps(config))
        return path


_PROGRAM = """#!{python}
import datetime, json, pathlib
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=30)
print(json.dumps({{
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {{
        "token": pathlib.Path({file!r}).read_text(),
        "expirationTimestamp": soon.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }},
}}))
"""


def reinstalled(lab: Lab) -> Iterator[Result]:
    """F21: the definition is deleted with all its pools, and installed again."""
    result = Result(point="definition deleted and installed again")
    yield judged_restarted(lab, result, four, _reinstall)


def _reinstall(lab: Lab, pool: FaultPool) -> list[str]:
    process = lab.operator.pid
    lab.plane.api.delete(DEFINITION)
    lab.wait(lambda: not lab.plane.api.exists(DEFINITION), "the definition to go", 30)
    lab.proxy.reset_counters()
    time.sleep(ABSENT_SECONDS)
    tried = lab.writes()
    problems = [f"{tried} writes without a definition"] if tried > 2 else []
    lab.operator.install()
    collecting.teach(lab.plane)
    lab.wait(lambda: not pool.all_pods(), "the old pods to be collected", 60)
    four(pool)
    problems += lab.settle(pool, 60)
    if lab.operator.pid != process:
        problems.append("the operator ended")
    return problems
