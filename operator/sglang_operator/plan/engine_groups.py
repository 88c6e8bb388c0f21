"""The groups of one engine, as the rules of a pass find and leave them.  Pure."""

from dataclasses import dataclass, field

from sglang_operator.observed.groups import Group


@dataclass(kw_only=True, slots=True)
class EngineGroups:
    """The groups of one engine, wanted or not, sorted by what may be done with them."""

    live: list[Group] = field(default_factory=list)  # the one to keep comes first
    lost: list[Group] = field(default_factory=list)
    dying: list[Group] = field(default_factory=list)
    ended: list[Group] = field(default_factory=list)
    highest: int = -1  # attempt
    # Of the present revision, beside one of an older revision that serves until this one does.
    beside: Group | None = None
    # Of those that trainers are told of in place of the one that is kept (``plan.heirs``).
    heir: Group | None = None

    @property
    def kept(self) -> Group | None:
        """The group that stands for the engine."""
        return self.live[0] if self.live else None

    @property
    def last_ended(self) -> Group | None:
        """Of the groups that ended the one of the latest attempt."""
        return max(self.ended, key=lambda group: group.attempt, default=None)


NO_GROUPS = EngineGroups()
