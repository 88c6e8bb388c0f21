"""What an engine's environment and arguments say of it: they are fixed for its pod's life."""

from collections.abc import Iterable, Mapping
from itertools import islice
from sys import intern
from typing import Any

from sglang_operator.api import bounds, device_variables, names
from sglang_operator.engine import environment
from sglang_operator.placement import devices

_NNODES = "--nnodes="
_DIGITS = 16
_MOST_CLAIMS = 64
_WHOLE_CARD, _MOST_OF_GPUS = "GPU-", 4096  # characters
_READ = (environment.IMAGE_CACHE, device_variables.NVIDIA)


def read_of(env: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the variables that are read here."""
    return [each for each in env if each.get("name") in _READ]


def read_of_arguments(arguments: Iterable[str]) -> list[str]:
    """Those of the arguments that are read here."""
    return [word for word in arguments if word.startswith(_NNODES)]


def keeps_images(env: Iterable[Mapping[str, Any]]) -> bool:
    """Whether what the vision tower makes of an image is kept, whatever weights come after.

    SGLang's default is that it is.  Of two variables of one name the last counts.
    """
    size = ""
    for each in env:
        if each.get("name") == environment.IMAGE_CACHE:
            size = str(each.get("value") or "")
    return size.strip() != "0"


def gpus(env: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The GPUs that it is given by their UUIDs, whoever they belong to."""
    given = ""
    for each in env:
        if each.get("name") == device_variables.NVIDIA:
            given = str(each.get("value") or "")
    found = given[:_MOST_OF_GPUS].split(",")
    return tuple(intern(gpu) for gpu in found if gpu.startswith(_WHOLE_CARD))


def claimed(
    namespace: str, asked: Iterable[Mapping[str, str]], of_pod: Iterable[Mapping[str, Any]]
) -> tuple[str, ...]:
    """The GPUs that its container has by claims that others may refer to as well."""
    known = {
        str(each.get("name")): str(each["resourceClaimName"])
        for each in islice(of_pod, _MOST_CLAIMS)
        if each.get("resourceClaimName")
    }
    return tuple(
        intern(devices.token(namespace, known[name], each.get("request", "")))
        for each in islice(asked, _MOST_CLAIMS)
        if (name := each.get("name", "")) in known
    )


def limits(given: Mapping[str, str], most: int) -> tuple[tuple[str, int], ...]:
    """Extended resources, such as GPUs, of the first so many that are written."""
    return tuple(
        (intern(name), bounds.count(count))
        for name, count in islice(given.items(), most)
        if "/" in name
    )


def nodes(name: str, arguments: Iterable[str], annotation: str) -> int:
    """How many pods are one engine with the pod of this name, by what it was started with.

    The annotation says so where the arguments do not.
    """
    started = next((word for word in arguments if word.startswith(_NNODES)), "")
    told = started.removeprefix(_NNODES)[:_DIGITS]
    return names.nodes_of(name, bounds.count(told or annotation))
