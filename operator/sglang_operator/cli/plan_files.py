"""The plan of files: objects, and ROLL pipelines as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.cli import check_files, check_object, file_errors
from sglang_operator.cli.findings import Finding
from sglang_operator.cli.pipeline import roles as roll_roles
from sglang_operator.cli.pipeline import training
from sglang_operator.cli.pipeline.objects import Conversion
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.plan_engines import Asked, balances, on_cards
from sglang_operator.cli.plan_report import Engines, Planned, Report, Whole
from sglang_operator.cli.yaml_tree.nodes import Mark
from sglang_operator.memory import settings, trainer
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import Sequence
from sglang_operator.memory.known import NotKnown
from sglang_operator.memory.verdict import Outcome
from sglang_operator.pool import shared_memory
from sglang_operator.pool.resolve import Pool

_CLEAR_GIB = 2.0  # what is lacking beyond the estimates' doubt


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


def told(judged: check_files.Judged, cards: tuple[Card, ...], *, env: bool) -> Iterator[Finding]:
    """The same as findings of ``lint``: an error only where it cannot fit by a clear margin."""
    asked = Asked(cards=cards, config=None, sequence=None, environment=env)
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
    yield from on_cards(engines, role, given, length, _resident(target), asked, shm)


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
        balances=[*balances(ours, work)],
    )
