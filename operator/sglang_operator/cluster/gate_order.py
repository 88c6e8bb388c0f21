"""In which order the gates of one pass are written: all at once, but for who makes way for another.

The gate of an engine that another takes over from stays open until that one's is: else a server
that takes long over one of two requests shows clients fewer engines than there are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sglang_operator import actions
from sglang_operator.api import names

Write = Callable[[actions.GateAction], Awaitable[bool]]  # whether it was taken


async def write(batch: Sequence[actions.GateAction], one: Write) -> int:
    """How many were taken.  What comes after one that was not is left as it is, for the next pass
    to see."""
    first = [action for action in batch if _before(action) is None]
    asked = [asyncio.ensure_future(one(action)) for action in first]
    opened = {
        action.uid: task
        for action, task in zip(first, asked, strict=True)
        if isinstance(action, actions.SetGate)
    }

    async def follow(action: actions.GateAction, uid: names.Uid) -> bool:
        return uid in opened and await opened[uid] and await one(action)

    then = [follow(action, uid) for action in batch if (uid := _before(action)) is not None]
    return sum(await asyncio.gather(*asked, *then))


def _before(action: actions.GateAction) -> names.Uid | None:
    return action.after if isinstance(action, actions.SetGate) else None
