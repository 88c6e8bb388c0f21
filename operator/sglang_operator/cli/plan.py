"""The command ``plan``: whether engines fit GPUs that nobody has taken yet."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sglang_operator.api import errors
from sglang_operator.cli import check_files, check_object, file_errors, findings, plan_report, texts
from sglang_operator.cli.findings import Finding, StopError
from sglang_operator.cli.options import (
    FAILED,
    NOT_SO,
    OK,
    cluster,
    complete_pool,
    ends,
    environment,
    show,
    tell_notes,
)
from sglang_operator.cli.pipeline import roles as roll_roles
from sglang_operator.cli.pipeline import slime, training
from sglang_operator.cli.pipeline.objects import Conversion, Options
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.plan_report import Engines, Planned, Report, Whole
from sglang_operator.cli.yaml_tree import reading as reading_files
from sglang_operator.cli.yaml_tree.nodes import Mark
from sglang_operator.engine import versions
from sglang_operator.memory import balance, cards, engine, known, settings, trainer
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import Request, Sequence
from sglang_operator.memory.known import NotKnown
from sglang_operator.memory.verdict import Outcome
from sglang_operator.pool import shared_memory
from sglang_operator.pool.resolve import Pool

_MOST_CONFIG = 10 * 2**20  # bytes of a config.json
_MOST_TOKENS = 2**31


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says."""

    cards: tuple[Card, ...]
    config: dict[str, Any] | None
    sequence: Sequence | None
    environment: bool
    version: versions.Version = versions.NEWEST_KNOWN  # where a file cannot say one
    resident: float | None = None  # GiB that others keep of each GPU; None: by the file


@dataclass(frozen=True, kw_only=True)
class Target:
    """A pool, and where it comes from."""

    pool: Pool
    mark: Mark
    role: Role | None = None
    pipeline: training.Pipeline | None = None
    conversion: Conversion | None = None


def report(judged: check_files.Judged, asked: Asked) -> Report:
    """The plan of all pools of some files, on all cards."""
    targets = [*_targets(judged, asked)]
    pools = [found for target in targets for found in _planned(target, asked)]
    wholes = [
        _whole(conversion, pools, asked)
        for _, conversion in judged.pipelines
        if conversion.root is not None and conversion.objects
    ]
    return Report(pools=pools, wholes=wholes)


_CLEAR_GIB = 2.0  # what is lacking beyond the estimates' doubt


def told(judged: check_files.Judged, gpu: str, *, env: bool) -> Iterator[Finding]:
    """The same as findings of ``lint``: an error only where it cannot fit by a clear margin."""
    asked = Asked(cards=_cards(gpu), config=None, sequence=None, environment=env)
    for target in _targets(judged, asked):
        for planned in _planned(target, asked):
            problem = _problem(planned)
            if problem is not None:
                yield Finding(mark=target.mark, problem=problem, subject=planned.name)


def _problem(planned: Planned) -> errors.Problem | None:
    found, card = planned.verdict, planned.card.name
    if isinstance(planned.plan, NotKnown):
        return file_errors.MEMORY_UNKNOWN("spec", card=card, why=planned.plan.why)
    if found is None or found.outcome is Outcome.FITS:
        return None
    lacks = found.outcome is Outcome.DOES_NOT_FIT
    clear = lacks and (found.margin == 0 or found.margin <= -_CLEAR_GIB)
    row = file_errors.MEMORY_LACKING if clear else errors.MEMORY_TIGHT
    return row("spec", card=card, verdict=found.line)


def _targets(judged: check_files.Judged, asked: Asked) -> Iterator[Target]:
    origin = {
        first + index: (conversion, converted.role)
        for first, conversion in judged.pipelines
        for index, converted in enumerate(conversion.objects)
    }
    for index, body in enumerate(judged.pools):
        pool = check_object.resolve(body)
        if not isinstance(pool, Pool):
            continue  # its errors were told
        conversion, role = origin.get(index, (None, None))
        pipeline = None
        if conversion is not None and conversion.root is not None:
            pipeline = training.Pipeline(conversion.root, environment=asked.environment)
        yield Target(pool=pool, mark=body.mark, role=role, pipeline=pipeline, conversion=conversion)


def _planned(target: Target, asked: Asked) -> Iterator[Planned]:
    pool, role = target.pool, target.role
    engines = Engines(
        name=role.name if role is not None else pool.owner.name,
        model=str(pool.spec.model_args.get("model_name_or_path") or ""),
        version=pool.version,
        gpus=pool.gpus,
        devices=tuple(each.devices for each in pool.running),
        mark=target.mark,
    )
    shm = shared_memory.size(pool.template, pool.gpus_per_pod)
    given = settings.of_argv(pool.argv, pool.version)
    length = asked.sequence or _sequence(target)
    yield from _on_cards(engines, role, given, length, _resident(target), asked, shm)


def _on_cards(
    engines: Engines,
    role: Role | None,
    given: settings.Settings,
    sequence: Sequence | None,
    resident: float,
    asked: Asked,
    shm: int | None,
) -> Iterator[Planned]:
    shape = known.shape(engines.model, engines.version, given, asked.config)
    for card in asked.cards:
        plan: engine.EnginePlan | NotKnown
        if isinstance(shape, NotKnown):
            plan = shape
        else:
            request = Request(
                shape=shape,
                card=card,
                version=engines.version,
                settings=given,
                sequence=sequence,
                resident_gib=resident if asked.resident is None else asked.resident,
            )
            plan = engine.plan(request)
        yield Planned(engines=engines, role=role, card=card, plan=plan, shared_memory=shm)


def _sequence(target: Target) -> Sequence | None:
    """As long as the pipeline's may get; of a pool alone only the response is known."""
    return target.pipeline.sequence() if target.pipeline is not None else None


def _resident(target: Target) -> float:
    """What the other roles on its GPUs keep, if ROLL would put them there."""
    if target.role is None or target.conversion is None:
        return 0.0
    others = roll_roles.overlaps(target.role, target.conversion.roles)
    return trainer.RESIDENT_GIB * len(others)


# --- the whole pipeline


def _whole(conversion: Conversion, pools: list[Planned], asked: Asked) -> Whole:
    assert conversion.root is not None
    pipeline = training.Pipeline(conversion.root, environment=asked.environment)
    trainings = [*training.trainings(pipeline, conversion.roles)]
    names = {converted.role.path for converted in conversion.objects}
    ours = [found for found in pools if found.role is not None and found.role.path in names]
    work = training.step(pipeline, conversion.roles)
    return Whole(
        roles=conversion.roles,
        pools=ours,
        trainings=trainings,
        cards=asked.cards,
        per_node=pipeline.number("num_gpus_per_node") or 8,
        balances=[*_balances(ours, work)],
    )


def _balances(
    pools: list[Planned], work: balance.TrainingStep | None
) -> Iterator[plan_report.Balances]:
    for found in pools:
        plan = found.plan
        main = found.role is not None and found.role.name in ("actor_infer", "student_infer")
        if work is None or not main or isinstance(plan, NotKnown):
            continue
        engines = len(found.engines.devices)
        present = balance.of(plan, engines, work)
        if present is not None:
            others = balance.better(plan.request, engines, work)
            yield plan_report.Balances(card=found.card, now=present, better=others)


# --- a launch script of slime


def script_report(script: slime.Script, asked: Asked) -> Report:
    """The plan of the engines that a script would start."""
    trains, infers = script.roles()
    engines = Engines(
        name=infers.name,
        model=script.model,
        version=asked.version,
        gpus=script.gpus,
        devices=script.engines(),
    )
    given = settings.of_values(script.settings())
    length = asked.sequence or script.sequence()
    resident = trainer.RESIDENT_GIB if script.colocated else 0.0
    shm = shared_memory.gib(script.gpus) * engine.GIB
    pools = [*_on_cards(engines, infers, given, length, resident, asked, shm)]
    whole = Whole(
        roles=[trains, infers],
        pools=pools,
        trainings=[*script.training()],
        cards=asked.cards,
        per_node=script.number("actor_num_gpus_per_node", 8),
        balances=[*_balances(pools, script.step())],
    )
    return Report(pools=pools, wholes=[whole])


def _script(file: str) -> slime.Script | None:
    """The file, if it is a launch script."""
    path = Path(file)
    if path.suffix != ".sh":
        return None
    text = reading_files.read(file)
    return slime.Script(text, file) if slime.is_script(text) else None


# --- what the command line says


def _cards(text: str) -> tuple[Card, ...]:
    names = [name for name in text.split(",") if name.strip()]
    found = [(name, cards.parse(name)) for name in names]
    wrong = [name for name, card in found if card is None]
    if wrong or not found:
        shown = errors.shown((wrong or [text])[0])
        known = ", ".join(cards.CARDS)
        raise click.BadParameter(
            texts.PLAN_CARD.format(found=shown, known=known), param_hint="--gpu"
        )
    return tuple(dict.fromkeys(card for _, card in found if card is not None))


def _version(text: str | None) -> versions.Version:
    if text is None:
        return versions.NEWEST_KNOWN
    try:
        return versions.parse(text)
    except errors.InvalidError as error:
        raise click.BadParameter(error.problem.message, param_hint="--sglang") from error


def _length(text: str | None) -> Sequence | None:
    if text is None:
        return None
    parts = text.split("+")
    good = all(part.isascii() and part.isdecimal() and int(part) < _MOST_TOKENS for part in parts)
    if len(parts) != 2 or not good or int(parts[0]) + int(parts[1]) == 0:
        shown = errors.shown(text)
        raise click.BadParameter(texts.PLAN_SEQUENCE.format(found=shown), param_hint="--sequence")
    return Sequence(prompt=int(parts[0]), response=int(parts[1]))


def _config(file: str | None, model: str | None) -> dict[str, Any] | None:
    """A config.json of the user's.  Raises :class:`StopError`."""
    if file is not None and model is not None:
        raise click.UsageError(texts.PLAN_TWO_CONFIGS)
    if file is None and model is None:
        return None
    path = Path(file) if file is not None else Path(str(model)) / "config.json"
    mark = Mark(str(path), 1, 1)
    try:
        if path.stat().st_size > _MOST_CONFIG:
            problem = file_errors.TOO_LARGE("", found=texts.PLAN_LARGE, limit="10 MiB")
            raise findings.stop(mark, problem)
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        detail = error.strerror or "it cannot be read"
        problem = file_errors.FILE_UNREADABLE("", detail=detail, advice=texts.DO_CONFIG)
        raise findings.stop(mark, problem) from error
    except (ValueError, RecursionError) as error:
        problem = file_errors.FILE_UNREADABLE("", detail="it is no JSON", advice=texts.DO_CONFIG)
        raise findings.stop(mark, problem) from error
    if not isinstance(found, dict):
        problem = file_errors.FILE_UNREADABLE("", detail="it is no map", advice=texts.DO_CONFIG)
        raise findings.stop(mark, problem)
    return found


# --- the command


@click.command("plan")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--gpu", metavar="CARD[,...]", help="H100-80GB, H200, 141GiB, ...")
@click.option(
    "--live",
    metavar="POOL",
    shell_complete=complete_pool,
    help="A pool that runs: what was planned beside what its engines say they got.",
)
@click.option("--config", metavar="FILE", help="The model's config.json; default: what is known.")
@click.option("--model", metavar="DIR", help="The model's folder, with its config.json.")
@click.option("--sequence", metavar="PROMPT+RESPONSE", help="Tokens, e.g. 8192+4096.")
@click.option(
    "--resident",
    type=click.FloatRange(min=0),
    metavar="GIB",
    help="What others keep of each GPU while engines run; default: by the file's roles.",
)
@click.option("--sglang", metavar="VERSION", help="Of a launch script, which names none.")
@click.option("-n", "--namespace", help="Namespace of the pool that runs.")
@click.option("--context", help="kubectl's context.")
@click.option("--kubeconfig", help="kubectl's configuration file.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@environment
def command(
    file: str | None,
    gpu: str | None,
    live: str | None,
    config: str | None,
    model: str | None,
    sequence: str | None,
    resident: float | None,
    sglang: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    output: str,
    env: bool,
) -> None:
    """Say whether engines fit GPUs, how many sequences they hold, and which knob to turn.

    FILE holds objects or a ROLL pipeline, or is a launch script of slime (NAME.sh), which is read
    and not run; - is standard input. No cluster and no GPU is asked: the numbers are SGLang's own
    rules of the pool's version. Of a pipeline it also says who has which GPUs, what the trainer
    needs of them as an estimate, and better balances.

    With --live the cluster is asked for a pool, and the plan stands beside what its engines say
    they got; the card is that of their nodes, if these are labelled with it.

    Exit codes: 0 everything fits, or both are known; 1 something does not fit, or is not known;
    2 errors.
    """
    if live is not None and file is None:
        where = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
        _live(where, live, gpu, (config, model), output)
    if file is None or gpu is None or live is not None:
        raise click.UsageError(texts.PLAN_ONE_THING)
    try:
        asked = Asked(
            cards=_cards(gpu),
            config=_config(config, model),
            sequence=_length(sequence),
            environment=env,
            version=_version(sglang),
            resident=resident,
        )
        script = _script(file)
    except StopError as stopped:
        _tell([*stopped.findings])
        sys.exit(FAILED)
    found = (
        script_report(script, asked) if script is not None else report(_judged(file, env), asked)
    )
    if output == "json":
        click.echo(plan_report.as_json(found))
    else:
        for line in plan_report.verdicts(found):
            click.echo(line)
        from sglang_operator.cli import plan_tables  # rich, which programs need not wait for

        show(plan_tables.tables(found))
    sys.exit(OK if found.fits else NOT_SO)


@ends
def _live(
    where: dict[str, Any],
    name: str,
    gpu: str | None,
    given: tuple[str | None, str | None],
    output: str,
) -> int:
    from sglang_operator.cli import plan_live

    chosen = _cards(gpu) if gpu is not None else ()
    if len(chosen) > 1:
        raise click.BadParameter(texts.PLAN_ONE_CARD, param_hint="--gpu")
    try:
        config = _config(*given)
    except StopError as stopped:
        _tell([*stopped.findings])
        return FAILED
    found = plan_live.live(cluster(where), name, next(iter(chosen), None), config)
    if output == "json":
        click.echo(plan_live.as_json(found))
    else:
        click.echo(plan_live.line(found))
        show(plan_live.table(found))
    return OK if found.known else NOT_SO


def _judged(file: str, env: bool) -> check_files.Judged:
    """The pools of a file; with errors, or without pools, the command ends here."""
    judged = check_files.lint([file], sys.stdin.buffer, Options(environment=env))
    wrong = [finding for finding in findings.ordered(judged.findings) if finding.is_error]
    _tell(wrong)
    if wrong:
        sys.exit(FAILED)
    if not judged.pools:
        tell_notes(judged.notes)
        sys.exit(NOT_SO)
    return judged


def _tell(found: list[Finding]) -> None:
    for finding in found:
        click.echo(finding.line(), err=True)
