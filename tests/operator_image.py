"""An image with what the Dockerfile puts into one, made without a container engine.

The interpreter is the one that runs this, and the packages are those installed beside it; versions
are the same, because both come from constraints.txt.
"""

from generators import checkout, requirements
from sglang_operator.testing.realnode import images, pythonimage

NAME = "sglang-operator:0.1.0"  # as the manifests and the chart name it
PACKAGE = checkout.PACKAGE


def image(name: str = NAME) -> images.Image:
    """The operator's image, for the real nodes of the test kit."""
    return pythonimage.build(
        name,
        entrypoint=["python3", "-m", "sglang_operator"],
        distributions=sorted(requirements.pins(requirements.RUNTIME.read_text())),
        sources=[PACKAGE],
        env={"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        user="65532:65532",
    )
