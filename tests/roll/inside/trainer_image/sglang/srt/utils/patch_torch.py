"""SGLang's change to how torch passes memory of a GPU: there is none here."""

from tests.roll.inside import standins

standins.record(__name__, "stand-in")


def monkey_patch_torch_reductions() -> None: ...
