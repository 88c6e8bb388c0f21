"""The command ``diff``: what a changed object does to each engine of a live pool, and why."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from sglang_operator.api import errors
from sglang_operator.cli import check_files, check_object, findings, redaction, rollout_simulation
from sglang_operator.cli.cluster.live_pool import LivePool, Source
from sglang_operator.cli.findings import StopError
from sglang_operator.cli.options import environment
from sglang_operator.cli.pipeline.objects import Options
from sglang_operator.cli.yaml_tree.nodes import YamlNode, plain
from sglang_operator.observed import groups
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import plan as plans
from sglang_operator.pool import resolve as pools
from sglang_operator.pool import revision
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.roll import device_mapping

KEEPS, MOVES, RESTARTS, STARTS, GOES = "keeps", "moves", "restarts", "starts", "goes"
_UNTOUCHED = (KEEPS, MOVES)
_MOST_REASONS = 6


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of one engine."""

    engine: str
    devices: str
    rank: int | None  # None: it goes
    action: str
    why: str

    def line(self) -> str:
        rank = "-" if self.rank is None else str(self.rank)
        gpus = f"GPUs {self.devices}" if self.devices else "no GPU ids"
        return f"  {self.action:<9} rank {rank:<4} {self.engine:<16} {gpus:<16} {self.why}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What becomes of one pool."""

    pool: str
    changes: tuple[Change, ...]
    first_step: tuple[str, ...]
    also: tuple[str, ...]  # changed fields that touch no engine
    warnings: tuple[str, ...] = ()  # what the change will come to wait for

    @property
    def touches(self) -> bool:
        return any(change.action not in _UNTOUCHED for change in self.changes)


def compare(body: YamlNode, live: LivePool) -> Difference:
    """The object of this body over a live pool; the body is one without errors."""
    wanted = check_object.resolve(body)
    assert isinstance(wanted, Pool)
    before = pools.resolve_pool(wanted.owner, live.spec) if live.spec is not None else None
    before = before if isinstance(before, Pool) else None
    observed = Observed(pods=live.pods)
    now = max((pod.created for pod in live.pods), default=0.0)
    step = plans.plan(wanted, observed, now)
    return Difference(
        pool=f"{live.namespace}/{live.name}",
        changes=(*_wanted(wanted, before, live), *_obsolete(wanted, live)),
        first_step=(
            *(f"delete {removal.pod.name}: {removal.reason}" for removal in step.removals),
            *(f"create {create.engine.name}: {create.reason}" for create in step.creates),
        ),
        also=tuple(_also(live.spec or {}, wanted, before, body)),
        warnings=tuple(rollout_simulation.warnings(wanted, live.pods, now + 60)),
    )


def _wanted(wanted: Pool, before: Pool | None, live: LivePool) -> Iterator[Change]:
    pods = _newest(live.pods)
    ranks = {engine.name: engine.rank for engine in before.engines} if before else {}
    causes = _causes(before, wanted)
    for engine in wanted.running:
        action, why = _fate(engine, pods.get(engine.name), wanted, causes, live.pods)
        old = ranks.get(engine.name)
        if action == KEEPS and old is not None and old != engine.rank:
            action, why = MOVES, f"from rank {old}; its pod stays"
        yield Change(
            engine=engine.name,
            devices=device_mapping.describe(engine.devices),
            rank=engine.rank,
            action=action,
            why=why,
        )


def _newest(pods: Iterable[ObservedPod]) -> dict[str, Group]:
    """The pods that stand for each engine: of several tries the one in service, then the latest."""
    ordered = sorted(groups.of(pods), key=lambda each: (not each.ended, each.ready, each.attempt))
    return {group.engine: group for group in ordered}


def _fate(
    engine: Engine,
    pod: Group | None,
    wanted: Pool,
    causes: str,
    others: Iterable[ObservedPod],
) -> tuple[str, str]:
    if pod is None:
        return STARTS, _why_new(engine, wanted, others)
    if pod.ended:
        return RESTARTS, f"pod {pod.first_end.name} has ended"
    if pod.dying:
        return RESTARTS, f"pod {pod.first.name} is on its way out"
    if pod.revision == wanted.revision:
        return KEEPS, ""
    if engine.rank < wanted.spec.rollout.partition and pod.containers_ready:
        return (
            KEEPS,
            f"an older revision, held by rollout.partition {wanted.spec.rollout.partition}",
        )
    if wanted.spec.rollout.paused:
        return KEEPS, "an older revision: the rollout is paused"
    return RESTARTS, causes or f"revision {pod.revision} becomes {wanted.revision}"


def _why_new(engine: Engine, wanted: Pool, others: Iterable[ObservedPod]) -> str:
    kept = {running.name for running in wanted.running}
    holders = sorted(
        {
            pod.engine
            for pod in others
            if pod.engine not in kept and {*pod.devices} & {*engine.devices}
        }
    )
    return f"takes GPUs of {', '.join(holders)}" if holders else "has no pod"


def _obsolete(wanted: Pool, live: LivePool) -> Iterator[Change]:
    kept = {engine.name for engine in wanted.running}
    capacity = {engine.name for engine in wanted.engines}
    for name, pod in sorted(_newest(live.pods).items(), key=lambda found: found[1].devices):
        if name not in kept:
            why = _why_gone(name in capacity, wanted, pod)
            yield Change(
                engine=name,
                devices=device_mapping.describe(pod.devices),
                rank=None,
                action=GOES,
                why=why,
            )


def _why_gone(within_capacity: bool, wanted: Pool, pod: Group) -> str:
    if wanted.spec.suspend:
        return "suspend is true"
    if within_capacity:
        return f"replicas is {wanted.spec.replicas}"
    mapped = {device for engine in wanted.running for device in engine.devices}
    regrouped = bool(pod.devices) and {*pod.devices} <= mapped
    return "its GPUs are grouped otherwise" if regrouped else "device_mapping no longer names it"


# --- why


def _causes(before: Pool | None, after: Pool) -> str:
    """What in a pod differs between two versions of a pool."""
    if before is None or before.revision == after.revision:
        return ""
    old, new = _made_of(before), _made_of(after)
    found = [text for key in sorted({*old, *new}) for text in _differs(key, old, new)]
    more = f" and {len(found) - _MOST_REASONS} more" if len(found) > _MOST_REASONS else ""
    return "; ".join(found[:_MOST_REASONS]) + more


def _made_of(pool: Pool) -> dict[str, Any]:
    return revision.inputs(pool.spec, pool.image, pool.arguments.argv, pool.environment, pool.gated)


def _differs(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    was, now = old.get(key), new.get(key)
    if was == now:
        return
    if key == "args":
        yield from _arguments(was or [], now or [])
    elif key == "env":
        yield from _variables(was or {}, now or {})
    elif isinstance(was, dict) or isinstance(now, dict):
        yield f"{key} changed"
    else:
        yield f"{key} {errors.shown(was)} -> {errors.shown(now)}"


def _arguments(was: list[str], now: list[str]) -> Iterator[str]:
    """Arguments by their flag; one that is there in both has another value."""
    old, new = ([*redaction.arguments(tokens)] for tokens in (was, now))
    flags = {token.partition("=")[0] for token in new}
    for shown, raw in zip(old, was, strict=True):
        if raw not in now and shown.partition("=")[0] not in flags:
            yield f"without {errors.shown(shown)}"
    for shown, raw in zip(new, now, strict=True):
        if raw not in was:
            yield f"with {errors.shown(shown)}"


def _variables(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            verb = "without" if name not in now else "with another" if name in was else "with"
            yield f"{verb} {name}"


def _also(
    live: Mapping[str, Any], wanted: Pool, before: Pool | None, body: YamlNode
) -> Iterator[str]:
    """Fields whose change reaches no running engine."""
    section = body.get("spec")
    new = plain(section) if section is not None else {}
    assert isinstance(new, dict)
    same_pods = before is not None and before.revision == wanted.revision
    for key in sorted({*live, *new}) if same_pods else ():
        if live.get(key) != new.get(key) and key not in ("device_mapping", "replicas", "suspend"):
            yield f"spec.{key}"


# --- telling


def as_text(differences: list[Difference]) -> str:
    """For people."""
    lines = []
    for difference in differences:
        counts = _counts(difference)
        lines.append(f"{difference.pool}: {counts}")
        lines += [change.line() for change in difference.changes]
        lines += [f"  warning: {warning}" for warning in difference.warnings]
        if difference.also:
            lines.append(f"  changed without touching a pod: {', '.join(difference.also)}")
        if difference.first_step:
            lines.append("  the operator's first step, if the cluster stays as it is:")
            lines += [f"    {step}" for step in difference.first_step]
    return "\n".join(lines) or "no pool in the file"


def _counts(difference: Difference) -> str:
    total = dict.fromkeys((KEEPS, MOVES, RESTARTS, STARTS, GOES), 0)
    for change in difference.changes:
        total[change.action] += 1
    said = [f"{count} {action}" for action, count in total.items() if count]
    return ", ".join(said) or "no engines"


def as_json(differences: list[Difference]) -> str:
    """For programs."""
    return json.dumps([dataclasses.asdict(found) for found in differences], indent=2)


# --- the command


@click.command("diff")
@click.argument("file", metavar="FILE")
@click.option(
    "--against",
    metavar="LIVE.json",
    help="The object and its pods, from kubectl get sgi,pods -o json; default: ask kubectl.",
)
@click.option("-n", "--namespace", help="Namespace, if the object does not say.")
@click.option("--context", help="kubectl's context.")
@click.option("--kubeconfig", help="kubectl's configuration file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@environment
def command(
    file: str,
    against: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    output: str,
    env: bool,
) -> None:
    """Say which engines of a live pool keep running, restart, move or go, and why.

    Exit codes, as kubectl diff: 0 no engine is touched; 1 some are; 2 errors.
    """
    judged = check_files.lint([file], sys.stdin.buffer, Options(environment=env))
    found = findings.ordered(judged.findings)
    for finding in found:
        click.echo(finding.line(), err=True)
    if findings.exit_code(found) == findings.FAILED:
        sys.exit(findings.FAILED)
    source = Source(file=against, namespace=namespace, context=context, kubeconfig=kubeconfig)
    try:
        differences = [compare(body, source.pool(body)) for body in judged.pools]
    except StopError as stopped:
        for finding in stopped.findings:
            click.echo(finding.line(), err=True)
        sys.exit(findings.FAILED)
    click.echo(as_json(differences) if output == "json" else as_text(differences))
    sys.exit(int(any(difference.touches for difference in differences)))
