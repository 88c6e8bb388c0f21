"""Why a claim finds no devices: what it wants, what is free, and who has the rest.  Pure.

The scheduler only says on how many nodes a claim cannot be allocated.
"""

from collections import Counter
from collections.abc import Sequence

from sglang_operator.api.texts import seen_from
from sglang_operator.placement import texts
from sglang_operator.placement.devices import DeviceClaim, Inventory, Pin

_MOST_NAMED = 3


class Room:
    """The whole cards of a cluster, and which claims have them.

    Claims are named if they are of the pool's ``namespace``: who may read its status may not know
    those of others.
    """

    def __init__(self, inventory: Inventory, namespace: str) -> None:
        self._inventory = inventory
        self._namespace = namespace
        self._holders = inventory.holders

    def of_any(self, claim: DeviceClaim, device_class: str) -> str:
        """Why no node has as many free; empty where one has, or where nobody knows."""
        if self._inventory.devices is None:
            return ""
        told = {"claim": claim.name, "wanted": len(claim.requests), "device_class": device_class}
        on, total, free, nearest = self._inventory.cards
        if not on:
            return texts.NO_DEVICES.format(**told)
        if free[nearest] >= len(claim.requests):
            return ""
        return texts.SHORT_OF_DEVICES.format(
            free=free.total(),
            total=total.total(),
            node=nearest or "<none>",
            node_free=free[nearest],
            node_total=total[nearest],
            holders=self._held_on(nearest),
            **told,
        )

    def of_pin(self, claim: DeviceClaim, pin: Pin) -> str:
        """Why it does not get the devices again that it had; empty where it can."""
        if self._inventory.devices is None:
            return ""
        for _, uuid in sorted(pin.gpus.items()):
            told = {"claim": claim.name, "gpu": uuid, "node": pin.node}
            card = self._inventory.devices.by_uuid.get(uuid)
            if card is None:
                return texts.PIN_UNSEEN.format(**told)
            holder = self._holders.get(card.place)
            if holder is not None and (holder.namespace, holder.name) != (
                claim.namespace,
                claim.name,
            ):
                return texts.PIN_HELD.format(holder=self._told(holder), **told)
            if card.taints:
                return texts.PIN_TAINTED.format(taint=card.taints[0], **told)
        return ""

    def _held_on(self, node: str) -> str:
        """The claims that have cards of a node, and how many."""
        counts, others = Counter[str](), 0
        for card in self._inventory.cards.on[node]:
            holder = self._holders.get(card.place)
            if holder is None:
                continue
            if holder.namespace == self._namespace:
                counts[self._told(holder)] += 1
            else:
                others += 1
        told = [f"{who} {count}" for who, count in counts.most_common(_MOST_NAMED)]
        if others:
            told.append(f"ResourceClaims of other namespaces {others}")
        return texts.HELD_BY.format(holders=", ".join(told)) if told else ""

    def _told(self, holder: DeviceClaim) -> str:
        told = texts.HOLDER.format(claim=holder.name, users=users(holder.users))
        return seen_from(self._namespace, holder.namespace, "ResourceClaim", told)


def users(pods: Sequence[str]) -> str:
    """Who has a claim, in a bracket; empty where nobody has."""
    if not pods:
        return ""
    more = f" and {len(pods) - _MOST_NAMED} more" if len(pods) > _MOST_NAMED else ""
    return texts.CLAIM_USED.format(pods=", ".join(pods[:_MOST_NAMED]) + more)
