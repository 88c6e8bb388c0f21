"""What people are shown, as it was last looked at: maps and screens of invented clusters.

``python -m tests.golden`` writes them anew; look at them before you commit them.
"""

import io
from pathlib import Path

from rich.console import Console, RenderableType

from sglang_operator.cli import status
from sglang_operator.view import svg, text
from sglang_operator.view.cluster_view import Leader
from tests.builders import NOW
from tests.unit.view import drawn_cluster

FOLDER = Path(__file__).parent
IMAGES = FOLDER.parents[1] / "operator" / "docs" / "images"


def plain(renderable: RenderableType, width: int = 110) -> str:
    """As in a file: no colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def pictures() -> dict[Path, str]:
    """Every picture, by the file that holds it."""
    guide, trouble = drawn_cluster.guide(), drawn_cluster.trouble()
    leader = Leader(namespace="sglang-operator", identity="sglang-operator-6b9f-x2x4_1", silent=2.0)
    led = guide.cluster_view(holders=[leader])
    return {
        FOLDER / "map-guide.txt": plain(text.render(guide.map(ids=True))),
        FOLDER / "map-trouble.txt": plain(text.render(trouble.map())),
        FOLDER / "status-guide.txt": plain(status.render(led, NOW, detail=True)),
        FOLDER / "status-trouble.txt": plain(
            status.render(trouble.cluster_view(), NOW, detail=True)
        ),
        FOLDER / "status-list.txt": plain(
            status.render(trouble.cluster_view(holders=[]), NOW, detail=False)
        ),
        IMAGES / "gpu-map.svg": svg.render(trouble.map(), title="GPUs of the namespace rl"),
    }
