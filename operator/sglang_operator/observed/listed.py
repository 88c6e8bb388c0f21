"""Which engines trainers were told of, by the registry as it stands.  Pure."""

from collections.abc import Mapping

import orjson

from sglang_operator.api import names
from sglang_operator.api.names import EngineName
from sglang_operator.observed.model import ObservedChild
from sglang_operator.pool.resolve import Owner


def instances(
    children: Mapping[tuple[str, str], ObservedChild], owner: Owner
) -> Mapping[EngineName, str]:
    """The instance that stands there for each engine of this pool, where one does.

    Empty where there is none, or where it cannot be read: whoever may edit ConfigMaps may have
    written it.
    """
    told = children.get(("ConfigMap", names.registry_name(owner.name)))
    if told is None or not told.whole or told.owner != owner.uid:
        return {}
    try:
        engines = orjson.loads(told.body["data"][names.REGISTRY_KEY])["engines"]
        found = ((each["engine"], each["instance"]) for each in engines)
        return {EngineName(name): run for name, run in found if isinstance(run, str)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
