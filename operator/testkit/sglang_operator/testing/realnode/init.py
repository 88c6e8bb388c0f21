"""The first process of a node: it makes the node's file system, then keeps its daemons running.

It is started in a PID and a mount namespace of its own, inside the plane's network, and everything
on the node descends from it.  It runs isolated, with the standard library alone; its argument is a
JSON file (see ``files.init``).  What Kubernetes' programs insist on writing outside of the
folders they are told, they write into memory that only this node sees.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MS_BIND, MS_REC, MS_SHARED = 0x1000, 0x4000, 0x100000
RESTART_SECONDS = 0.3
SOCKET_SECONDS = 30.0
POLL_SECONDS = 0.02

# kubelet sets these for the whole machine; it finds files that hold what it wants already.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {kind or source} on {target}: {os.strerror(number)}")


def file_system() -> None:
    """Put this node's own over the places that are written to whatever one configures."""
    mount("", "/", flags=MS_SHARED | MS_REC)  # within this namespace, for kubelet's volumes
    mount("tmpfs", "/run", "tmpfs")
    mount("tmpfs", "/var/log", "tmpfs")
    upper, work = Path("/run/node/upper"), Path("/run/node/work")
    upper.mkdir(parents=True)
    work.mkdir()
    mount(
        "overlay", "/var/lib", "overlay", data=f"lowerdir=/var/lib,upperdir={upper},workdir={work}"
    )
    for number, (name, value) in enumerate(SYSCTLS.items()):
        target = Path("/proc/sys") / name
        if target.exists():
            file = Path(f"/run/node/sysctl-{number}")
            file.write_text(value + "\n")
            mount(str(file), str(target), flags=MS_BIND)


class Daemons:
    """containerd and kubelet, each started again when it ends, as systemd would."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.pids: dict[int, str] = {}

    def start(self, name: str) -> None:
        """Start one daemon with its output appended to its log."""
        daemon = self.config["daemons"][name]
        with Path(daemon["log"]).open("ab") as log:
            process = subprocess.Popen(
                daemon["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.config["env"]},
                start_new_session=True,
            )
        process.returncode = 0  # it is waited for below, with everybody's orphans
        self.pids[process.pid] = name

    def tend(self) -> None:
        """Collect whatever ends on the node, for ever."""
        while True:
            pid, _ = os.waitpid(-1, 0)
            name = self.pids.pop(pid, None)
            if name is not None:
                time.sleep(RESTART_SECONDS)
                self.start(name)


def await_socket(path: str) -> None:
    """Return when somebody listens there; raises TimeoutError."""
    deadline = time.monotonic() + SOCKET_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"nobody listens on {path}") from None
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Be the node."""
    config = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    socket.sethostname(config["name"])
    file_system()
    subprocess.run(["ip", "addr", "replace", f"{config['address']}/32", "dev", "lo"], check=True)
    daemons = Daemons(config)
    daemons.start("containerd")
    await_socket(config["socket"])
    daemons.start("kubelet")
    daemons.tend()


if __name__ == "__main__":
    main()
