"""GPUs as NVIDIA's driver tells of them: which there are, and what of their memory is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from sglang_operator.testing import errors

# What nvidia-smi is asked for, in the order of the fields that are read.
QUERY = ("uuid", "name", "driver_version", "memory.used", "memory.total")
MIB = 1 << 20
NODE = "nvidia{}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU: its UUID, by which everybody knows it, and the number of its device node."""

    uuid: str
    name: str
    driver: str
    used: int  # bytes
    total: int
    minor: int | None = None

    @property
    def product(self) -> str:
        """The name as NVIDIA's feature discovery labels nodes with it."""
        return self.name.replace(" ", "-")


def parse(text: str) -> list[Card]:
    """The cards in nvidia-smi's answer to QUERY, as CSV without header and units.

    Raises ValueError with the line that is something else.
    """
    cards = []
    for line in filter(None, map(str.strip, text.splitlines())):
        fields = [field.strip() for field in line.split(",")]
        try:
            uuid, name, driver, used, total = fields
            card = Card(
                uuid=uuid,
                name=name,
                driver=driver,
                used=int(used) * MIB,
                total=int(total) * MIB,
            )
        except ValueError:
            raise ValueError(f"nvidia-smi says {line!r}, not {', '.join(QUERY)}") from None
        cards.append(card)
    return cards


def minors(information: Iterable[str]) -> dict[str, int]:
    """The minor numbers by UUID in the driver's files /proc/driver/nvidia/gpus/*/information."""
    found = {}
    for text in information:
        split = (line.partition(":") for line in text.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in split}
        uuid, minor = fields.get("GPU UUID", ""), fields.get("Device Minor", "")
        if uuid and minor.isdigit():
            found[uuid] = int(minor)
    return found


def with_nodes(cards: Sequence[Card], known: Mapping[str, int], nodes: Iterable[int]) -> list[Card]:
    """The cards that have a device node, with its number.

    ``known`` are minor numbers by UUID.  Where the driver does not tell them, as many nodes as
    cards are taken in order, as the driver numbers them.
    """
    present = sorted(nodes)
    in_order = dict(zip((card.uuid for card in cards), present, strict=False))
    numbers = known if known else in_order if len(present) == len(cards) else {}
    return [
        dataclasses.replace(card, minor=numbers[card.uuid])
        for card in cards
        if numbers.get(card.uuid) in present
    ]


def choose(cards: Sequence[Card], count: int) -> list[Card]:
    """The cards that have the most free memory, in the order of their nodes."""
    freest = sorted(cards, key=lambda card: card.used - card.total)[:count]
    return sorted(freest, key=lambda card: (card.minor or 0, card.uuid))


def shared_out(cards: Sequence[Card], nodes: int) -> list[Sequence[Card]]:
    """The cards of each node: as many on each, in their order; raises KitError."""
    each, left = divmod(len(cards), nodes)
    if left or not each:
        raise errors.KitError(f"{nodes} nodes cannot have as many each of {len(cards)} GPUs")
    return [cards[number * each : (number + 1) * each] for number in range(nodes)]
