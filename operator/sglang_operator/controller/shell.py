"""kopf beside the loop: its events on the custom resource are hints that wake a pool.

kopf runs in a thread and event loop of its own, because at its end it cancels every task of the
loop it ran in, and it does end: on a 401, on an error in its watch stream, on an HTTP 410
(explanation/kubernetes.md).  It is then started again; reconciling goes on meanwhile.  It is given
one handler that returns nothing, so it never writes.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import kopf

from sglang_operator import supervision
from sglang_operator.api import names
from sglang_operator.cluster.connection import Connection

BACKOFF_SECONDS = (1.0, 30.0)
# A run this long was a good one: the next failure begins with the shortest pause again.
GOOD_RUN_SECONDS = 60.0
# kopf gives up on credentials that fail once unless the next login brings different ones.
CREDENTIALS_SECONDS = 600

log = logging.getLogger(__name__)

Hint = Callable[[str, str], None]


class Shell:
    """kopf, supervised.  ``hint`` is called in kopf's thread with namespace and name."""

    def __init__(self, connection: Connection, namespaces: tuple[str, ...], hint: Hint) -> None:
        self._connection = connection
        self._namespaces = namespaces
        self._hint = hint
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
        pause, most = BACKOFF_SECONDS
        while not self._stop.is_set():
            self.starts += 1
            begun = datetime.now(UTC)
            try:
                asyncio.run(self._run())
            except BaseException as error:  # whatever it is, kopf is started again
                # It gives up on a 401, an error in a stream or a 410: that is known of it.
                supervision.FAILURES["kopf"] += 1
                log.warning("kopf ended: %s: %s", type(error).__name__, error, exc_info=error)
            if self._stop.is_set():
                return
            ran = (datetime.now(UTC) - begun).total_seconds()
            pause = BACKOFF_SECONDS[0] if ran > GOOD_RUN_SECONDS else min(pause * 2, most)
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
            namespaces=self._namespaces,
            stop_flag=flag,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return self._credentials()

        @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
        async def seen(namespace: str | None, name: str | None, **_: Any) -> None:
            if namespace and name:
                self._hint(namespace, name)

        return registry

    def _credentials(self) -> kopf.ConnectionInfo:
        scheme, token = None, None
        if authorization := self._connection.authorization():
            scheme, _, token = authorization.partition(" ")
        return kopf.ConnectionInfo(
            server=self._connection.server,
            ca_path=self._connection.ca_file,
            insecure=not self._connection.verify,
            certificate_path=self._connection.cert_file,
            private_key_path=self._connection.key_file,
            scheme=scheme.capitalize() if scheme else None,
            token=token.strip() if token else None,
            expiration=datetime.now(UTC) + timedelta(seconds=CREDENTIALS_SECONDS),
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.consistency_timeout = 0
    settings.watching.server_timeout = 300
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    return settings
