"""Whether the memory that an engine may have holds its /dev/shm.  Pure.

/dev/shm is memory of the pod.  Where its limit is smaller, the kernel kills the engine when NCCL
and the tokenizers fill it, which may be long after the start: it is told before.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sglang_operator.api import errors, pod_volumes, syntax, texts
from sglang_operator.api.pod_template import Overlay

_GIB = 2**30
_FIELD = "spec.podTemplate.spec.containers[0].resources.limits.memory"


def gib(gpus: int) -> int:
    """The size of /dev/shm for an engine of so many GPUs, unless the user mounts one."""
    return 8 + 2 * gpus


def size(template: Overlay, gpus: int) -> int | None:
    """How many bytes an engine may have in its /dev/shm; None where nothing bounds it but the
    memory limit, or it is no memory."""
    if not template.mounts_at(pod_volumes.SHM_DIR):
        return gib(gpus) * _GIB
    volume = _mounted(template)
    empty = volume.get("emptyDir") or {}
    given = syntax.quantity(empty.get("sizeLimit")) if empty.get("medium") == "Memory" else None
    return int(given) if given else None


def _mounted(template: Overlay) -> Mapping[str, Any]:
    mounts = template.container.get("volumeMounts", ())
    name = next(m.get("name") for m in mounts if pod_volumes.mounted([m], pod_volumes.SHM_DIR))
    return next((each for each in template.volumes if each.get("name") == name), {})


def of_template(template: Overlay, gpus: int) -> Iterator[errors.Problem]:
    """That the limit in the template is too small."""
    yield from _judged(_limit(template), template, gpus, "")


def of_limits(template: Overlay, gpus: int, limits: Iterable[object]) -> Iterator[errors.Problem]:
    """That the limit is too small which a LimitRange gave to pods whose template names none."""
    if _limit(template) is None:
        given = next(filter(None, limits), None)
        yield from _judged(given, template, gpus, texts.BY_LIMIT_RANGE)


def _limit(template: Overlay) -> object:
    found: object = template.container.get("resources", {}).get("limits", {}).get("memory")
    return found


def _judged(limit: object, template: Overlay, gpus: int, by: str) -> Iterator[errors.Problem]:
    wanted = size(template, gpus)
    most = syntax.quantity(limit) if limit is not None else None
    if wanted is not None and most is not None and most <= wanted:
        yield errors.MEMORY_BELOW_SHM(
            _FIELD, limit=errors.shown(limit), by=by, size=f"{wanted / _GIB:.4g}"
        )
