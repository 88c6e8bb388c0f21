"""The documentation on a real control plane: each page is a session, run from top to bottom."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sglang_operator.testing import ControlPlane
from tests.docs import pages
from tests.docs.pages import PAGES, ROOT

pytestmark = pytest.mark.plane("3x8")

SECONDS = 120.0
_numbers = itertools.count()
_SESSIONS = [
    path
    for path in PAGES
    if any(block.language == "sh" and not block.not_run for block in pages.blocks(path))
]


@pytest.mark.parametrize("path", _SESSIONS, ids=pages.name)
def test_a_page_does_what_it_says(plane, tmp_path, path):
    namespace = plane.namespace(f"docs-{next(_numbers)}")
    environment = session(plane, tmp_path, namespace)
    try:
        printed = None
        for block in pages.blocks(path):
            if block.language == "text":
                assert printed is None or block.text.strip() in printed
            printed = None
            if block.language == "yaml":
                example(block, tmp_path, environment)
            elif block.language == "sh" and not block.not_run:
                printed = run(block, block.text, tmp_path, environment)
    finally:
        # The next page wants the GPUs.
        plane.kubectl("delete", "sgi", "--all", "-n", namespace, "--wait=false", check=False)
        pods = ("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force")
        plane.kubectl(*pods, "--wait=false")


def session(plane: ControlPlane, folder: Path, namespace: str) -> dict[str, str]:
    """A folder that looks like a checkout, and a kubeconfig whose namespace is the page's own."""
    for name in ("manifests", "charts", "operator", "tests"):
        (folder / name).symlink_to(ROOT / name)
    kubeconfig = folder / "kubeconfig"
    shutil.copy(plane.kubeconfig, kubeconfig)
    environment = plane.environment(kubeconfig)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    context = ["kubectl", "config", "set-context", "--current", f"--namespace={namespace}"]
    subprocess.run(context, env=environment, check=True, capture_output=True)
    return environment


def example(block: pages.Block, folder: Path, environment: dict[str, str]) -> None:
    """Write a file that the commands are to find, and let the API server judge whole objects."""
    documents = list(yaml.safe_load_all(block.text))
    if block.file is not None:
        (folder / block.file).write_text(block.text)
    if all("kind" in document and "metadata" in document for document in documents):
        given = folder / "judged.yaml"
        given.write_text(block.text)
        command = f"kubectl apply --dry-run=server --validate=strict -f {given.name}"
        run(block, command, folder, environment)


def run(block: pages.Block, command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = f"{block.page}:{block.line}\n{command}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    return done.stdout
