"""Names that are taken by objects which are not the pool's: all in one message, with the way out.

Such objects are never adopted.  Labels are anybody's to write, so they prove no ownership: what is
adopted would be deleted with the pool, and an orphaned engine that clients reach would be stopped
by the object that was applied to get its pool back.
"""

from collections.abc import Sequence

from sglang_operator.api import names, texts

MOST_NAMED = 16


def message(taken: Sequence[tuple[str, str]], namespace: str, pool: str) -> str:
    """What is in the way, by kind and name, and the one command that clears it."""
    text = texts.NAME_CONFLICT if len(taken) == 1 else texts.NAME_CONFLICTS
    return text.format(objects=called(taken), command=command(taken, namespace, pool))


def called(taken: Sequence[tuple[str, str]]) -> str:
    """They by kind and name, as many as can be read."""
    each = [f"{kind} {name}" for kind, name in taken]
    more = len(each) - MOST_NAMED
    shown = each[:MOST_NAMED] if more > 0 else each[:-1] or each
    last = f"{more} more" if more > 0 else each[-1]
    return ", ".join(shown) + (f" and {last}" if len(each) > 1 else "")


def command(taken: Sequence[tuple[str, str]], namespace: str, pool: str) -> str:
    """The command that deletes them."""
    scope = f" -n {namespace}" if namespace else ""
    if len(taken) <= MOST_NAMED:
        each = " ".join(f"{kind.lower()}/{name}" for kind, name in taken)
        return f"kubectl delete{scope} {each}"
    # It takes what is the pool's own too, which comes back at once.
    kinds = ",".join(sorted({kind.lower() for kind, _ in taken}))
    return f"kubectl delete{scope} {kinds} -l {names.LABEL_POOL}={pool}"
