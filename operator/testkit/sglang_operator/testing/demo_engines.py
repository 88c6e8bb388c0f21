"""The demo's engines, where they are real containers: their image, and that they answer."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any, Literal

import yaml
from rich.console import Console

from sglang_operator.api import names
from sglang_operator.testing import errors
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.installed import manifests
from sglang_operator.testing.realnode import kitimages, requirements, tools

Kind = Literal["kwok", "real"]

POOL = "actor-infer"
NODES = {"real": "real nodes", "kwok": "KWOK's nodes, on which no containers run"}
# skip_tokenizer_init, which ROLL always sets, makes engines take and give tokens only.
TOKENS = {"input_ids": [9707, 1879], "sampling_params": {"max_new_tokens": 8}}
ANSWER_SECONDS = 10.0


def kind(console: Console, *, kwok: bool) -> Kind:
    """The best nodes that can be had here; says why when those are not the real ones."""
    if kwok:
        return "kwok"
    reason = requirements.missing()
    if reason is None:
        try:
            tools.locate(lambda text: console.print(f"  {text}"))
            return "real"
        except errors.ToolsError as error:
            reason = str(error)
    console.print(f"[dim]no real nodes here: {reason}[/]", highlight=False)
    return "kwok"


def load(plane: ControlPlane, console: Console) -> None:
    """Put the fake engine on real nodes, in the place of the image that the pool will ask for."""
    if plane.kind == "real":
        began = time.monotonic()
        image = plane.load_image(kitimages.default_engine())
        console.print(
            f"  {image.name} on every node after {time.monotonic() - began:.1f} s: "
            "a fake SGLang, which answers as the real one does and needs no GPU",
            highlight=False,
        )


def show(plane: ControlPlane, console: Console) -> None:
    """Ask every engine something; raises OSError when one does not answer."""
    if plane.kind != "real":
        return
    engines = _engines(plane)
    with plane.inside():
        models = [_ask(f"{engine['url']}/model_info") for engine in engines]
        answer = _ask(f"{engines[0]['url']}/generate", TOKENS)
    console.print(f"{len(models)} containers answer HTTP; engine 0, {engines[0]['url']}:")
    for path, said in (("/model_info", models[0]), ("/generate", answer)):
        console.print(f"  {path}  {json.dumps(said)}", highlight=False, markup=False)
    console.print()


def train(plane: ControlPlane, console: Console) -> None:
    """The sample trainer, as a Job in the cluster: one sync, after which clients get answers.

    Raises CommandError, and WaitTimeoutError when not every engine is synced.
    """
    if plane.kind != "real":
        return
    folder = manifests() / "samples" / "trainer"
    chosen = yaml.safe_load((folder / "kustomization.yaml").read_text())["images"][0]
    plane.load_image(kitimages.operator(f"{chosen['newName']}:{chosen['newTag']}"))
    console.print(
        "[bold]4[/] kubectl apply -k manifests/samples/trainer: a Job that syncs the weights"
    )
    begun = time.monotonic()
    plane.kubectl("apply", "-k", str(folder))
    plane.kubectl("wait", "--for=condition=WeightsSynced", f"sgi/{POOL}", "--timeout=120s")
    console.print(f"  SYNCED after {time.monotonic() - begun:.1f} s:", highlight=False)
    plane.wait(
        lambda: "committed" in plane.kubectl("logs", "job/trainer").stdout, 30, "the trainer"
    )
    said = plane.kubectl("logs", "job/trainer").stdout
    for line in said.splitlines():
        console.print(f"  trainer: {line}", highlight=False, markup=False)
    console.print(plane.kubectl("get", "sgi").stdout, highlight=False, markup=False)
    host, port = _service(plane)
    with plane.inside():
        answer = _ask(f"http://{host}:{port}/generate", TOKENS)
    console.print(
        f"the Service answers: {json.dumps(answer)}\n",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def commands(plane: ControlPlane) -> str:
    """What to type to talk to the pool's Service, which knows only engines with open gates."""
    if plane.kind != "real":
        return ""
    outside = plane.expose(*_service(plane))
    return (
        f"  kubectl logs -l {names.selector_text(POOL)}\n"
        f"  curl http://{outside}/generate -H 'Content-Type: application/json' "
        f"-d '{json.dumps(TOKENS)}'   # the Service: no answer while all gates are closed\n"
    )


def _service(plane: ControlPlane) -> tuple[str, int]:
    """Where the pool's Service is, in the network of the cluster."""
    path = f"/api/v1/namespaces/default/services/{names.service_name(POOL)}"
    spec = plane.api.get(path)["spec"]
    return spec["clusterIP"], spec["ports"][0]["port"]


def _engines(plane: ControlPlane) -> list[Any]:
    path = f"/api/v1/namespaces/default/configmaps/{names.registry_name(POOL)}"
    return list(json.loads(plane.api.get(path)["data"]["engines.json"])["engines"])


def _ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return json.load(answer)
