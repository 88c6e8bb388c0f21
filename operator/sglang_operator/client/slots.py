"""Which GPUs a trainer's pod has, told to a pool whose engines join it there (placement Shared).

Once in each of the trainer's pods, before it waits for the pool::

    from sglang_operator.client import slots

    slots.publish("actor-infer", node_rank=0)

or, from a shell, ``python -m sglang_operator.client.slots actor-infer --node-rank 0``.  And in each
process that hands weights over as GPU memory, before engines come, ``slots.claim_numbers()``.

The pod has to say who it is: variables NODE_NAME, POD_NAME and POD_UID from its own fields
(spec.nodeName, metadata.name, metadata.uid), and the label sglang-operator.dev/trainer.
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sglang_operator.client import credentials, given, nvml, texts
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import InvalidArgument, NotReady, Unsupported
from sglang_operator.placement import entry, slots
from sglang_operator.placement.slots import Slot

WAIT_SECONDS = 600.0
PAUSE_SECONDS = 2.0
_ASK_SECONDS = 30.0
FOLDER = "/dev/shm"  # that trainer and engines share
_GIVEN = "NVIDIA_VISIBLE_DEVICES"
_OF_THE_POD = {"node": "NODE_NAME", "pod": "POD_NAME", "uid": "POD_UID"}

_LOCK_TRIES = 3
_held: dict[str, int] = {}  # locks of this process, which end with it

Source = Callable[[], Sequence[str]]


def publish(
    pool: str,
    node_rank: int | None = None,
    *,
    namespace: str | None = None,
    gpus: Sequence[str] | None = None,
    kubeconfig: str | Path | None = None,
    context: str | None = None,
    wait_seconds: float = WAIT_SECONDS,
    identity: credentials.Credentials | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Slot:
    """Tell the pool of this pod's GPUs; blocks until the operator has made a place for that.

    ``node_rank``: which of the trainer's nodes this is, by default the variable NODE_RANK.
    ``gpus``: their UUIDs in the order of the trainer's device ids, by default those that this
    container sees, as ``visible`` finds them.  Told again, the last word counts.

    Raises InvalidArgument, NotReady without a pool after ``wait_seconds``, ClusterError.
    """
    name = given.name(pool, "pool")
    slot = _slot(node_rank, gpus, environ)
    identity = identity or credentials.load(kubeconfig, context)
    where = given.optional(given.name, namespace or None, "namespace") or identity.namespace
    wait = given.seconds(wait_seconds, "wait_seconds")
    asyncio.run(_publish(identity, where, name, slot, wait))
    return slot


async def _publish(
    identity: credentials.Credentials, namespace: str, pool: str, slot: Slot, wait: float
) -> None:
    until = time.monotonic() + wait
    cluster = Cluster(identity, namespace, pool)
    try:
        while True:
            try:
                await cluster.patch_slots(slot)
                return
            except NotReady:
                if time.monotonic() + PAUSE_SECONDS > until:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        await cluster.close()


def _slot(node_rank: int | None, gpus: Sequence[str] | None, environ: Mapping[str, str]) -> Slot:
    told = {key: environ.get(name, "") for key, name in _OF_THE_POD.items()}
    missing = [_OF_THE_POD[key] for key, value in told.items() if not value]
    if missing:
        raise InvalidArgument(texts.POD_UNKNOWN.format(missing=", ".join(missing)))
    if node_rank is None:
        rank = environ.get("NODE_RANK", "")
        if not rank.isdecimal():
            raise InvalidArgument(texts.NODE_RANK_UNKNOWN.format(found=rank or "nothing"))
        node_rank = int(rank)
    found = tuple(visible(environ) if gpus is None else gpus)
    slot = Slot(node_rank=node_rank, gpus=found, user=os.getuid(), **told)
    wrong = slots.published({f"node-rank-{node_rank}": slots.written(slot)}, "slots").problems
    if wrong or not 0 <= node_rank <= _MOST_RANK:
        why = wrong[0].message if wrong else texts.NODE_RANK_UNKNOWN.format(found=node_rank)
        raise InvalidArgument(why)
    return slot


_MOST_RANK = 9999


def visible(
    environ: Mapping[str, str] = os.environ, sources: Sequence[Source] | None = None
) -> tuple[str, ...]:
    """The UUIDs of the GPUs that this container sees, in the order in which the driver counts them.

    That is the order of CUDA's ids with CUDA_DEVICE_ORDER=PCI_BUS_ID, and of equal cards without.
    What the device plugin has set (NVIDIA_VISIBLE_DEVICES) has no order, and is asked last.
    CUDA_VISIBLE_DEVICES, which Ray sets for each of its workers, is not looked at.

    Raises InvalidArgument where nobody tells.
    """
    for source in sources if sources is not None else (_by_library, _by_program):
        if found := tuple(source()):
            return found
    named = tuple(filter(None, environ.get(_GIVEN, "").split(",")))
    if named and all(each.startswith("GPU-") for each in named):
        return named
    raise InvalidArgument(texts.GPUS_UNKNOWN)


def _by_library() -> Sequence[str]:
    return tuple(nvml.uuids())


def _by_program() -> Sequence[str]:
    command = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def claim_numbers(folder: str | Path = FOLDER, number: int | None = None) -> None:
    """Keep engines that come from having process numbers near this process's own.

    Until this process ends.  ``folder`` is the one that it shares with them.  Raises Unsupported
    where an engine has them already: it, or this process, has to be started again; and where the
    lock of these numbers is another user's, or cannot be made.
    """
    span = (os.getpid() if number is None else number) // entry.SPAN
    path = str(Path(folder) / entry.LOCK.format(span=span))
    if span == 0 or path in _held:
        return  # no engine takes the first
    for _ in range(_LOCK_TRIES):
        file = _lock(path, span)
        if file is not None:
            _held[path] = file
            return
    raise Unsupported(
        texts.NUMBERS_UNLOCKED.format(path=path, error="it is removed again and again")
    )


def _lock(path: str, span: int) -> int | None:
    """The lock of a span; None: its file was removed as it was taken, so that nobody sees it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        raise Unsupported(texts.NUMBERS_UNLOCKED.format(path=path, error=error)) from error
    try:
        # Processes of a trainer do not mind each other.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        folder = Path(path).parent
        raise Unsupported(texts.NUMBERS_TAKEN.format(folder=folder, span=span)) from error
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file), os.lstat(path)):
            return file
    os.close(file)
    return None


def engines_hold(folder: str | Path) -> bool:
    """Whether an engine has process numbers by a lock in this folder: then it shares it."""
    for path in Path(folder).glob(entry.LOCK.format(span="*")):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except PermissionError:
            return True  # of another user, who may not be asked
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as the trainer's own are
        except OSError:
            return True
        finally:
            os.close(file)
    return False


def main(arguments: Sequence[str]) -> int:
    """The same from a shell; 0."""
    parser = argparse.ArgumentParser(prog="python -m sglang_operator.client.slots")
    parser.add_argument("pool")
    parser.add_argument("--namespace")
    parser.add_argument("--node-rank", type=int)
    options = parser.parse_args(arguments)
    slot = publish(options.pool, options.node_rank, namespace=options.namespace)
    print(texts.SLOT_PUBLISHED.format(pool=options.pool, rank=slot.node_rank, gpus=len(slot.gpus)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
