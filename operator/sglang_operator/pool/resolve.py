"""From the spec to the pool as it should be.  Pure.

``resolve_pool`` is the only place where a spec is judged as a whole: it is understood as far as it
can be (``draft``), all of ``checks.CHECKS`` look at it, and there is a pool only if none of the
problems that they find is an error.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sglang_operator.api import errors, spec
from sglang_operator.api.problems import sparing
from sglang_operator.engine import arguments
from sglang_operator.pool import checks, revision, tuning, weight_arguments
from sglang_operator.pool.draft import Draft, understand
from sglang_operator.pool.model import NO_RANK, Engine, EngineFacts, Owner, Pool, Refused
from sglang_operator.pool.tuning import Tuning
from sglang_operator.roll import sampling

__all__ = ["NO_RANK", "Engine", "EngineFacts", "Owner", "Pool", "Refused", "resolve_pool"]


@sparing()
def resolve_pool(
    owner: Owner, raw: Mapping[str, Any], tuned: Tuning | None = None, ran: str = ""
) -> Pool | Refused:
    """The pool that this spec describes, or all that is wrong with it.

    ``tuned`` is what the status remembers of ``restart.autoTune``; it counts only for the spec
    that it was found for.  ``ran``: a revision of which engines came up: of that it is not said
    that they cannot.
    """
    try:
        parsed = spec.parse(raw)
    except errors.InvalidError as error:
        return Refused(owner=owner, problems=error.problems)
    draft = understand(owner, parsed)
    problems = checks.problems(draft)
    wrong = [problem for problem in problems if checks.is_error(problem)]
    if not wrong:
        return _tuned(_pool(draft, problems), draft, tuned)
    if ran and all(problem.reason == errors.MEMORY_REFUSED.reason for problem in wrong):
        warnings = tuple(problem for problem in problems if problem not in wrong)
        pool = _tuned(_pool(draft, warnings), draft, tuned)
        if pool.accepts(ran):
            return pool
    return Refused(owner=owner, problems=problems)


def _pool(draft: Draft, warnings: tuple[errors.Problem, ...]) -> Pool:
    """The pool as its spec is written."""
    rendered = draft.arguments
    base = _revision(draft, rendered)
    return Pool(
        owner=draft.owner,
        spec=draft.spec,
        image=draft.image,
        version=draft.version,
        features=draft.features,
        engines=draft.engines,
        active=draft.active,
        nodes=draft.nodes,
        arguments=rendered,
        environment=draft.environment,
        gate=draft.gate,
        no_sync=weight_arguments.refusal(rendered.argv, draft.known, draft.features),
        template=draft.template,
        sampling=sampling.sampling_params(draft.spec.generating_args),
        revision=base,
        warnings=warnings,
        base_revision=base,
        accepted=frozenset({base}),
    )


def _revision(draft: Draft, rendered: arguments.Arguments) -> str:
    return revision.digest(
        revision.inputs(
            draft.spec,
            draft.image,
            rendered.argv,
            draft.environment,
            draft.gated,
        )
    )


def _tuned(pool: Pool, draft: Draft, tuned: Tuning | None) -> Pool:
    """The pool with every value of mem_fraction_static that was in force so far."""
    if tuned is None or pool.bounds is None or tuned.base != pool.base_revision:
        return pool
    for value in tuning.values(tuned, pool.bounds):
        rendered = arguments.render(replace(draft.request, tuned_mem_fraction=value))
        now = _revision(draft, rendered)
        accepted = pool.accepted | {now}
        pool = replace(pool, arguments=rendered, revision=now, accepted=accepted, tuning=tuned)
    return pool
