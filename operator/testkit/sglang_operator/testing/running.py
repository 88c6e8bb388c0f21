"""What there is of a plane only while it is up: its folder, port, processes and client."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sglang_operator.testing import (
    client,
    components,
    credentials,
    datadir,
    errors,
    guard,
    ports,
    processes,
)
from sglang_operator.testing.realnode import network, relay, requirements

T = TypeVar("T")

START_SECONDS = 60.0
PROBE_SECONDS = 2.0
POLL_SECONDS = 0.05
MOST_POLL_SECONDS = 0.25
PORT_TAKEN = "address already in use"
API_RELAY = "api-relay"
MOST_REVIVALS = 10  # in a plane's life: more is a crash loop, which must be seen


class Running:
    """One plane that is up, or on the way there; ``close`` ends it."""

    def __init__(
        self, options: components.Options, *, tools: Path, keep: bool, real: bool = False
    ) -> None:
        """Make the folder and start the guard; ``real`` also makes a network."""
        datadir.sweep()
        self._revivals: int | None = None  # None while the plane starts
        self.network: network.Network | None = None
        self.data, lock = datadir.create(keep=keep)
        try:
            self.settings = _settings(options, tools=tools, data=self.data, real=real)
            components.write_files(self.settings)
            self.processes = processes.Processes(self.data, lock=lock)
            self.api = self._client(client.TIMEOUT_SECONDS)
        except BaseException:
            shutil.rmtree(self.data, ignore_errors=True)
            raise
        finally:
            os.close(lock)  # the guard holds it from here on

    @property
    def url(self) -> str:
        """The API server's address."""
        return components.url(self.settings)

    def start(self, component: str) -> None:
        """Start one component; raises PlaneError."""
        argv = components.command(component, self.settings)
        self.spawn(component, argv, components.go_environment())

    def spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Start a process where the control plane is, and return its id; raises PlaneError."""
        if self.network is not None:
            argv = self.network.wrapped(argv)
        return self.processes.start(name, argv, env)

    def start_network(self) -> None:
        """Make the plane's network, and the way to the API server from outside of it."""
        ready = self.data / "network-ready"
        path = {"PATH": requirements.search_path()}
        pid = self.processes.start(network.COMPONENT, network.holder_command(ready), path)
        self.wait(ready.exists, START_SECONDS, "the plane's network")
        self.network = network.Network(pid)
        self.relay(API_RELAY, self.settings.port, network.CONTROL_PLANE, self.settings.port)

    def relay(self, name: str, outside: int, host: str, port: int) -> None:
        """Let 127.0.0.1:outside lead to an address in the network; raises PlaneError."""
        assert self.network is not None
        arguments = [str(self.network.path), str(outside), host, str(port)]
        self.processes.start(name, [sys.executable, "-I", relay.__file__, *arguments])

    def wait_for_api(self) -> None:
        """Return when the API server is ready; raises WaitTimeoutError and PlaneError."""
        # Impatient, for somebody else may listen on a port that this API server did not get.
        with contextlib.closing(self._client(PROBE_SECONDS)) as probe:
            self.wait(lambda: _is_ready(probe), START_SECONDS, "the API server to be ready")

    def started(self) -> None:
        """Every component is up: from now on what a cluster starts again is started again."""
        self._revivals = 0

    def check(self) -> None:
        """Raise PlaneError when a component has died, PortTakenError when for its port."""
        for name, code in list(self.processes.deaths.items()):
            if PORT_TAKEN in self.processes.tail(name).lower():
                raise errors.PortTakenError(f"{name}:\n{self.processes.tail(name)}")
            if code > 0 and name in components.REVIVED and self._may_revive():
                self.start(name)
        self.processes.check()

    def _may_revive(self) -> bool:
        if self._revivals is None or self._revivals >= MOST_REVIVALS:
            return False
        self._revivals += 1
        return True

    def wait(self, predicate: Callable[[], T], timeout: float, what: str) -> T:
        """Ask until the answer is true; see ``ControlPlane.wait``."""
        begun = time.monotonic()
        deadline = begun + timeout
        while True:
            try:
                answer = predicate()
                if answer:
                    return answer
                last = f"the last answer was {answer!r}"
            except (errors.CommandError, errors.ApiError, AssertionError, ConnectionError) as error:
                last = f"the last answer was {type(error).__name__}: {error}"
            self.check()
            if time.monotonic() >= deadline:
                raise errors.WaitTimeoutError(f"waited {timeout:g} s for {what}; {last}")
            time.sleep(pause_after(time.monotonic() - begun))

    def close(self) -> Path | None:
        """End every process and remove the folder; return it where it is kept."""
        self.api.close()
        self.processes.close()
        guard.remove_groups(self.data)  # unless the guard has, who may have been killed
        if (self.data / datadir.KEEP).exists():
            return self.data
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.data)
        return None

    def _client(self, timeout: float) -> client.Client:
        secrets = self.settings.secrets
        return client.Client(
            port=self.settings.port, ca=secrets.ca, token=secrets.tokens["admin"], timeout=timeout
        )


def pause_after(waited: float) -> float:
    """How long to pause before the next look of a wait: a twentieth of it so far.

    Looks are requests: twenty a second kept the API server busier than what was waited for did.
    """
    return min(max(POLL_SECONDS, waited / 20), MOST_POLL_SECONDS)


def _is_ready(probe: client.Client) -> bool:
    try:
        probe.get("/readyz")
    except (OSError, errors.ApiError):
        return False
    return True


def _settings(
    options: components.Options, *, tools: Path, data: Path, real: bool
) -> components.Settings:
    port = ports.free()
    (data / "logs").mkdir()
    secrets = credentials.create(data / "secrets")
    kubeconfigs = {
        user: credentials.write_kubeconfig(
            data / f"{user.removeprefix('system:')}.kubeconfig",
            url=f"https://{ports.HOST}:{port}",
            ca=secrets.ca,
            token=token,
            namespace="default",
        )
        for user, token in secrets.tokens.items()
    }
    return components.Settings(
        options=options,
        tools=tools,
        data=data,
        port=port,
        secrets=secrets,
        kubeconfigs=kubeconfigs,
        real=real,
    )
