"""The devices that a pool's engines ask for, as far as the operator has to allow them."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from sglang_operator.api import device_resources
from sglang_operator.api.pod_template import FIELD, Overlay
from sglang_operator.api.problems import Problem, Severity
from sglang_operator.api.spec import PoolSpec
from sglang_operator.placement import modes
from sglang_operator.pool.model import Pool, Refused

_RESOURCES = f"{FIELD}.spec.containers[0].resources"


def problems(
    parsed: PoolSpec, template: Overlay, allowed: Collection[str] = ()
) -> Iterator[Problem]:
    """What an operator that allows these would refuse."""
    written = template.container.get("resources", {})
    beside = [
        (f"{_RESOURCES}.{section}.{name}", name)
        for section in ("limits", "requests")
        for name in sorted(written.get(section, {}))
    ]
    yield from device_resources.problems(modes.resource(parsed), beside, allowed)
    for field, name in modes.of(parsed).device_classes(parsed):
        yield from device_resources.of_gpus(field, device_resources.of_class(name), allowed)


def doubts(parsed: PoolSpec, template: Overlay) -> Iterator[Problem]:
    """The same as warnings, for who does not know what an operator allows."""
    for problem in problems(parsed, template):
        yield replace(problem, severity=Severity.WARNING)


def allowing(pool: Pool, allowed: Collection[str]) -> Pool | Refused:
    """The pool as an operator takes it that allows these."""
    if refused := tuple(problems(pool.spec, pool.template, allowed)):
        return Refused(owner=pool.owner, problems=refused)
    settled = tuple(doubts(pool.spec, pool.template))
    if not settled and not allowed:
        return pool
    warnings = tuple(each for each in pool.warnings if each not in settled)
    return replace(pool, warnings=warnings, allowed=frozenset(allowed))
