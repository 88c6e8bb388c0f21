"""The one table of what can be wrong with a pool, and in which words it is said.

A row's ``reason`` is the reason of the condition and of the Event, its ``text`` says what was
found, what was expected and what to do.  The custom resource definition repeats the texts that
it can check itself; a test compares.  ``authority`` names who would have refused it, or
``policy`` where the rule is ours.

The rows stand in the modules here, by what they are about.  Everybody else has them from here,
under their names: ``errors.MODEL_MISSING("spec.model_args")``.
"""

from collections.abc import Iterable

from sglang_operator.api.errors import (
    arguments,
    features,
    fields,
    mapping,
    memory,
    notices,
    placement,
    pod,
)
from sglang_operator.api.errors.arguments import *
from sglang_operator.api.errors.authorities import *
from sglang_operator.api.errors.features import *
from sglang_operator.api.errors.fields import *
from sglang_operator.api.errors.mapping import *
from sglang_operator.api.errors.memory import *
from sglang_operator.api.errors.notices import *
from sglang_operator.api.errors.placement import *
from sglang_operator.api.errors.pod import *
from sglang_operator.api.problems import (
    InvalidError,
    Problem,
    Row,
    Severity,
    quoted,
    shown,
    typed,
    word,
)
from sglang_operator.api.redaction import is_secret

__all__ = [
    "InvalidError",
    "Problem",
    "Row",
    "Severity",
    "is_secret",
    "quoted",
    "shown",
    "typed",
    "word",
]

_TABLES = (fields, mapping, arguments, features, pod, placement, notices, memory)


def rows() -> Iterable[tuple[str, Row]]:
    """All rows of the table with their names, in the order they stand in these modules."""
    return [
        (name, value)
        for table in _TABLES
        for name, value in vars(table).items()
        if isinstance(value, Row)
    ]
