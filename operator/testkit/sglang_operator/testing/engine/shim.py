"""The fake engine as the ``sglang`` package of an image: ``python3 -m sglang.launch_server``.

An image needs Python 3.11 or newer, this package with aiohttp, and these files in its
site-packages; ``sglang serve`` needs the executable too.
"""

from collections.abc import Mapping

_MODULE = '''"""Starts a fake engine of sglang-operator's test kit in the place of SGLang."""

from sglang_operator.testing.engine.__main__ import main

if __name__ == "__main__":
    main()
'''
_COMMAND = """#!/bin/sh
# sglang serve ARGUMENTS…
[ "$1" = serve ] && shift
exec python3 -m sglang.launch_server "$@"
"""


def files() -> Mapping[str, str]:
    """Contents by their path below site-packages."""
    return {
        "sglang/__init__.py": '"""A fake of SGLang."""\n',
        "sglang/launch_server.py": _MODULE,
    }


def command() -> str:
    """The executable ``sglang``, for a folder in PATH (mode 0755)."""
    return _COMMAND
