"""How requests prove who they are, and what they trust: asked anew once either was refused.

A process of ours lives longer than tokens and certificates do.  One place for the operator and for
trainers.
"""

import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from sglang_operator.kube.authorization import Authorization
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.transport import HttpClient, Response, Stream

# Where TLS fails, or a certificate is refused, their files are read anew, so often at most.
TRUST_SECONDS = 10.0

Headers = Mapping[str, str]

log = logging.getLogger(__name__)


class Trust:
    """The context of TLS, of what its files held when they were read last."""

    def __init__(
        self, read: Callable[[], ssl.SSLContext], *, has_certificate: bool = False
    ) -> None:
        self.has_certificate = has_certificate
        self._read = read
        self._read_at = float("-inf")
        self.context = read()

    def anew(self, failed: ssl.SSLContext) -> bool:
        """Whether there is another now than this, with which a connection failed."""
        now = time.monotonic()
        if self.context is failed and now - self._read_at >= TRUST_SECONDS:
            self._read_at = now
            try:
                self.context = self._read()
            except (OSError, ValueError) as error:
                words = str(error) or type(error).__name__
                log.warning("certificates cannot be read (%s); the last ones are used on", words)
        return self.context is not failed


class Proof(NamedTuple):
    """With what a request was sent."""

    header: str | None
    context: ssl.SSLContext | None

    @property
    def headers(self) -> Headers:
        return {"Authorization": self.header} if self.header else {}


class Identity:
    """Of one cluster, for all connections to it."""

    def __init__(self, credentials: Credentials) -> None:
        self._authorization = Authorization(credentials.authorization, credentials.forget)
        has = credentials.has_certificate
        self.trust = Trust(credentials.tls, has_certificate=has) if credentials.tls else None

    async def request(self, send: Callable[[Headers], Awaitable[Response]]) -> Response:
        """The answer to what ``send`` sends with these headers.

        What was refused with 401 was not carried out: it is sent once more if there is a newer
        proof.  Raises CredentialsError if there never was one, and what ``send`` raises.
        """
        proof = await self.proof()
        answer = await send(proof.headers)
        if answer.status == 401 and await self.anew(proof):
            answer = await send((await self.proof()).headers)
        return answer

    @asynccontextmanager
    async def stream(
        self, server: HttpClient, target: str, headers: Headers, *, idle: float
    ) -> AsyncIterator[Stream]:
        """The same of a GET whose answer has no end."""
        proof = await self.proof()
        async with server.stream(target, {**headers, **proof.headers}, idle=idle) as answer:
            if answer.status != 401 or not await self.anew(proof):
                yield answer
                return
        proof = await self.proof()
        async with server.stream(target, {**headers, **proof.headers}, idle=idle) as answer:
            yield answer

    async def proof(self) -> Proof:
        """That of now.  Raises CredentialsError if there never was one."""
        header = await self._authorization.header()
        return Proof(header, self.trust.context if self.trust else None)

    async def anew(self, refused: Proof) -> bool:
        """Ask for another than this, which was refused: whether there is one now."""
        if await self._authorization.anew(refused.header):
            return True
        if self.trust is None or refused.context is None or not self.trust.has_certificate:
            return False
        return self.trust.anew(refused.context)
