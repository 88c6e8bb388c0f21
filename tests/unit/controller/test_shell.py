"""kopf is started again whatever it dies of, and its end is nobody else's."""

import asyncio
import getpass
import importlib.util
import subprocess
import sys
import threading

import kopf
import pytest

from sglang_operator.backoff import Backoff
from sglang_operator.controller import shell
from sglang_operator.controller.shell import SupervisedKopf
from sglang_operator.kube.credentials import Credentials

NOWHERE = Credentials(
    server="http://127.0.0.1:9", namespace="rl", tls=None, authorization=lambda: None
)


class Dying(SupervisedKopf):
    """A shell whose kopf ends at once, in one way after another."""

    def __init__(self, ends: list[BaseException | None]) -> None:
        super().__init__(None, (), lambda namespace, version: None)  # type: ignore[arg-type]
        self.ends = ends
        self.all_over = threading.Event()

    async def _kopf(self, flag: asyncio.Event) -> None:
        if not self.ends:
            self.all_over.set()
            return
        end = self.ends.pop(0)
        if end is not None:
            raise end


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(shell, "BACKOFF", Backoff(0.0, 0.0))


def test_kopf_is_started_again_after_every_kind_of_end(at_once):
    ends = [RuntimeError("watch stream"), None, SystemExit(1), KeyboardInterrupt()]
    supervised = Dying(list(ends))
    supervised.start()
    assert supervised.all_over.wait(10)
    supervised.stop(10)
    assert supervised.starts > len(ends)
    assert not supervised._thread.is_alive()


def test_kopf_runs_under_a_uid_that_no_user_has(monkeypatch):
    """As OpenShift gives them; kopf would make itself a name of the user's."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", unknown)

    async def main() -> None:
        told_to_end = asyncio.Event()
        told_to_end.set()
        await SupervisedKopf(NOWHERE, (), lambda namespace, version: None)._kopf(told_to_end)

    asyncio.run(main())


def test_kopf_watches_the_namespaces_that_can_be_read_when_it_starts(monkeypatch):
    """One that is refused would end it, again and again."""
    given: list[tuple[str, ...]] = []
    refused: set[str] = set()

    async def operator(*, namespaces: tuple[str, ...], **_: object) -> None:
        given.append(namespaces)

    monkeypatch.setattr(kopf, "operator", operator)

    async def main() -> None:
        watcher = SupervisedKopf(
            NOWHERE, ("a", "b"), lambda namespace, version: None, lambda name: name not in refused
        )
        for refused_now in ((), ("b",), ("a", "b"), ()):
            refused.clear()
            refused.update(refused_now)
            await watcher._kopf(asyncio.Event())

    asyncio.run(main())
    assert given == [("a", "b"), ("a",), ("a", "b"), ("a", "b")]


def test_a_stop_during_the_pause_ends_it_at_once(monkeypatch):
    monkeypatch.setattr(shell, "BACKOFF", Backoff(60.0, 60.0))
    supervised = Dying([RuntimeError("once")])
    supervised.start()
    supervised.stop(10)
    assert not supervised._thread.is_alive()


def test_the_operator_starts_without_the_clients_that_kopf_would_look_for():
    """Of those that are installed: the tests' environment has ``kubernetes``."""
    assert importlib.util.find_spec("kubernetes")
    code = (
        "import sys, sglang_operator.__main__\n"
        "assert not any(name.partition('.')[0] == 'kubernetes' for name in sys.modules)\n"
        "import kubernetes"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
