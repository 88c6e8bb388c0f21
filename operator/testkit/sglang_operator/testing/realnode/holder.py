"""The process that holds a plane's network namespace: it makes it ready, says so, and waits.

It runs isolated, with the standard library alone.  Its arguments are the file to write when the
network is ready, the range of Services, and the addresses that it has from the start.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Bring the loopback interface up with its addresses, and stay."""
    ready, services, *addresses = sys.argv[1:]
    commands = [
        "link set lo up",
        *(f"addr add {address}/32 dev lo" for address in addresses),
        # Without a way there a connection from here ends before it is led to a pod.
        f"route add {services} dev lo src {addresses[0]}",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
    # Pods reach each other, and Services, through this namespace.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path(ready).touch()
    signal.pause()


if __name__ == "__main__":
    main()
