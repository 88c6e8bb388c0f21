"""What NVIDIA's container runtime does before runc: who names GPUs in a variable sees them.

containerd starts ``program`` in the place of runc.  Of runc's commands it looks at ``create``
alone, and adds to the container what ``allocation`` gives for the UUIDs in its
NVIDIA_VISIBLE_DEVICES.
The variable is believed, as NVIDIA's own does by default: nobody has counted these cards.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.testing import errors, roots
from sglang_operator.testing.gpu import allocation
from sglang_operator.testing.gpu.allocation import Inventory

NAME = "nvidia"  # of the RuntimeClass and its handler
PROGRAM = "nvidia-container-runtime"
MODULE = "sglang_operator.testing.gpu.runtime"
NOBODY = ("", "void", "none")
EVERYBODY = "all"
SCRIPT = """\
#!/bin/sh
case " $* " in *" create "*)
    PYTHONPATH={path} {python} -m {module} {inventory} "$@" || exit 1 ;;
esac
exec {runc} "$@"
"""

Numbers = Callable[[str], tuple[int, int]]


def program(runc: Path, inventory: Path) -> str:
    """What containerd starts; ``inventory`` is a file of ``allocation.to_json``."""
    return SCRIPT.format(
        path=shlex.quote(roots.python_path()),
        python=shlex.quote(sys.executable),
        module=MODULE,
        inventory=shlex.quote(str(inventory)),
        runc=shlex.quote(str(runc)),
    )


def named(said: str, inventory: Inventory) -> list[str]:
    """The UUIDs that the variable names; raises KitError for those that there are not."""
    if said in NOBODY:
        return []
    wanted = list(inventory.cards) if said == EVERYBODY else said.split(",")
    if unknown := [each for each in wanted if each not in inventory.cards]:
        there = ", ".join(inventory.cards)
        raise errors.KitError(f"{allocation.VISIBLE}: no device {unknown[0]!r}; there is {there}")
    return wanted


def added(config: dict[str, Any], inventory: Inventory, numbers: Numbers) -> None:
    """Give the container what it names: device nodes, the right to use them, mounts.

    ``config`` is the OCI's; ``numbers``: major and minor of a device node of the host.  Raises
    KitError.
    """
    environ = config["process"].setdefault("env", [])
    known = {key: value for key, _, value in (each.partition("=") for each in environ)}
    if not (wanted := named(known.get(allocation.VISIBLE, ""), inventory)):
        return
    answer = allocation.allocate(inventory, wanted)
    more = {key: value for key, value in answer.variables.items() if key not in known}
    environ += [f"{key}={value}" for key, value in more.items()]
    linux = config.setdefault("linux", {})
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    for host, inside in answer.nodes:
        major, minor = numbers(host)
        node = {"type": "c", "major": major, "minor": minor}
        owner = {"fileMode": 0o666, "uid": 0, "gid": 0}
        linux.setdefault("devices", []).append({"path": inside, **node, **owner})
        rules.append({"allow": True, "access": allocation.PERMISSIONS, **node})
    mounts = config.setdefault("mounts", [])
    for each in answer.mounts:
        options = ["rbind", "rprivate", "ro" if each.read_only else "rw"]
        mounts.append(
            {"source": each.host, "destination": each.inside, "type": "bind", "options": options}
        )
    # What lies in another comes after it, or would be hidden; containerd orders them so too.
    mounts.sort(key=lambda mount: len(Path(mount["destination"]).parts))


def numbers_of(node: str) -> tuple[int, int]:
    """Major and minor of a device node; raises OSError."""
    found = Path(node).stat().st_rdev
    return os.major(found), os.minor(found)


def main(arguments: Sequence[str]) -> int:
    """Change the configuration that runc is about to read; 1, with the reason in runc's log."""
    inventory = allocation.from_json(Path(arguments[0]).read_text())
    file = Path(_value(arguments, "--bundle")) / "config.json"
    try:
        config = json.loads(file.read_text())
        added(config, inventory, numbers_of)
        file.write_text(json.dumps(config))
    except (OSError, errors.KitError) as error:
        with Path(_value(arguments, "--log") or os.devnull).open("a") as log:
            log.write(json.dumps({"level": "error", "msg": str(error)}) + "\n")
        return 1
    return 0


def _value(arguments: Sequence[str], flag: str) -> str:
    """What follows a flag; empty without it."""
    return arguments[arguments.index(flag) + 1] if flag in arguments else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
