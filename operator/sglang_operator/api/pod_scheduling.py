"""Where an engine may run: what the API server asks of labels, selectors, tolerations, affinity
and spreading (Kubernetes pkg/apis/core/validation), beyond their form."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_operator.api import errors, names, pod_annotations, syntax

_LIMIT_OF_ANNOTATIONS = 256 * 1024
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

Items = Sequence[Mapping[str, Any]]


def metadata(found: Mapping[str, Any], where: str) -> Iterator[errors.Problem]:
    """Labels and annotations for the pods."""
    labels, annotations = found.get("labels", {}), found.get("annotations", {})
    yield from label_map(labels, f"{where}.labels")
    for key in sorted(annotations):
        path = f"{where}.annotations.{key}"
        if not syntax.is_label_key(key.lower()):
            yield syntax.wrong(path, key, syntax.LABEL_KEY)
    yield from pod_annotations.problems(labels, annotations, where)
    for section in ("labels", "annotations"):
        for key in sorted(filter(names.is_own_key, found.get(section, {}))):
            yield errors.POD_TEMPLATE(
                f"{where}.{section}.{key}",
                found=key,
                expected="keys that are not the operator's own",
                advice="choose another key",
            )
    cost = annotations.get(_DELETION_COST, "0")
    if not re.fullmatch(r"0|-?[1-9][0-9]{0,9}", cost) or not -(2**31) <= int(cost) < 2**31:
        path = f"{where}.annotations.{_DELETION_COST}"
        yield syntax.wrong(path, cost, "a whole number of 32 bits")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _LIMIT_OF_ANNOTATIONS:
        found_size, limit = f"{size} bytes", f"at most {_LIMIT_OF_ANNOTATIONS} bytes in all"
        yield syntax.wrong(f"{where}.annotations", found_size, limit)


def label_map(labels: Mapping[str, str], where: str) -> Iterator[errors.Problem]:
    """Labels, or what selects by them."""
    for key, value in sorted(labels.items()):
        if not syntax.is_label_key(key):
            yield syntax.wrong(f"{where}.{key}", key, syntax.LABEL_KEY)
        if not syntax.is_label_value(value):
            yield syntax.wrong(f"{where}.{key}", value, syntax.LABEL_VALUE)


# --- tolerations

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


def tolerations(items: Items, where: str) -> Iterator[errors.Problem]:
    """What is tolerated."""
    for index, item in enumerate(items):
        yield from _toleration(item, f"{where}[{index}]")


def _toleration(item: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    key, operator = item.get("key", ""), item.get("operator", "")
    value, effect = item.get("value", ""), item.get("effect", "")
    if key and not syntax.is_label_key(key):
        yield syntax.wrong(f"{at}.key", key, syntax.LABEL_KEY)
    if operator not in ("", "Equal", "Exists", "Lt", "Gt"):
        yield syntax.not_one_of(f"{at}.operator", operator, ("Equal", "Exists"))
    elif not key and operator != "Exists":
        expected = "Exists where there is no key, which means every taint"
        yield syntax.wrong(
            f"{at}.operator", operator or "nothing", expected, "write key, or Exists"
        )
    elif operator == "Exists" and value:
        advice = "remove value, or write operator: Equal"
        yield syntax.wrong(f"{at}.value", value, "no value beside operator Exists", advice)
    elif operator in ("Lt", "Gt") and not _is_number(value):
        expected = f"a whole number beside operator {operator}"
        yield syntax.wrong(f"{at}.value", value, expected)
    elif operator in ("", "Equal") and not syntax.is_label_value(value):
        yield syntax.wrong(f"{at}.value", value, syntax.LABEL_VALUE)
    if effect and effect not in _EFFECTS:
        yield syntax.not_one_of(f"{at}.effect", effect, _EFFECTS)
    elif "tolerationSeconds" in item and effect != "NoExecute":
        expected = "NoExecute where tolerationSeconds is set"
        yield syntax.wrong(f"{at}.effect", effect or "nothing", expected)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63


# --- affinity

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def affinity(found: Mapping[str, Any], where: str) -> Iterator[errors.Problem]:
    """Affinity to nodes, and to and from pods."""
    yield from _node_affinity(found.get("nodeAffinity", {}), f"{where}.nodeAffinity")
    for kind in ("podAffinity", "podAntiAffinity"):
        section, at = found.get(kind, {}), f"{where}.{kind}"
        for index, term in enumerate(section.get(_REQUIRED, ())):
            yield from _pod_term(term, f"{at}.{_REQUIRED}[{index}]")
        for index, item in enumerate(section.get(_PREFERRED, ())):
            path = f"{at}.{_PREFERRED}[{index}]"
            yield from _weight(item, path)
            yield from _pod_term(item.get("podAffinityTerm", {}), f"{path}.podAffinityTerm")


def _weight(item: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    if not 1 <= item.get("weight", 0) <= 100:
        yield syntax.wrong(f"{at}.weight", item.get("weight", "nothing"), "1 to 100")


def _node_affinity(found: Mapping[str, Any], where: str) -> Iterator[errors.Problem]:
    required = found.get(_REQUIRED)
    if required is not None:
        at = f"{where}.{_REQUIRED}.nodeSelectorTerms"
        terms = required.get("nodeSelectorTerms", ())
        if not terms:
            yield syntax.missing(at, "at least one term")
        for index, term in enumerate(terms):
            yield from _node_term(term, f"{at}[{index}]", values=True)
    for index, item in enumerate(found.get(_PREFERRED, ())):
        path = f"{where}.{_PREFERRED}[{index}]"
        yield from _weight(item, path)
        # A value that no node can have is allowed here: it only never matches.
        yield from _node_term(item.get("preference", {}), f"{path}.preference", values=False)


def _node_term(term: Mapping[str, Any], where: str, *, values: bool) -> Iterator[errors.Problem]:
    for index, item in enumerate(term.get("matchExpressions", ())):
        at = f"{where}.matchExpressions[{index}]"
        yield from _expression(item, at, (*_OPERATORS, "Gt", "Lt"), values=values)
    for index, item in enumerate(term.get("matchFields", ())):
        yield from _field(item, f"{where}.matchFields[{index}]")


def _expression(
    item: Mapping[str, Any], at: str, operators: Sequence[str], *, values: bool = True
) -> Iterator[errors.Problem]:
    operator, given = item.get("operator", ""), item.get("values", [])
    if operator not in operators:
        yield syntax.not_one_of(f"{at}.operator", operator, operators)
    elif operator in ("In", "NotIn") and not given:
        yield syntax.missing(f"{at}.values", f"at least one value for operator {operator}")
    elif operator in ("Exists", "DoesNotExist") and given:
        expected = f"no values beside operator {operator}"
        yield syntax.wrong(f"{at}.values", given, expected, "remove them, or use In")
    elif operator in ("Gt", "Lt") and len(given) != 1:
        yield syntax.wrong(f"{at}.values", given, f"one value for operator {operator}")
    if not syntax.is_label_key(item.get("key", "")):
        yield syntax.wrong(f"{at}.key", item.get("key", ""), syntax.LABEL_KEY)
    for index, value in enumerate(given if values else ()):
        if not syntax.is_label_value(value):
            yield syntax.wrong(f"{at}.values[{index}]", value, syntax.LABEL_VALUE)


def _field(item: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    """A node's field, of which there is one: its name."""
    operator, given = item.get("operator", ""), item.get("values", [])
    if operator not in ("In", "NotIn"):
        yield syntax.not_one_of(f"{at}.operator", operator, ("In", "NotIn"))
    elif len(given) != 1:
        yield syntax.wrong(f"{at}.values", given, f"one value for operator {operator}")
    if item.get("key", "") != "metadata.name":
        yield syntax.wrong(f"{at}.key", item.get("key", ""), "metadata.name")
        return
    for index, value in enumerate(given):
        if not syntax.is_subdomain(value):
            yield syntax.wrong(f"{at}.values[{index}]", value, syntax.SUBDOMAIN)


def _pod_term(term: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    for name in ("labelSelector", "namespaceSelector"):
        yield from selector(term.get(name, {}), f"{at}.{name}")
    for index, name in enumerate(term.get("namespaces", ())):
        if not syntax.is_dns_label(name):
            yield syntax.wrong(f"{at}.namespaces[{index}]", name, syntax.DNS_LABEL)
    yield from _label_keys(term, at)
    if not syntax.is_label_key(term.get("topologyKey", "")):
        yield syntax.wrong(f"{at}.topologyKey", term.get("topologyKey", ""), syntax.LABEL_KEY)


def selector(found: Mapping[str, Any], where: str) -> Iterator[errors.Problem]:
    """A selector of labels."""
    yield from label_map(found.get("matchLabels", {}), f"{where}.matchLabels")
    for index, item in enumerate(found.get("matchExpressions", ())):
        yield from _expression(item, f"{where}.matchExpressions[{index}]", _OPERATORS)


def _label_keys(term: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    """Keys whose values are taken from the pod itself."""
    taken = [term.get(name, []) for name in ("matchLabelKeys", "mismatchLabelKeys")]
    chosen = term.get("labelSelector")
    for name, keys in zip(("matchLabelKeys", "mismatchLabelKeys"), taken, strict=True):
        if keys and chosen is None:
            path = f"{at}.{name}"
            yield syntax.wrong(path, keys, "a labelSelector beside it", "write labelSelector")
        for index, key in enumerate(keys):
            if not syntax.is_label_key(key):
                yield syntax.wrong(f"{at}.{name}[{index}]", key, syntax.LABEL_KEY)
    selected = {
        *(chosen or {}).get("matchLabels", {}),
        *(item.get("key") for item in (chosen or {}).get("matchExpressions", ())),
    }
    selected |= {*taken[1]}
    for index, key in enumerate(taken[0]):
        if key in selected:
            expected = "keys that neither labelSelector nor mismatchLabelKeys has"
            yield syntax.wrong(f"{at}.matchLabelKeys[{index}]", key, expected)


# --- spreading

_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")
_POLICIES = ("Ignore", "Honor")


def spreading(items: Items, where: str) -> Iterator[errors.Problem]:
    """How engines spread over the cluster."""
    seen: set[tuple[str, str]] = set()
    for index, item in enumerate(items):
        at = f"{where}[{index}]"
        yield from _constraint(item, at)
        pair = (item.get("topologyKey", ""), item.get("whenUnsatisfiable", ""))
        if pair in seen:
            expected = "one constraint for a topologyKey and whenUnsatisfiable"
            yield syntax.wrong(f"{at}.topologyKey", pair[0], expected, "remove one of the two")
        seen.add(pair)


def _constraint(item: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    if item.get("maxSkew", 0) < 1:
        yield syntax.wrong(f"{at}.maxSkew", item.get("maxSkew", "nothing"), "1 or more")
    key = item.get("topologyKey")
    if not key:
        yield syntax.missing(
            f"{at}.topologyKey", "a label of nodes, kubernetes.io/hostname or such"
        )
    elif not syntax.is_label_key(key):
        yield syntax.wrong(f"{at}.topologyKey", key, f"a label of nodes, {syntax.LABEL_KEY}")
    otherwise = item.get("whenUnsatisfiable", "")
    if otherwise not in _UNSATISFIABLE:
        yield syntax.not_one_of(f"{at}.whenUnsatisfiable", otherwise or "nothing", _UNSATISFIABLE)
    if "minDomains" in item and (item["minDomains"] < 1 or otherwise != "DoNotSchedule"):
        expected = "1 or more, beside whenUnsatisfiable: DoNotSchedule"
        yield syntax.wrong(f"{at}.minDomains", item["minDomains"], expected)
    for name in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        if name in item and item[name] not in _POLICIES:
            yield syntax.not_one_of(f"{at}.{name}", item[name], _POLICIES)
    yield from _label_keys(item, at)
    yield from selector(item.get("labelSelector", {}), f"{at}.labelSelector")
