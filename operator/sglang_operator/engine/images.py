"""Image references, by the grammar that container runtimes read them with.

The grammar is that of github.com/distribution/reference; the kubelet tells of what is outside it
only once a pod has a node (``InvalidImageName``).
"""

from collections.abc import Iterator

from sglang_operator.api import errors, redaction
from sglang_operator.api.patterns import Pattern

MOST_CHARACTERS = 255  # of the name, without tag and digest

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[A-Fa-f0-9:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = Pattern(rf"(?P<name>(?:{_REGISTRY}/)?{_PART}(?:/{_PART})*)(?::{_TAG})?(?:@{_DIGEST})?")
_COMMIT = Pattern(r"[0-9a-f]{7,64}")  # many a tag is one, and a digest looks like one
_ONLY_HEX = Pattern(r"[0-9a-f]{64}")  # would be an image's id


def tag(image: str) -> str:
    """The tag of an image reference, without registry, port and digest; empty if it has none."""
    name = image.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2]


def problems(image: str) -> Iterator[errors.Problem]:
    """What a container runtime would refuse to read."""
    match = _REFERENCE.fullmatch(image)
    is_name = match and len(match["name"]) <= MOST_CHARACTERS and not _ONLY_HEX.fullmatch(image)
    if not is_name or redaction.is_a_key(image):
        yield errors.IMAGE_NAME("spec.image", found=shown(image))


def shown(image: str) -> str:
    """An image as messages quote it, which may have a secret where its tag or digest was to be."""
    return errors.shown(redaction.without_keys(image, but=_COMMIT))
