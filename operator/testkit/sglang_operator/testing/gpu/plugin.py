"""The device plugin's process: a thin gRPC server around ``allocation``.

It runs in the node's view of the file system; its argument is a JSON file with an Inventory.
Kubelet removes all plugins' sockets when it starts: the plugin then registers again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import allocation, messages
from sglang_operator.testing.gpu.driver import Driver

FOLDER = Path("/var/lib/kubelet/device-plugins")
KUBELET = "kubelet.sock"
HEALTH_SECONDS = 5.0
LOOK_SECONDS = 0.2
REGISTER_SECONDS = 10.0
THREADS = 8  # one is kept by each ListAndWatch


class Plugin:
    """One resource's plugin, until its process ends."""

    def __init__(self, inventory: allocation.Inventory, folder: Path = FOLDER) -> None:
        self._inventory = inventory
        self._folder = folder
        self._driver = Driver(root=Path(inventory.root))
        self._socket = folder / f"{inventory.resource.replace('/', '_')}.sock"
        self._server: Any = None
        self._seen = frozenset(inventory.cards)  # healthy until the driver says otherwise
        self._changed = threading.Condition()

    def serve(self) -> None:
        """Register with kubelet, again whenever that has started anew; for ever."""
        registered: tuple[int, int] | None = None
        looked = time.monotonic()
        while True:
            kubelet = _identity(self._folder / KUBELET)
            if kubelet is not None and kubelet != registered and self._register():
                registered = kubelet
            if time.monotonic() - looked >= HEALTH_SECONDS:
                self._look()
                looked = time.monotonic()
            time.sleep(LOOK_SECONDS)

    def _register(self) -> bool:
        self._listen()
        request = messages.RegisterRequest(
            version=messages.VERSION,
            endpoint=self._socket.name,
            resource_name=self._inventory.resource,
        )
        with grpc.insecure_channel(f"unix://{self._folder / KUBELET}") as channel:
            call = channel.unary_unary(
                f"/{messages.REGISTRATION}/Register",
                request_serializer=messages.RegisterRequest.SerializeToString,
                response_deserializer=messages.Empty.FromString,
            )
            try:
                call(request, timeout=REGISTER_SECONDS)
            except grpc.RpcError as error:
                _say(f"kubelet does not take the registration yet: {error.details()}")
                return False
        _say(f"registered {self._inventory.resource}: {', '.join(self._inventory.cards)}")
        return True

    def _listen(self) -> None:
        if self._server is not None:
            self._server.stop(grace=None)
        self._socket.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(THREADS))
        server.add_generic_rpc_handlers((self._handlers(),))
        server.add_insecure_port(f"unix://{self._socket}")
        server.start()
        self._server = server

    def _handlers(self) -> Any:
        def unary(answer: Any, request: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                answer,
                request_deserializer=request.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )

        return grpc.method_handlers_generic_handler(
            messages.PLUGIN,
            {
                "GetDevicePluginOptions": unary(
                    lambda request, context: messages.DevicePluginOptions(), messages.Empty
                ),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    self._list_and_watch,
                    request_deserializer=messages.Empty.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                ),
                "Allocate": unary(self._allocate, messages.AllocateRequest),
            },
        )

    def _look(self) -> None:
        try:
            seen = frozenset(card.uuid for card in self._driver.find_cards())
        except errors.KitError as error:
            _say(str(error))
            seen = frozenset()
        with self._changed:
            if seen != self._seen:
                _say(f"the driver shows {', '.join(sorted(seen)) or 'no card'}")
                self._seen = seen
                self._changed.notify_all()

    def _list_and_watch(self, request: Any, context: Any) -> Iterator[Any]:
        told: dict[str, str] | None = None
        while context.is_active():
            with self._changed:
                health = allocation.devices(self._inventory, self._seen)
                if health == told:
                    self._changed.wait(LOOK_SECONDS)
                    continue
            told = health
            yield messages.ListAndWatchResponse(
                devices=[{"ID": uuid, "health": state} for uuid, state in health.items()]
            )

    def _allocate(self, request: Any, context: Any) -> Any:
        try:
            answers = [
                allocation.allocate(self._inventory, list(container.devices_ids))
                for container in request.container_requests
            ]
        except errors.KitError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        _say(f"gives {[answer.variables for answer in answers]}")
        return messages.AllocateResponse(container_responses=list(map(encoded, answers)))


def encoded(answer: allocation.Answer) -> dict[str, Any]:
    """The fields of a ContainerAllocateResponse."""
    return {
        "envs": dict(answer.variables),
        "mounts": [
            {"host_path": each.host, "container_path": each.inside, "read_only": each.read_only}
            for each in answer.mounts
        ],
        "devices": [
            {"host_path": host, "container_path": inside, "permissions": allocation.PERMISSIONS}
            for host, inside in answer.nodes
        ],
    }


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Serve the inventory that the argument names."""
    Plugin(allocation.from_json(Path(sys.argv[1]).read_text())).serve()


if __name__ == "__main__":
    main()
