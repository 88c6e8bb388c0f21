"""The command ``weights``: the transaction on a pool's weights, by hand.

For looking, for trainers that are shell scripts, and for ending what a trainer left behind.
"""

import asyncio
import getpass
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from sglang_operator.api import bounds
from sglang_operator.api import texts as operator_texts
from sglang_operator.api.errors import InvalidError
from sglang_operator.cli import weights_status
from sglang_operator.cli.findings import one_line
from sglang_operator.client import errors, given
from sglang_operator.client.lease import LeaseObservation
from sglang_operator.client.pool import AsyncPool
from sglang_operator.client.registry import Registry
from sglang_operator.client.resetting import Left
from sglang_operator.client.turns import LOADING_SECONDS
from sglang_operator.roll import device_mapping
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.times import shown

REFUSED = 1
FAILED = 2
_HAND_SECONDS = 600
ABORT_SECONDS = 10.0
_RANGES = re.compile(r" *\d{1,6}(-\d{1,6})? *(, *\d{1,6}(-\d{1,6})? *)*")
Lines = Iterable[str]


def holder() -> str:
    """Who somebody at a terminal is on the Lease: the same from one command to the next."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user has a number, and often no name
        user = str(os.getuid())
    return f"kubectl-sglang_{user}@{socket.gethostname()}"


def run(act: Callable[[AsyncPool], Awaitable[Lines]], pool: str, **options: Any) -> Lines:
    """Do this to a pool.  Raises PoolError."""

    async def main() -> Lines:
        named = options.get("holder")
        chosen = {**options, "holder": holder() if named is None else named}
        async with AsyncPool(pool, chosen.pop("namespace"), **chosen) as opened:
            return await act(opened)

    return asyncio.run(main())


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Take the Lease, pause, and leave it to the user."""

    version: str
    epoch: str | None
    duration: int
    wait: float
    pause: bool

    async def __call__(self, pool: AsyncPool) -> Lines:
        sync = pool.sync(
            self.version,
            epoch=self.epoch,
            duration=self.duration,
            wait=self.wait,
            pause="abort" if self.pause else None,
        )
        await sync.begin()
        await sync.detach()
        state = pool.lease.seen or Transaction()  # whatever becomes of the API server, it is begun
        assert sync.registry is not None
        pauses = all(features.pause for features in sync.registry.features.values())
        paused = "paused" if pauses else "not paused"
        return [
            f"begun: {pool.holder} writes {self.version} until "
            f"{shown(state.renewed + state.duration)}; "
            f"{operator_texts.engines(len(sync.engines))} {paused}:",
            *(f"  {engine.rank} {engine.url}" for engine in sync.engines),
            f"write their weights, then: kubectl sglang weights commit {pool.name}",
        ]


@dataclass(frozen=True, kw_only=True)
class Commit:
    checkpoint: str
    pause: bool

    async def __call__(self, pool: AsyncPool) -> Lines:
        given.checkpoint(self.checkpoint)
        sync = await pool.attach(pause="abort" if self.pause else None)
        sync.checkpoint = self.checkpoint
        await sync.finish()
        engines = operator_texts.engines(len(sync.engines))
        return [f"committed {sync.version} to {engines}; their gates open"]


@dataclass(frozen=True, kw_only=True)
class Abort:
    """``gone``: whoever began the sync has ended, and writes nothing more."""

    message: str
    force: bool
    gone: bool

    async def __call__(self, pool: AsyncPool) -> Lines:
        given.text(self.message, "message", most=bounds.MAX_WORDS)
        state = await pool.transaction()
        trainer = steps.Trainer(holder=pool.holder, transaction=state.id)

        def step(current: Transaction, sight: LeaseObservation) -> Transaction:
            named = current.holder == pool.holder and not current.fenced
            # Between its commands a sync of this command line has no process; another may.
            left = named and pool.holder == holder() and not current.at_work
            quiet = self.gone or left
            if current.id == state.id and self.gone and (named or self.force):
                return steps.aborted(current, self.message, unsure=True)
            if current.id == state.id and not quiet and (named or self.force):
                return steps.ended(current, pool.holder, message=self.message, now=sight.now)
            return steps.abort(current, trainer, message=self.message)

        after = (await pool.lease.step(step, patience=ABORT_SECONDS)).state
        told = [
            f"aborted: every gate of {pool.name} closes, and paused engines stay paused; the next "
            "sync writes all weights and continues them"
        ]
        if after.fenced:
            free = shown(after.renewed + after.duration)
            told.append(
                f"{state.holder or 'its holder'} may not know yet, so it begins after {free}: it "
                f"counts on {int(after.duration)} s. If its processes have ended for certain, add "
                "--gone"
            )
        return told


@dataclass(frozen=True, kw_only=True)
class Sleep:
    tags: tuple[str, ...]
    devices: tuple[int, ...] | None

    async def __call__(self, pool: AsyncPool) -> Lines:
        freed = await pool.sleep(self.tags, devices=self.devices)
        state = pool.lease.seen or Transaction()
        released = " and ".join(state.released)
        told = [f"asleep: {operator_texts.engines(len(state.asleep))}, released: {released}"]
        if freed.gpus:
            told.append(str(freed))
        return [*told, "the others serve on"] if state.serving else told


@dataclass(frozen=True, kw_only=True)
class Wake:
    tags: tuple[str, ...]
    devices: tuple[int, ...] | None
    loading: float

    async def __call__(self, pool: AsyncPool) -> Lines:
        state = await pool.wake(self.tags, devices=self.devices, loading=self.loading)
        behind = [e for e in (await pool.engines()) if e.up and e.instance not in state.instances]
        if state.phase is Phase.COMMITTED and behind:
            count = operator_texts.engines(len(behind))
            return [
                f"awake: {count} without the weights of {state.version}, behind closed gates until "
                "they have loaded its checkpoint or a sync commits"
            ]
        if state.phase is Phase.COMMITTED:
            return [f"awake: the weights were kept, the gates of {state.version} open again"]
        if state.released:
            count = operator_texts.engines(len(state.asleep))
            return [f"still released: {' and '.join(state.released)}, of {count}"]
        if state.serving:
            return ["others that were about to sleep stay closed: wake them too"]
        if state.initial:
            return ["awake: the engines go on with the weights that they were started with"]
        return ["awake: nobody vouches for the weights; the gates stay closed until a sync commits"]


@dataclass(frozen=True, kw_only=True)
class Reset:
    groups: tuple[str, ...]
    wait: float
    force: bool

    async def __call__(self, pool: AsyncPool) -> Lines:
        before = (await pool.transaction()).groups
        left = await pool.reset(self.groups, wait=self.wait, force=self.force)
        state = await pool.transaction()
        told = [f"reset: {operator_texts.engines(len(left))}; their weights: {state.phase.value}"]
        for name in dict.fromkeys(name for each in left for name in each.groups):
            told.append(f"  {name}: left by {_ranks(e for e in left if name in e.groups)}")
        if before is not None and not before.left:
            told.append(f"  they were in the process groups of {weights_status.owner(before)}")
        if sessions := [each for each in left if each.session]:
            told.append(f"  an update was left open, and is ended: {_ranks(sessions)}")
        if ended := [each for each in left if each.ended]:
            told.append(f"  not reached, as they start or have ended: {_ranks(ended)}")
        if not any(each.groups or each.session or each.ended for each in left):
            told.append("  none was in a group of a known name, nor in an update")
        if state.phase is Phase.ABORTED:
            told.append("engines that are paused stay so: the next sync continues them")
        return told


def _ranks(which: Iterable[Left]) -> str:
    ranks = [each.engine.rank for each in which]
    noun = "engine" if len(ranks) == 1 else "engines"
    return f"{noun} {', '.join(map(str, ranks))}"


# --- what status shows


def _status(pool: str, *, as_json: bool, **options: Any) -> tuple[str, bool]:
    """What there is to know about the weights, and whether every engine is synced."""
    found: list[tuple[Registry, Transaction]] = []

    async def look(opened: AsyncPool) -> Lines:
        found.append((await opened.fresh(), await opened.transaction()))
        return ()

    run(look, pool, **options)
    registry, state = found[0]
    open_ = [engine for engine in registry.engines if weights_status.is_open(engine)]
    synced = state.phase is not Phase.SLEEPING and 0 < len(open_) == len(registry.engines)
    if as_json:
        return weights_status.as_json(registry, state), synced
    return weights_status.as_text(registry, state, len(open_)), synced


# --- the commands

F = TypeVar("F", bound=Callable[..., Any])


@click.group("weights")
def command() -> None:
    """Look at a pool's weights, and sync, put to sleep or wake its engines by hand.

    Engines are reached by their pods' addresses: run begin, commit, sleep, wake and reset where
    these can be reached, for example in a pod of the cluster. Keys are read from SGLANG_API_KEY and
    SGLANG_ADMIN_API_KEY.

    Exit codes: 0 done; 1 refused, because of another trainer or the state of the pool; 2 an error.
    """


def _kubeconfig_at_home() -> str | None:
    """kubectl goes by it in a pod, too, where trainers go by the ServiceAccount."""
    path = Path.home() / ".kube" / "config"
    return None if os.environ.get("KUBECONFIG") or not path.is_file() else str(path)


def _common(function: F) -> F:
    options = (
        click.argument("pool"),
        click.option("-n", "--namespace", help="The pool's namespace."),
        click.option("--context", help="kubectl's context."),
        click.option(
            "--kubeconfig", default=_kubeconfig_at_home, help="kubectl's configuration file."
        ),
        click.option("--holder", help="Who to be on the Lease; default: you and this host."),
        click.option("--api-key", envvar="SGLANG_API_KEY", hidden=True),
        click.option("--admin-api-key", envvar="SGLANG_ADMIN_API_KEY", hidden=True),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _run(act: Callable[[Any], Any], pool: str, options: dict[str, Any]) -> None:
    """Do this to the pool; what is refused or fails becomes a message and an exit code."""
    code = 0
    try:
        for line in run(act, pool, **options):
            click.echo(one_line(line))
    except (errors.Held, errors.NotReady, errors.StaleEpoch, errors.Expired) as error:
        click.echo(one_line(f"{type(error).__name__}: {error}"), err=True)
        code = REFUSED
    except errors.PoolError as error:
        click.echo(one_line(f"{type(error).__name__}: {error}"), err=True)
        code = REFUSED if isinstance(error, errors.Unsupported) else FAILED
    sys.exit(code)


@command.command(short_help="Phase, version, and each engine's gate.")
@_common
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def status(pool: str, output: str, **options: Any) -> None:
    """Show who holds the weights, what was committed, and which engines hold it.

    Exit codes: 0 every engine is synced; 1 not all are; 2 an error.
    """
    try:
        text, synced = _status(pool, as_json=output == "json", **options)
    except errors.PoolError as error:
        click.echo(one_line(f"{type(error).__name__}: {error}"), err=True)
        sys.exit(FAILED)
    click.echo(text)
    sys.exit(0 if synced else REFUSED)


@command.command(short_help="Take the Lease, and pause the engines.")
@_common
@click.argument("version")
@click.option("--epoch", help="Only if the engines are still those of this epoch.")
@click.option(
    "--duration",
    type=click.IntRange(10, 86400),
    default=_HAND_SECONDS,
    show_default=True,
    help="Seconds after which the sync counts as aborted: nobody renews it.",
)
@click.option("--wait", type=float, default=0, help="Seconds to wait for another trainer.")
@click.option(
    "--pause/--no-pause",
    default=True,
    help="Whether running requests are ended (they are); else engines have to be idle.",
)
def begin(
    pool: str,
    version: str,
    epoch: str | None,
    duration: int,
    wait: float,
    pause: bool,
    **options: Any,
) -> None:
    """Begin a sync to VERSION: take the Lease, pause every engine, print their addresses.

    Then write the weights with SGLang's own endpoints, and commit or abort.
    """
    sync = Begin(version=version, epoch=epoch, duration=duration, wait=wait, pause=pause)
    _run(sync, pool, options)


@command.command(short_help="Continue the engines, and open their gates.")
@_common
@click.option("--checkpoint", default="", help="A path with exactly these weights.")
@click.option("--pause/--no-pause", default=True, help="As begin was told.")
def commit(pool: str, checkpoint: str, pause: bool, **options: Any) -> None:
    """End the sync that you began: every engine holds the whole new version.

    Refused if an engine restarted since, or the time given to begin is over.
    """
    _run(Commit(checkpoint=checkpoint, pause=pause), pool, options)


@command.command(short_help="Give a sync up: every gate closes.")
@_common
@click.option("-m", "--message", default="aborted by hand", show_default=True, help="Why.")
@click.option("--force", is_flag=True, help="Also one that another trainer holds.")
@click.option("--gone", is_flag=True, help="Its process has ended: others may begin at once.")
def abort(pool: str, message: str, force: bool, gone: bool, **options: Any) -> None:
    """End a sync without a commit. Engines stay paused: what they hold may be half written."""
    _run(Abort(message=message, force=force, gone=gone), pool, options)


def _tags(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    tags = tuple(tag.strip() for tag in value.split(",") if tag.strip())
    if not tags:
        raise click.BadParameter("name at least one of SGLang's memory tags, e.g. weights,kv_cache")
    return tags


def _devices(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """GPU ids: 0-7,12 or as device_mapping has them."""
    if value is None:
        return None
    ranges = [each.partition("-") for each in value.replace(" ", "").split(",")]
    if _RANGES.fullmatch(value):  # in ROLL's words, which bound them
        value = "+".join(f"list(range({a},{int(b or a) + 1}))" for a, _, b in ranges)
    try:
        return device_mapping.parse(value)
    except InvalidError as error:
        raise click.BadParameter("expected GPU ids, e.g. 0-7,12 or list(range(0,8))") from error


@command.command(short_help="Close the gates, then release the engines' memory.")
@_common
@click.option("--tags", default="weights,kv_cache", show_default=True, callback=_tags)
@click.option(
    "--devices", callback=_devices, help="Only engines that have any of these GPU ids, e.g. 0-7."
)
def sleep(
    pool: str, tags: tuple[str, ...], devices: tuple[int, ...] | None, **options: Any
) -> None:
    """Put the engines to sleep, once no client can reach them any more.

    With --devices the other engines serve on.
    """
    _run(Sleep(tags=tags, devices=devices), pool, options)


@command.command(short_help="Resume the engines' memory.")
@_common
@click.option("--tags", default="weights,kv_cache,cuda_graph", show_default=True, callback=_tags)
@click.option(
    "--devices", callback=_devices, help="Only engines all of whose GPU ids are among these."
)
@click.option(
    "--loading",
    type=click.FloatRange(0),
    default=LOADING_SECONDS,
    show_default=True,
    help="Seconds for engines on their trainer's GPUs that are started now.",
)
def wake(
    pool: str,
    tags: tuple[str, ...],
    devices: tuple[int, ...] | None,
    loading: float,
    **options: Any,
) -> None:
    """Wake the engines. If their weights were kept, the same gates open; else sync them.

    In placement mode Shared engines that have waited for their GPUs are started, and waited for.
    """
    _run(Wake(tags=tags, devices=devices, loading=loading), pool, options)


@command.command(short_help="Let the engines leave what a trainer that is gone has left.")
@_common
@click.option("--group", "groups", multiple=True, help="A group beside the known ones; repeatable.")
@click.option("--wait", type=float, default=0, help="Seconds to wait for another trainer.")
@click.option("--force", is_flag=True, help="The trainer is gone whose groups they are.")
def reset(pool: str, groups: tuple[str, ...], wait: float, force: bool, **options: Any) -> None:
    """Let the engines leave process groups, and end an update that was left open.

    For a trainer that is started again and does not use the client: the names of its groups are
    taken as long as the engines live. Those that ROLL, slime, miles and AReaL give are known.
    Weights, gates and pauses stay as they are; a sync whose trainer is gone ends as aborted.
    A trainer by the client whose groups go is told so before its next bucket; one that was seen
    just now stands in the way, unless --force says that it is gone.
    """
    _run(Reset(groups=groups, wait=wait, force=force), pool, options)
