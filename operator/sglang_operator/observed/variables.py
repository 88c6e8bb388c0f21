"""What an engine's environment, as its pod was made, says of it: it is fixed for the pod's life."""

from collections.abc import Iterable, Mapping
from typing import Any

from sglang_operator.engine import environment


def keeps_images(env: Iterable[Mapping[str, Any]]) -> bool:
    """Whether what the vision tower makes of an image is kept, whatever weights come after.

    SGLang's default is that it is.  Of two variables of one name the last counts.
    """
    size = ""
    for each in env:
        if each.get("name") == environment.IMAGE_CACHE:
            size = str(each.get("value") or "")
    return size.strip() != "0"
