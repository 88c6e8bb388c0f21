"""The command ``logs``: all engines of a pool as one log, after what failed last."""

import heapq
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from urllib.parse import urlencode

import click

from sglang_operator.api import names
from sglang_operator.cli import texts
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.cli.findings import one_line
from sglang_operator.cli.options import OK, complete_pool, duration, ends, where
from sglang_operator.kube import paths
from sglang_operator.observed.model import ObservedPod
from sglang_operator.view.cluster_view import PoolView


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which part of which logs."""

    tail: int = 20
    since: int | None = None  # seconds
    engines: tuple[str, ...] = ()
    previous: bool = False


def select(pool: PoolView, wanted: Wanted) -> list[ObservedPod]:
    """The pods whose logs are meant, by engine.  Raises :class:`ClusterError`."""
    found = sorted(pool.pods, key=lambda pod: (pod.devices, pod.engine, pod.attempt))
    if not wanted.engines:
        return found
    known = {pod.engine for pod in found}
    missing = [engine for engine in wanted.engines if engine not in known]
    if missing:
        detail = texts.NO_SUCH_ENGINE.format(engine=missing[0], known=", ".join(sorted(known)))
        raise ClusterError("kubectl sglang logs", detail, Why.NOT_FOUND)
    return [pod for pod in found if pod.engine in wanted.engines]


def last_failures(pool: PoolView) -> Iterator[str]:
    """What the operator remembers, the latest failure first: their pods may be gone."""
    remembered = pool.record.status.get("lastFailures", [])
    for entry in sorted(remembered, key=lambda entry: str(entry["lastTime"]), reverse=True):
        engines = ", ".join(entry.get("engines", [])[:5])
        of = f" (pod {entry['pod']})" if entry.get("pod") else ""
        yield f"✘ {entry['lastTime']} {entry['reason']} on {one_line(engines)}{of}"
        for line in str(entry["message"]).splitlines():
            yield f"    {one_line(line)}"
        if entry.get("advice"):
            yield f"  → {one_line(entry['advice'])}"


def failed(
    cluster: Cluster, pool: PoolView, pods: Sequence[ObservedPod], wanted: Wanted
) -> Iterator[str]:
    """The last lines of engines that ended or were started again, the latest first."""
    ended = [
        (pod, pod.last_termination is not None and not pod.ended)
        for pod in pods
        if pod.ended or pod.last_termination is not None
    ]
    ended.sort(key=lambda found: _ended_at(found[0]), reverse=True)
    commands = {
        f"{number}": ["get", "--raw", _path(pool.namespace, pod, wanted, previous=previous)]
        for number, (pod, previous) in enumerate(ended)
    }
    answers = cluster.run_all(commands)
    for number, (pod, _) in enumerate(ended):
        yield f"--- {pod.name} ended"
        yield from _lines(answers[f"{number}"])


def _ended_at(pod: ObservedPod) -> float:
    last = pod.termination or pod.last_termination
    return last.finished if last else pod.ended_at


def merged(
    cluster: Cluster, pool: PoolView, pods: Sequence[ObservedPod], wanted: Wanted
) -> Iterator[str]:
    """The logs of all that run, in the order of their times, each line after its engine's name."""
    running = [pod for pod in pods if not pod.ended]
    commands = {
        pod.name: ["get", "--raw", _path(pool.namespace, pod, wanted, previous=wanted.previous)]
        for pod in running
    }
    answers = cluster.run_all(commands)
    width = max((len(pod.engine) for pod in running), default=0)
    streams = [_stamped(answers[pod.name], pod.engine, width) for pod in running]
    for _, line in heapq.merge(*streams, key=lambda found: found[0]):
        yield line


def _stamped(answer: bytes | ClusterError, engine: str, width: int) -> Iterator[tuple[str, str]]:
    """Time and line; a line without a time belongs to the one before it."""
    last = ""
    for line in _lines(answer):
        stamp, _, rest = line.partition(" ")
        dated = stamp[:4].isdecimal() and "T" in stamp
        last = stamp if dated else last
        yield last, f"{engine:<{width}} | {rest if dated else line}"


def _lines(answer: bytes | ClusterError) -> Iterator[str]:
    if isinstance(answer, ClusterError):
        yield texts.NO_LOG.format(detail=one_line(answer.detail))
        return
    for line in answer.decode(errors="replace").splitlines():
        yield one_line(line)


def _path(namespace: str, pod: ObservedPod, wanted: Wanted, *, previous: bool) -> str:
    query = {"container": names.ENGINE_CONTAINER, "timestamps": "true"}
    if wanted.tail >= 0:
        query["tailLines"] = str(wanted.tail)
    if wanted.since is not None:
        query["sinceSeconds"] = str(wanted.since)
    if previous:
        query["previous"] = "true"
    return f"{paths.pod(namespace, pod.name)}/log?{urlencode(query)}"


# --- following


def follow(
    cluster: Cluster,
    pool: PoolView,
    pods: Sequence[ObservedPod],
    wanted: Wanted,
    tell: Callable[[str], None],
) -> None:
    """Lines as they come, until all engines have ended or somebody interrupts."""
    running = [pod for pod in pods if not pod.ended]
    width = max((len(pod.engine) for pod in running), default=0)
    lines: Queue[str | None] = Queue(maxsize=10_000)
    with ExitStack() as stack:
        for pod in running:
            process = subprocess.Popen(
                cluster.command(_follow(pool.namespace, pod, wanted)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            prefix = f"{pod.engine:<{width}} | "
            Thread(target=_copy, args=(process, prefix, lines), daemon=True).start()
        left = len(running)
        while left:
            line = lines.get()
            if line is None:
                left -= 1
            else:
                tell(line)


def _follow(namespace: str, pod: ObservedPod, wanted: Wanted) -> list[str]:
    command = ["logs", "--follow", pod.name, "--namespace", namespace]
    command += ["--container", names.ENGINE_CONTAINER, f"--tail={wanted.tail}"]
    return [*command, f"--since={wanted.since}s"] if wanted.since is not None else command


def _copy(process: "subprocess.Popen[bytes]", prefix: str, lines: "Queue[str | None]") -> None:
    assert process.stdout is not None
    for raw in process.stdout:
        lines.put(prefix + one_line(raw.decode(errors="replace").rstrip("\n")))
    lines.put(None)


# --- the command


@click.command("logs")
@click.argument("pool", shell_complete=complete_pool)
@click.option("--tail", default=20, help="Lines of each engine; -1: all.")
@click.option("--since", help="Only lines newer than this, such as 5m.")
@click.option("--engine", "engines", multiple=True, help="Only this engine, such as g0-1.")
@click.option("--failed", "only_failed", is_flag=True, help="Only what failed.")
@click.option("-p", "--previous", is_flag=True, help="Of the container before a restart in place.")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with lines as they come.")
@where
@ends
def command(
    cluster: Cluster,
    pool: str,
    tail: int,
    since: str | None,
    engines: tuple[str, ...],
    only_failed: bool,
    previous: bool,
    following: bool,
) -> int:
    """Show what failed last and why, then the logs of all engines in the order of their times.

    A failure is told from the pool's status also when its pod is gone.

    Exit codes: 0 shown; 2 errors.
    """
    try:
        newer = duration(since) if since else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    seen = look.look(cluster, [pool], nodes=False).pools[0]
    wanted = Wanted(tail=tail, since=newer, engines=engines, previous=previous)
    pods = select(seen, wanted)
    for line in last_failures(seen):
        click.echo(line)
    for line in failed(cluster, seen, pods, wanted):
        click.echo(line)
    if only_failed:
        return OK
    if following:
        try:
            follow(cluster, seen, pods, wanted, click.echo)
        except KeyboardInterrupt:
            click.echo("", err=True)
        return OK
    for line in merged(cluster, seen, pods, wanted):
        click.echo(line)
    return OK
