"""What the API server asks of the environment and the resources of a container, beyond their form
(Kubernetes pkg/apis/core/validation)."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sglang_operator.api import device_variables, errors, redaction, syntax

Items = Sequence[Mapping[str, Any]]

_SECRET_ADVICE = "put it into a Secret, and name that in valueFrom.secretKeyRef of a variable"
PULL_POLICIES = ("Always", "Never", "IfNotPresent")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
_FIELDS = frozenset(
    {
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.host",  # an old name of spec.nodeName
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]", re.DOTALL)
_AMOUNT = re.compile(r"(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-.*)", re.DOTALL)
_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE = "hugepages-"
_DEVICE_CLASS = "deviceclass.resource.kubernetes.io/"  # any class of devices, as a resource


def environment(items: Items, where: str, folders: Collection[str]) -> Iterator[errors.Problem]:
    """Variables, one by one; ``folders`` are the volumes that are an emptyDir."""
    for index, item in enumerate(items):
        at = f"{where}[{index}]"
        if "fileKeyRef" in item.get("valueFrom", ()):
            yield from _file(item["valueFrom"]["fileKeyRef"], f"{at}.valueFrom.fileKeyRef", folders)
        if redaction.is_a_key(item.get("name", "")):
            expected = "the name of a variable"
            yield syntax.told(f"{at}.name", "a secret's value", expected, _SECRET_ADVICE)
        elif not syntax.is_variable(item.get("name", "")):
            yield syntax.wrong(f"{at}.name", item.get("name", ""), syntax.VARIABLE)
        if "valueFrom" in item:
            yield from _source(item, f"{at}.valueFrom")


def _source(item: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    found = item["valueFrom"]
    sources = [name for name in (*_SOURCES, "fileKeyRef") if name in found]
    if item.get("value"):
        expected = "one of value and valueFrom"
        yield syntax.told(at, "value and valueFrom", expected, "remove one of the two")
    elif len(sources) != 1:
        yield syntax.told(at, ", ".join(sources) or "nothing", f"one of {', '.join(_SOURCES)}")
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in found:
            yield from _reference(found[name], f"{at}.{name}")
    if "fieldRef" in found:
        yield from _field(found["fieldRef"], f"{at}.fieldRef")
    if "resourceFieldRef" in found:
        yield from _amount_of(found["resourceFieldRef"], f"{at}.resourceFieldRef")


def _file(found: Mapping[str, Any], at: str, folders: Collection[str]) -> Iterator[errors.Problem]:
    """A key of a file with variables, in a volume of the pod."""
    if not syntax.is_variable(found.get("key", "")):
        yield syntax.wrong(f"{at}.key", found.get("key", ""), syntax.VARIABLE)
    if found.get("volumeName", "") not in folders:
        expected = "a volume of the kind emptyDir"
        yield syntax.wrong(f"{at}.volumeName", found.get("volumeName", ""), expected)
    path = found.get("path", "")
    if not path or ".." in path.split("/"):
        yield syntax.wrong(f"{at}.path", path, 'a path without ".."')


def _reference(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    if not syntax.is_subdomain(found.get("name", "")):
        yield syntax.wrong(f"{at}.name", found.get("name", ""), syntax.SUBDOMAIN)
    if not syntax.is_config_key(found.get("key", "")):
        yield syntax.wrong(f"{at}.key", found.get("key", ""), syntax.CONFIG_KEY)


def _field(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    if found.get("apiVersion", "") not in ("", "v1"):
        yield syntax.wrong(f"{at}.apiVersion", found["apiVersion"], "v1")
    path = found.get("fieldPath", "")
    inside = _SUBSCRIPT.fullmatch(path)
    key = inside[2] if inside else ""
    key = key.lower() if inside and inside[1] == "annotations" else key
    if path not in _FIELDS and not syntax.is_label_key(key):
        shown = "metadata.labels['KEY'], metadata.annotations['KEY']"
        expected = f"one of {', '.join(sorted(_FIELDS - {'spec.host'}))}, {shown}"
        yield syntax.wrong(f"{at}.fieldPath", path, expected)


def _amount_of(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    name = found.get("resource", "")
    if not _AMOUNT.fullmatch(name):
        expected = "limits. or requests. and cpu, memory, ephemeral-storage or hugepages-SIZE"
        yield syntax.wrong(f"{at}.resource", name, expected)
    divisor = syntax.quantity(found.get("divisor", "0"))
    if not divisor:
        return
    if name.endswith(".cpu"):
        fits = divisor in (Decimal("0.001"), Decimal(1))
        expected = "1m or 1"
    else:
        fits = divisor in [Decimal(base) ** power for base in (1000, 1024) for power in range(7)]
        expected = "1, 1k to 1E or 1Ki to 1Ei"
    if _AMOUNT.fullmatch(name) and not fits:
        yield syntax.wrong(f"{at}.divisor", found["divisor"], expected)


def whole_sources(items: Items, where: str) -> Iterator[errors.Problem]:
    """``envFrom``: ConfigMaps and Secrets as a whole, under names that give no devices."""
    for index, item in enumerate(items):
        at = f"{where}[{index}]"
        prefix = item.get("prefix", "")
        if device_variables.may_begin(prefix):
            yield errors.POD_TEMPLATE(
                f"{at}.prefix",
                found=f"variables of all names that begin with {errors.shown(prefix)}",
                expected="a prefix under which none can be NVIDIA_VISIBLE_DEVICES or the like",
                advice=f"{device_variables.ADVICE}; write a prefix such as APP_, or take variables "
                "one by one: env, with valueFrom",
            )
        if item.get("prefix") and not syntax.is_variable(item["prefix"]):
            yield syntax.wrong(f"{at}.prefix", item["prefix"], syntax.VARIABLE)
        kinds = [kind for kind in ("configMapRef", "secretRef") if kind in item]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "nothing"
            yield syntax.told(at, found, "one of configMapRef and secretRef")
        for kind in kinds:
            name = item[kind].get("name", "")
            if not syntax.is_subdomain(name):
                yield syntax.wrong(f"{at}.{kind}.name", name, syntax.SUBDOMAIN)


# --- resources


def resources(
    found: Mapping[str, Mapping[str, Any]], where: str, gpus: str
) -> Iterator[errors.Problem]:
    """Requests and limits; the amount of ``gpus``, the engine's own resource, is not taken."""
    requests, limits = (
        {name: amount for name, amount in found.get(section, {}).items() if name != gpus}
        for section in ("requests", "limits")
    )
    for section, amounts in (("requests", requests), ("limits", limits)):
        for name, amount in sorted(amounts.items()):
            yield from _amount(name, amount, f"{where}.{section}.{name}")
    for name in sorted(requests):
        yield from _within(name, requests[name], limits.get(name), where)
    huge = [name for name in (*requests, *limits) if name.startswith(_HUGE)]
    if huge and not {"cpu", "memory"} & {*requests, *limits}:
        yield syntax.wrong(where, huge[0], "cpu or memory beside huge pages", "request memory too")


def _amount(name: str, amount: object, at: str) -> Iterator[errors.Problem]:
    value = syntax.quantity(amount)
    if not _is_resource(name):
        expected = (
            "cpu, memory, ephemeral-storage, hugepages-SIZE, or a device plugin's "
            "resource such as nvidia.com/gpu"
        )
        yield syntax.wrong(at, name, expected)
    elif value is not None and _is_extended(name) and value % 1:
        yield syntax.wrong(at, amount, "a whole number of devices")
    elif value is not None and name.startswith(_HUGE):
        size = syntax.quantity(name.removeprefix(_HUGE))
        if not size or value % size:
            yield syntax.wrong(at, amount, f"a multiple of {name.removeprefix(_HUGE)}")


def _is_resource(name: str) -> bool:
    if not syntax.is_label_key(name):
        return False
    if "/" not in name:
        return name in _STANDARD or name.startswith(_HUGE)
    return "kubernetes.io/" in name or _is_extended(name)


def is_counted(name: str) -> bool:
    """Whether a resource of this name is devices, by a device plugin or by a device class."""
    return _is_extended(name) or (name.startswith(_DEVICE_CLASS) and syntax.is_label_key(name))


def _is_extended(name: str) -> bool:
    """Counted by a device plugin: whole, and never promised to two pods."""
    is_native = "/" not in name or "kubernetes.io/" in name
    prefixed = f"requests.{name}"
    return not is_native and not name.startswith("requests.") and syntax.is_label_key(prefixed)


def _within(name: str, request: object, limit: object, where: str) -> Iterator[errors.Problem]:
    at = f"{where}.requests.{name}"
    asked, most = syntax.quantity(request), syntax.quantity(limit)
    is_exact = _is_extended(name) or name.startswith(_HUGE)
    if limit is None and is_exact:
        yield syntax.wrong(at, request, f"a limit of {name} too", "write it under limits as well")
    elif asked is None or most is None:
        return
    elif is_exact and asked != most:
        yield syntax.wrong(at, request, f"the limit, which is {errors.shown(limit)}")
    elif asked > most:
        expected = f"at most the limit, which is {errors.shown(limit)}"
        yield syntax.wrong(at, request, expected, "lower the request, or raise the limit")
