"""The folders that the operator's part of the package and the kit's are imported from.

They are one where both distributions are installed side by side, and two in a checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

import sglang_operator

OPERATOR = Path(sglang_operator.__file__).parent
# The folder of the same name in which the kit is.
KIT = Path(__file__).parents[1]
PACKAGES = list(dict.fromkeys([OPERATOR, KIT]))


def python_path(*others: str) -> str:
    """A PYTHONPATH by which another process imports both as this one does, and then ``others``."""
    return os.pathsep.join([*(str(package.parent) for package in PACKAGES), *filter(None, others)])
