"""The images that the kit knows how to make: a fake engine's, and the operator's own."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

from sglang_operator.engine import versions
from sglang_operator.testing import roots
from sglang_operator.testing.engine import settings, shim
from sglang_operator.testing.realnode import images, pythonimage, rootfs

ENGINE_NAME = "kit.invalid/sglang:v{}"
OPERATOR_NAME = "kit.invalid/sglang-operator:v1"
DISTRIBUTION = "sglang-operator"
# Far from root, as in the Dockerfile.
OPERATOR_USER = "65532:65532"


def engine(
    version: str, *, name: str | None = None, env: Mapping[str, str] | None = None
) -> images.Image:
    """A fake engine of an SGLang version, in which ``python3 -m sglang.launch_server`` starts it.

    The operator reads the version from the tag, so a ``name`` of one's own should have it too, such
    as ``lmsysorg/sglang:v0.5.7`` in the place of the real one.  ``env`` are more variables, such as
    the fake's own (``testing.engine.settings``).
    """
    site = f"/{rootfs.PACKAGES}"
    return pythonimage.build(
        name or ENGINE_NAME.format(version),
        entrypoint=["python3", "-m", "sglang.launch_server"],
        distributions=["aiohttp"],
        sources=roots.PACKAGES,
        texts={
            **{f"{site}/{path}": text for path, text in shim.files().items()},
            "/usr/local/bin/sglang": shim.command(),
        },
        env={f"{settings.PREFIX}VERSION": version, **(env or {})},
    )


def default_engine() -> images.Image:
    """The fake engine under the name of the image that a pool runs which names none."""
    name = versions.DEFAULT_IMAGE
    return engine(name.rsplit(":v", 1)[1], name=name)


def operator(name: str = OPERATOR_NAME) -> images.Image:
    """The operator as its Dockerfile has it: not as root, its arguments are the container's."""
    return pythonimage.build(
        name,
        entrypoint=["python3", "-m", "sglang_operator"],
        distributions=requirements(),
        sources=[roots.OPERATOR],
        user=OPERATOR_USER,
    )


def requirements() -> list[str]:
    """The distributions that the operator itself needs, without extras."""
    lines = importlib.metadata.requires(DISTRIBUTION) or []
    return rootfs.named(lines)
