"""podTemplates against the API server: what it refuses is refused before, and nothing else."""

import copy
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

from generators import pod_schema
from sglang_operator.api import errors, names, pod_template
from sglang_operator.children import engine_pod
from sglang_operator.pool.resolve import Pool, resolve_pool
from sglang_operator.testing import ApiError, ControlPlane
from tests import podtemplates
from tests.builders import OWNER, a_pool, guide_spec

pytestmark = pytest.mark.plane("0", operator=False)

PODS = "/api/v1/namespaces/default/pods?dryRun=All&fieldValidation=Strict"
# Values of every kind, in every place: what may stand in one is wrong in the next.
VALUES: tuple[Any, ...] = (
    *("", "a b", "A_b", "-x", "x/y", "x/y/z", "/x", "..", "a=b", "x" * 64, "x" * 300, "é", "UPPER"),
    *("1", "0.5", "64Gi", "64GiB", "Exists", "In", "Gt", "Memory", "NoExecute", "Honor"),
    *(0, 1, -1, 101, 512, 2**31, True, 1.5),
    *([], {}, ["a b"], {"a b": "c"}, {"k": "a b"}),
)
UNKNOWN = errors.POD_FIELD_UNKNOWN.reason  # refused by strict validation, else dropped
SENDERS = 8  # at once: the server looks at some while the others are made and judged here
# What the cluster has, no template tells.
ABSENT = ('RuntimeClass "',)
# The rules here are stricter, and say why: the kubelet or the node refuses what the API server
# takes, or the engine would not start.
STRICTER = (
    "a path at which nothing else is mounted",  # the kubelet takes /a/ for /a
    "one of Memory, HugePages",  # kubelet: unknown storage medium
    "Filesystem, which can be mounted",  # kubelet: a block volume has no mounts
    "an absolute path without",  # containerd takes a relative one from its own folder
    # A pod would wait for an object, or for a node, that cannot exist.
    *(f"the name of {kind}" for kind in ("a PersistentVolumeClaim", "a ConfigMap", "a Secret")),
    "the name of what is copied",
    "a label of nodes, ",
)


@pytest.fixture(scope="module", autouse=True)
def runtime_class(plane: ControlPlane) -> Iterator[None]:
    """What the template that says everything names."""
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "nvidia"}
    path = "/apis/node.k8s.io/v1/runtimeclasses"
    plane.api.post(path, {**runtime, "metadata": {"name": "nvidia"}})
    yield
    plane.api.delete(f"{path}/nvidia")


@functools.cache
def plain_pool() -> Pool:
    return a_pool()


def body(template: Any) -> dict[str, Any]:
    """A pod with this template laid over it, whatever was said of the template."""
    found = template.get("spec") or {}
    metadata = template.get("metadata") or {}
    containers = found.get("containers") or [{}]
    overlay = pod_template.Overlay(
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        spec={
            k: v for k, v in found.items() if k not in ("containers", "volumes") and v is not None
        },
        container={k: v for k, v in containers[0].items() if v is not None},
        volumes=tuple(found.get("volumes") or ()),
    )
    pool = copy.copy(plain_pool())
    object.__setattr__(pool, "template", overlay)
    made = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 0)
    return {**made, "metadata": {**made["metadata"], "namespace": "default"}}


def said_by_server(plane: ControlPlane, template: Any) -> str:
    try:
        made = body(template)
    except (AttributeError, TypeError, IndexError, KeyError, ValueError):
        return "no pod at all"
    try:
        plane.api.post(PODS, made)
    except ApiError as error:
        return str(error)
    return ""


def said_here(template: Any) -> tuple[list[errors.Problem], list[errors.Problem]]:
    """What is wrong, and what is only not allowed or warned of."""
    found = pod_template.parse(template)[1]
    wrong = [p for p in found if p.reason == "SpecInvalid"]
    return wrong, [p for p in found if p.reason in ("PodTemplateForbidden", UNKNOWN)]


def mutations() -> Iterator[tuple[str, Callable[[], Any]]]:
    """A template that says everything, with one thing changed: what, and how to make it."""
    start = podtemplates.EVERYTHING
    changed = functools.partial(functools.partial, podtemplates.changed, start)
    for path, value in podtemplates.places(start):
        told = podtemplates.told(path)
        yield f"{told} left out", functools.partial(podtemplates.without, start, path)
        if isinstance(path[-1], int):
            holder = start
            for step in path[:-1]:
                holder = holder[step]  # type: ignore[index]
            yield f"{told} twice", changed(path[:-1], [*holder, value])
        if isinstance(value, dict):
            yield f"{told} with a strange field", changed(path, {**value, "strange": "x"})
        for other in VALUES:
            if type(other) is type(value) and other != value:
                yield f"{told} = {json.dumps(other)[:40]}", changed(path, other)


def compared(plane: ControlPlane, change: str, make: Callable[[], Any]) -> tuple[str, str]:
    """What this change makes the server refuse and not us, and the other way round."""
    template = make()
    server, (wrong, besides) = said_by_server(plane, template), said_here(template)
    if any(word in server for word in ABSENT):
        return "", ""
    missed = server and not wrong and not besides
    stricter = all(any(s in p.message for s in STRICTER) for p in wrong)
    invented = not server and wrong and not stricter
    return (
        f"{change}: {server[:300]}" if missed else "",
        f"{change}: {wrong[0]}" if invented else "",
    )


def test_the_template_that_says_everything_is_taken_by_both(plane):
    assert said_here(podtemplates.EVERYTHING) == ([], [])
    assert said_by_server(plane, podtemplates.EVERYTHING) == ""


def test_what_the_API_server_refuses_is_refused_before_and_nothing_else(plane):
    with futures.ThreadPoolExecutor(SENDERS) as senders:
        found = list(senders.map(lambda change: compared(plane, *change), mutations()))
    tried = len(found)
    missed = [missed for missed, _ in found if missed]
    invented = [invented for _, invented in found if invented]
    assert tried > 1500
    assert not missed, f"{len(missed)} of {tried}:\n" + "\n".join(missed[:40])
    assert not invented, f"{len(invented)} of {tried}:\n" + "\n".join(invented[:40])


def test_two_mistakes_at_once_are_both_told():
    tolerations = [{"operator": "Equals"}, {"key": "a b", "operator": "Exists"}]
    wrong, _ = said_here({"spec": {"tolerations": tolerations, "nodeSelector": {"a": "b c"}}})
    assert len(wrong) == 3


def test_the_schema_is_what_this_Kubernetes_publishes(plane):
    """``python -m generators.pod_schema`` writes it anew."""
    assert pod_schema.fields(plane.api.get(pod_schema.PATH)) == pod_schema.schema()


def test_what_is_accepted_here_is_accepted_by_the_definition_too(plane):
    """Every single part of the template that says everything, alone."""
    collection = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}?dryRun=All"
    plane.wait(lambda: plane.api.get(collection), 30, "the resource")
    parts = [
        {section: {name: value}}
        for section, fields in podtemplates.EVERYTHING.items()
        for name, value in fields.items()
    ]
    for part in itertools.chain(parts, [podtemplates.EVERYTHING]):
        pool = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "pool"},
            "spec": guide_spec(podTemplate=part),
        }
        plane.api.post(f"{collection}&fieldValidation=Strict", pool)


def test_a_pool_is_planned_from_what_was_compared(plane):
    assert isinstance(resolve_pool(OWNER, guide_spec(podTemplate=podtemplates.EVERYTHING)), Pool)
