"""The known versions, each imported on demand.

Made by ``make schema VERSION=0.5.23`` from the wheel; do not edit.
"""

# fmt: off

from sglang_operator.engine.schemas import Schema

# In the order of their releases.
VERSIONS = (
    "0.4.6.post5",
    "0.4.10.post2",
    "0.5.2",
    "0.5.4.post2",
    "0.5.5.post3",
    "0.5.6.post2",
    "0.5.7",
    "0.5.9",
    "0.5.14",
    "0.5.20",
    "0.5.23",
)


def load(version: str) -> Schema:
    """The schema of one of VERSIONS."""
    match version:
        case "0.4.6.post5":
            from sglang_operator.engine.schemas import v0_4_6_post5

            return v0_4_6_post5.SCHEMA
        case "0.4.10.post2":
            from sglang_operator.engine.schemas import v0_4_10_post2

            return v0_4_10_post2.SCHEMA
        case "0.5.2":
            from sglang_operator.engine.schemas import v0_5_2

            return v0_5_2.SCHEMA
        case "0.5.4.post2":
            from sglang_operator.engine.schemas import v0_5_4_post2

            return v0_5_4_post2.SCHEMA
        case "0.5.5.post3":
            from sglang_operator.engine.schemas import v0_5_5_post3

            return v0_5_5_post3.SCHEMA
        case "0.5.6.post2":
            from sglang_operator.engine.schemas import v0_5_6_post2

            return v0_5_6_post2.SCHEMA
        case "0.5.7":
            from sglang_operator.engine.schemas import v0_5_7

            return v0_5_7.SCHEMA
        case "0.5.9":
            from sglang_operator.engine.schemas import v0_5_9

            return v0_5_9.SCHEMA
        case "0.5.14":
            from sglang_operator.engine.schemas import v0_5_14

            return v0_5_14.SCHEMA
        case "0.5.20":
            from sglang_operator.engine.schemas import v0_5_20

            return v0_5_20.SCHEMA
        case "0.5.23":
            from sglang_operator.engine.schemas import v0_5_23

            return v0_5_23.SCHEMA
    raise KeyError(version)
