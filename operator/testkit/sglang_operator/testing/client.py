"""A small client of the API server for the kit's own needs, with kept connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from pathlib import Path
from typing import Any

from sglang_operator.testing import errors, ports

TIMEOUT_SECONDS = 30.0
MERGE_PATCH = "application/merge-patch+json"


class Client:
    """Sends JSON to one API server under one token; may be used from several threads."""

    def __init__(
        self, *, port: int, ca: Path, token: str, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        """Prepare for requests, each of which may take ``timeout`` seconds."""
        self._timeout = timeout
        self._port = port
        self._token = token
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._local = threading.local()
        self._open: list[http.client.HTTPSConnection] = []

    def get(self, path: str) -> Any:
        """GET; raises ApiError, or OSError when the server does not answer."""
        return self.call("GET", path)

    def post(self, path: str, body: object) -> Any:
        """POST; raises as get does."""
        return self.call("POST", path, body)

    def merge(self, path: str, body: object) -> Any:
        """PATCH with a JSON merge patch; raises as get does."""
        return self.call("PATCH", path, body, content_type=MERGE_PATCH)

    def delete(self, path: str, *, missing_ok: bool = False) -> None:
        """DELETE; raises as get does."""
        try:
            self.call("DELETE", path)
        except errors.ApiError as error:
            if not (missing_ok and error.status == http.client.NOT_FOUND):
                raise

    def exists(self, path: str) -> bool:
        """Tell whether there is such an object; raises as get does."""
        try:
            self.get(path)
        except errors.ApiError as error:
            if error.status == http.client.NOT_FOUND:
                return False
            raise
        return True

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request and return the answer's JSON, or its text where it is none."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "User-Agent": "sglang-operator-kit"}
        if data is not None:
            headers["Content-Type"] = content_type
        status, raw = self._exchange(method, path, data, headers)
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = raw.decode(errors="replace")
        if status >= http.client.BAD_REQUEST:
            text = answer.get("message", answer) if isinstance(answer, dict) else answer
            raise errors.ApiError(status, f"{method} {path}: {status} {text}")
        return answer

    def close(self) -> None:
        """Close every connection."""
        while self._open:
            self._open.pop().close()

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        connection, reused = self._connection()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
        except (ConnectionError, ssl.SSLEOFError, http.client.HTTPException):
            self._drop(connection)
            if not reused:
                raise
            # The server closed a connection that was idle; it has not seen the request.
            return self._exchange(method, path, data, headers)
        except OSError:
            self._drop(connection)
            raise
        return response.status, response.read()

    def _connection(self) -> tuple[http.client.HTTPSConnection, bool]:
        known = getattr(self._local, "connection", None)
        if known is not None:
            return known, True
        made = http.client.HTTPSConnection(
            ports.HOST, self._port, timeout=self._timeout, context=self._tls
        )
        self._local.connection = made
        self._open.append(made)
        return made, False

    def _drop(self, connection: http.client.HTTPSConnection) -> None:
        connection.close()
        self._local.connection = None
        with contextlib.suppress(ValueError):
            self._open.remove(connection)
