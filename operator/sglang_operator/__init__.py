"""A Kubernetes operator for pools of SGLang engines that serve RL trainers.

The packages read in the direction the data flows, and import only from those before them: the
README draws them, ``tests/unit/test_layout.py`` keeps them so.
"""

import pkgutil
from pathlib import Path

__version__ = "0.1.0"

# The test kit, sglang_operator.testing, is a distribution of its own.  Where it is not installed
# into this folder, as in a checkout or in a virtual environment on top of the operator's, it is in
# one of the same name on the path, without an __init__.py.
__path__ += [
    folder
    for folder in pkgutil.extend_path(list[str](), __name__)
    if not Path(folder, "__init__.py").exists()
]
