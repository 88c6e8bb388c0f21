"""Whether real nodes can run on this machine, and if not, why."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

from sglang_operator.testing.realnode import cgroups

# program → the Debian package that has it
PROGRAMS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux"}
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
TRIAL = ("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true")
TRIAL_SECONDS = 10.0


def search_path() -> str:
    """PATH with the folders that an ordinary shell leaves out."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"


@functools.cache
def missing() -> str | None:
    """Why a real node cannot run here, with what would help, or None when it can."""
    return next(iter(lacking()), None)


def lacking() -> list[str]:
    """All that a real node lacks here, as far as it can be told."""
    if sys.platform != "linux":
        return [f"a real node needs Linux, this is {sys.platform}"]
    reasons = []
    if os.geteuid() != 0:
        reasons.append("a real node needs root, for namespaces, mounts and control groups")
    packages = {
        package
        for program, package in PROGRAMS.items()
        if shutil.which(program, path=search_path()) is None
    }
    if packages:
        wanted = " ".join(sorted(packages))
        reasons.append(f"programs are missing; please run: apt-get install {wanted}")
    if reason := cgroups.missing():
        reasons.append(reason)
    if not reasons and (reason := _trial()):  # without root it would only say that again
        reasons.append(reason)
    return reasons


def _trial() -> str | None:
    try:
        done = subprocess.run(
            TRIAL,
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            env={**os.environ, "PATH": search_path()},
        )
    except subprocess.TimeoutExpired:
        return f"`{' '.join(TRIAL)}` does not end"
    if done.returncode != 0:
        return f"namespaces cannot be made here: {done.stderr.strip()}"
    return None
