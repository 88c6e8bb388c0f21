"""``python -m tests.validate``: what is shipped, against other people's checks.

kubernetes-validate compares it with the schemas of each Kubernetes that it knows of those we serve;
checkov judges it by its rules, less those in ``checkov.yaml``.  Both stand in a virtual environment
of their own, whose folder is the one argument.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.validate import sources

VERSIONS = ("1.35", "1.36", "1.37")  # there are no schemas of 1.34
CONFIG = Path(__file__).parent / "checkov.yaml"
# Groups that are not Kubernetes' own: no schema is known, and none is asked for.
FOREIGN = re.compile(r"api version (monitoring\.coreos\.com|sglang-operator\.dev)/")
# Both tools must find fault with it: else they look at nothing.
CONTROL = """\
apiVersion: v1
kind: Pod
metadata: {name: control, namespace: rl}
spec:
  containers: [{name: a, image: a, imagePullPolcy: Always, securityContext: {privileged: true}}]
"""


def main(tools: Path) -> int:
    """0 if everything is clean, 1 with what is not."""
    with tempfile.TemporaryDirectory() as scratch:
        shipped, made, control = (Path(scratch) / name for name in ("shipped", "made", "control"))
        for folder in (shipped, made, control):
            folder.mkdir()
        sources.write_shipped(shipped)
        sources.write_made(made)
        (control / "control.yaml").write_text(CONTROL)
        complaints = [
            *(_control(tools, control)),
            *(found for version in VERSIONS for found in _schemas(tools, version, shipped, made)),
            *_rules(tools, shipped),
        ]
    print("\n".join(complaints) or "clean")
    return 1 if complaints else 0


def _control(tools: Path, folder: Path) -> list[str]:
    """What is wrong with the tools: they must see each of the control's two faults."""
    schemas = [line for version in VERSIONS for line in _schemas(tools, version, folder)]
    missed = []
    if sum("imagePullPolcy" in line for line in schemas) != len(VERSIONS):
        missed.append(f"kubernetes-validate misses a misspelt field: {schemas}")
    if not any("privileged" in line for line in _rules(tools, folder)):
        missed.append("checkov misses a privileged container")
    return missed


def _schemas(tools: Path, version: str, *folders: Path) -> list[str]:
    files = [str(path) for folder in folders for path in sorted(folder.glob("*.yaml"))]
    said = _run(tools / "kubernetes-validate", "--strict", "-k", version, *files)
    lines = [line for line in said.splitlines() if not FOREIGN.search(line)]
    passed = [line for line in lines if line.startswith("INFO")]
    print(f"Kubernetes {version}: {len(passed)} objects of {len(files)} files passed")
    return [line for line in lines if line not in passed]


def _rules(tools: Path, folder: Path) -> list[str]:
    said = _run(tools / "checkov", "--config-file", str(CONFIG), "--directory", str(folder))
    (total,) = re.findall(r"^Passed checks: .*$", said, re.MULTILINE) or ["checkov says no total"]
    print(f"checkov: {total}")
    failed = re.findall(r"^Check: (.*)\n\tFAILED for resource: (.*)\n\tFile: (.*)$", said, re.M)
    return [": ".join(each) for each in failed]


def _run(program: Path, *arguments: str) -> str:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True)
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
