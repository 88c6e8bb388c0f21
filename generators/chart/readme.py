"""The chart's README: a fixed beginning, and a table of the values from their comments."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_COMMENT = re.compile(r"^(?P<indent> *)# ?(?P<text>.*)$")
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]+):")

_TEXT = """\
# {name}

{description}.

```
helm upgrade --install sglang-operator charts/sglang-operator --wait \\
  --namespace sglang-operator --create-namespace --set image.repository=REGISTRY/sglang-operator
```

Helm 3 and Helm 4 alike, on Kubernetes {kubernetes}. The chart is one release for a cluster
(`watch.scope: Cluster`), or one for each team, with nothing cluster-wide but the resource
definition:

```
helm upgrade --install sglang-operator charts/sglang-operator --namespace team \\
  --set watch.scope=Namespaced --set crds.enabled=false \\
  --set image.repository=REGISTRY/sglang-operator
```

What to know:

- Whoever may create an `SGLangInference` in a namespace may run pods in it, as its Pod Security
  level allows. The operator reads no Secrets and enters no pod.
- The resource definition is upgraded with the release, and stays when the release is uninstalled
  (`crds.keep`): so do the pools and their pods. Install again, and they are served again; an
  install that finds the definition of a release with another name or namespace takes it over with
  `--take-ownership`.
- `helm upgrade` and `helm rollback` restart the operator, never an engine.

## Values

{table}

This file is made by `make chart` from `values.yaml`; do not edit it.
"""


@dataclass
class Value:
    """One documented value: its path, its default and its description."""

    path: str
    default: Any
    lines: list[str] = field(default_factory=list)

    @property
    def row(self) -> str:
        default = json.dumps(self.default, ensure_ascii=False)
        return f"| `{self.path}` | `{default}` | {' '.join(self.lines)} |"


def render(chart: Path) -> str:
    """The README of the chart in this folder."""
    facts = yaml.safe_load((chart / "Chart.yaml").read_text())
    rows = [value.row for value in values((chart / "values.yaml").read_text())]
    return _TEXT.format(
        name=facts["name"],
        description=facts["description"],
        kubernetes=facts["kubeVersion"].removeprefix(">=").removesuffix("-0") + " and newer",
        table="\n".join(["| value | default | what it is |", "|---|---|---|", *rows]),
    )


def values(text: str) -> Iterator[Value]:
    """The values with a description, in the order of the file."""
    defaults = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if match := _COMMENT.match(line):
            said = match["text"]
            if said.startswith("-- "):
                comment = [said.removeprefix("-- ")]
            elif comment:
                comment.append(said)
        elif match := _KEY.match(line):
            path = [step for step in path if step[0] < len(match["indent"])]
            path.append((len(match["indent"]), match["key"]))
            if comment:
                keys = [key for _, key in path]
                yield Value(".".join(keys), _at(defaults, keys), comment)
            comment = []


def _at(found: Any, keys: list[str]) -> Any:
    for key in keys:
        found = found[key]
    return found
