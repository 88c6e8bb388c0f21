"""For how long others wait for the holder of a weights Lease that does not renew it.

It is what the holder counts on, by its own clock and for as long as its transaction lasts, so that
it stands in an annotation that names the transaction: ``leaseDurationSeconds`` may be edited, taken
away or applied anew meanwhile, of which the holder knows nothing.
"""

import math

from sglang_operator.api import bounds

LEASE_SECONDS = 30


def told(seconds: float) -> int:
    """As Leases have it: others may never wait for less than the holder counts on."""
    return min(bounds.INT32, max(1, math.ceil(seconds)))


def note(transaction: str, seconds: float) -> str:
    """What the annotation says of this transaction."""
    return f"{transaction} {told(seconds)}"


def read(said: object, annotation: str, transaction: str) -> tuple[float, float]:
    """The seconds that count, and those that the Lease says where they are others, else 0.

    ``said``: its ``leaseDurationSeconds``, which counts alone where the annotation is of another
    transaction, or none, as in Leases of clients and operators before.
    """
    given = float(said) if type(said) is int and 0 < said <= bounds.INT32 else 0.0
    name, _, number = annotation.rpartition(" ")
    plain = number.isascii() and number.isdecimal() and len(number) <= len(str(bounds.INT32))
    counted = int(number) if plain and name == transaction else 0
    if not 0 < counted <= bounds.INT32:
        return given or float(LEASE_SECONDS), 0.0
    return float(counted), given if given != counted else 0.0
