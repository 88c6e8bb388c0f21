"""kopf beside the loop: its events on the custom resource witness that ours arrive (``witness``).

kopf runs in a thread and event loop of its own, because at its end it cancels every task of the
loop it ran in, and it does end: on a 401, on an error in its watch stream, on an HTTP 410
(explanation/kubernetes.md).  It is then started again; reconciling goes on meanwhile.  It is given
one handler that returns nothing, so it never writes; of a pool it sees name and version
(``briefing``).
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import aiohttp

from sglang_operator import supervision
from sglang_operator.api import names
from sglang_operator.backoff import Backoff
from sglang_operator.clocks import steady
from sglang_operator.controller import briefing
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.identity import Identity, Proof


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Nothing that is imported here finds these, unless they have been imported before."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


# kopf knows the objects of other clients, and imports those whole wherever they are installed: a
# fourth of the operator's start, for objects that nobody gives it.
with _hidden("kubernetes", "kubernetes_asyncio", "pykube"):
    import kopf

BACKOFF = Backoff(1.0, 30.0)
# A run this long was a good one: the next failure begins with the shortest pause again.
GOOD_RUN_SECONDS = 60.0
# kopf gives up on credentials that fail once unless the next login brings different ones.
CREDENTIALS_SECONDS = 600

log = logging.getLogger(__name__)

Heard = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class Login(kopf.AiohttpSession):
    """A session with credentials.

    Two are the same if they tell the API server the same: kopf does not try again what was refused.
    """

    aiohttp_session: aiohttp.ClientSession = field(compare=False)
    expiration: datetime | None = field(default=None, compare=False)
    proof: Proof = field(repr=False)


class SupervisedKopf:
    """kopf, supervised.  ``heard`` is called in its thread: the namespace of a pool, its version.

    ``reads`` is asked there whether a namespace can be read: by one that is refused kopf ends, and
    with it what it hears of all others.
    """

    def __init__(
        self,
        credentials: Credentials,
        namespaces: tuple[str, ...],
        heard: Heard,
        reads: Callable[[str], bool] = lambda namespace: True,
    ) -> None:
        self._credentials = credentials
        self._namespaces = namespaces
        self._reads = reads
        self._heard = heard
        self._stop = threading.Event()
        # kopf's own flag, in its own loop.  A threading.Event would be waited for in a thread of
        # the loop's executor, which asyncio.run joins at the end: a dead kopf would never end.
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread = threading.Thread(target=self._supervise, name="kopf", daemon=True)
        self.starts = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ask kopf to end and wait for it, at most ``timeout`` seconds."""
        self._stop.set()
        with self._lock:
            if self._running is not None:
                loop, flag = self._running
                loop.call_soon_threadsafe(flag.set)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _supervise(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self.starts += 1
            begun = steady()
            try:
                asyncio.run(self._run())
            except BaseException as error:  # whatever it is, kopf is started again
                # It gives up on a 401, an error in a stream or a 410: that is known of it.
                supervision.FAILURES["kopf"] += 1
                log.warning("kopf ended: %s: %s", type(error).__name__, error, exc_info=error)
            if self._stop.is_set():
                return
            failures = 0 if steady() - begun > GOOD_RUN_SECONDS else failures + 1
            pause = BACKOFF.pause(failures)
            log.warning("kopf is started again in %.0f s", pause)
            self._stop.wait(pause)

    async def _run(self) -> None:
        flag = asyncio.Event()
        with self._lock:
            self._running = (asyncio.get_running_loop(), flag)
            if self._stop.is_set():
                flag.set()
        try:
            await self._kopf(flag)
        finally:
            with self._lock:
                self._running = None

    async def _kopf(self, flag: asyncio.Event) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            # Else kopf makes one of the user's name, which an arbitrary UID has none of.
            identity=cast(Any, names.FIELD_MANAGER),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._readable(),
            stop_flag=flag,
        )

    def _readable(self) -> tuple[str, ...]:
        """The namespaces that kopf watches until it is started again."""
        return tuple(filter(self._reads, self._namespaces)) or self._namespaces

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        logins = Logins(self._credentials)

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> Login:
            return await logins.another()

        @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
        async def seen(namespace: str | None, meta: kopf.Meta, **_: Any) -> None:
            version = str(meta.get("resourceVersion", ""))
            if namespace and version.isdecimal():
                self._heard(namespace, int(version))

        return registry


class Logins:
    """Those of one run of kopf, in its loop: by an identity as all other requests of ours have.

    kopf asks for another where one is refused, or is old.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._identity = Identity(credentials)
        self._last: tuple[Proof, float] | None = None

    async def another(self) -> Login:
        """One as of now; another than the last, if that was refused and there is one.

        Whoever gives it is waited for in a thread.  kopf ends if there is none: it would ask again
        only after a minute.
        """
        try:
            if self._last is not None and steady() - self._last[1] < CREDENTIALS_SECONDS:
                await self._identity.anew(self._last[0])
            proof = await self._identity.proof()
        except OSError as error:
            raise kopf.PermanentError(str(error)) from error
        self._last = proof, steady()
        return Login(
            server=self._credentials.server,
            aiohttp_session=briefing.session(self._credentials, proof),
            proof=proof,
            expiration=datetime.now(UTC) + timedelta(seconds=CREDENTIALS_SECONDS),
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.consistency_timeout = 0
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = briefing.PAGE
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    return settings
