"""The registry ``<pool>-engines``, read: every engine by rank, and the NCCL plan over them."""

import dataclasses
import functools
import json
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.client import given, texts
from sglang_operator.client.errors import NotReady, PoolError, Unsupported
from sglang_operator.engine import versions
from sglang_operator.weights import lease_state

UP_STATES = frozenset({"InService", "Up"})  # observed/engine_state.py
IN_SERVICE = "InService"
LOST = "Lost"
OPEN = "Open"  # of a gate
_ABOUT_TO_START = frozenset({"Pending", "Backoff", "Creating"})
_LEAVES = "Waiting"  # of an engine beside the pool's own
# States of an engine without a process that could hold memory here.
_NO_PROCESS = _ABOUT_TO_START | {LOST, _LEAVES}
GATE_OFF = "Off"
GATE_COMMITTED = "Committed"
COMMITTED = lease_state.Phase.COMMITTED.value
DEFAULT_GROUP = "weight_update_group"  # SGLang's own default
_CONFIG_KEY = "engines.json"
_BY_RANKS = (
    "keepImages",
    "asleep",
    "behind",
    "waits",
    "taken",
)  # what the registry tells of engines by their ranks


NO_RANK = -1  # of an engine beside the pool's own


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """A pod on its way out: it is killed after its grace, and may be gone long before."""

    until: str  # in words, by the cluster's clock; empty: not known
    grace: float  # seconds


@dataclass(frozen=True)
class Holder:
    """A pod that may hold memory of a trainer's GPUs, and in which no engine is told of."""

    pod: str
    devices: tuple[int, ...] = ()  # the ids of these GPUs; none: not known


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine.  ``instance`` names this very run of it; None while no container exists."""

    rank: int
    engine: str
    devices: tuple[int, ...]
    gpus: int
    rank_offset: int
    state: str
    pod: str | None
    pod_ip: str | None
    url: str | None
    instance: str | None
    gate: str | None  # Open, Closed; None: it was started without one
    version: str | None  # that its gate was opened with
    engine_version: str  # of its SGLang
    leaving: Leaving | None = None
    asleep: bool = False  # its memory is released, or about to be
    behind: bool = False  # it is awake, and lacks what was committed last
    waits: bool = False  # it is not there, nor made, until its trainer gives its GPUs back
    taken: bool = False  # another pool has the memory of its GPUs
    uuids: tuple[str, ...] = ()  # of its GPUs, where it shares them with its trainer
    keeps_images: bool = False  # what a vision tower has made of them, whatever weights come
    runs_in_part: bool = False  # one of its nodes is lost, and a process of it runs on another
    in_turns: bool = False  # its trainer has its GPUs in turns with it

    @property
    def features(self) -> versions.Features:
        """What its version of SGLang can do."""
        return features_of(self.engine_version)

    @property
    def up(self) -> bool:
        """It answers, whether or not clients may reach it."""
        return self.state in UP_STATES and self.url is not None and self.instance is not None

    @property
    def runs(self) -> bool:
        """It has a process, up or not, that may answer what it is asked."""
        return self.state not in _NO_PROCESS and self.url is not None and self.instance is not None

    @property
    def comes(self) -> bool:
        """It is about to have one, by what is known: its pod is there, or is being made."""
        return self.state in _ABOUT_TO_START

    @property
    def holds(self) -> bool:
        """It has a process that holds GPU memory, whether or not it may answer.

        On a node that is silent it may have, and whoever takes its GPUs meets that.
        """
        told = self.url is not None and self.instance is not None
        lost = self.state == LOST and (self.runs_in_part or self.in_turns)
        return (lost and told) or self.runs


@functools.cache
def features_of(engine_version: str) -> versions.Features:
    """What this version of SGLang can do.  Raises InvalidError for what is no version."""
    return versions.features(versions.parse(engine_version))


def alike(engines: Iterable[Engine]) -> list[tuple[versions.Features, list[Engine]]]:
    """Engines by what they can do: while a pool goes to another version it has both."""
    found: dict[versions.Features, list[Engine]] = {}
    for engine in engines:
        found.setdefault(engine.features, []).append(engine)
    return list(found.items())


@dataclass(frozen=True, kw_only=True)
class WeightsSection:
    """How the pool's weights stand, as the operator has seen it.

    Whether it has acted upon that, so that every gate is as it asks, ``transaction`` tells.
    """

    gate: str = GATE_OFF
    phase: str = ""
    version: str = ""
    transaction: str = ""  # the last that the operator has acted upon
    seen: str = ""  # the last that it has seen, acted upon or not
    groups: str | None = None  # whose process groups it has seen, by id; None: it does not tell
    claims: int = 0  # and how often that one had claimed them
    no_sync: str = ""  # why no trainer may bring weights
    parts: bool = False  # whether it leaves the others in service while a part sleeps
    turns: bool = False  # whether a trainer has these GPUs in turns with the engines
    taken_by: tuple[str, ...] = ()  # pools that have the memory of GPUs of engines (Engine.taken)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The pool's engines at one moment."""

    pool: str
    namespace: str
    epoch: str
    engine_version: str  # of the spec; while that is rolled out, engines have others too
    world_size: int
    generation: Mapping[str, Any] = field(default_factory=dict)
    weights: WeightsSection = WeightsSection()
    memory_saver: bool | None = None  # whether engines can release memory; None: not told
    gpus_per_node: int = 0  # of the trainer, whose GPUs the engines' ids are; 0: ids only count
    awaits_slots: bool = False  # whether the trainer is to say which GPUs those are
    engines: tuple[Engine, ...] = ()
    others: tuple[Engine, ...] = ()  # of the pool, and not of this part of it
    unlisted: tuple[Engine, ...] = ()  # that run beside those: wanted no more, or on their way out
    hidden: tuple[str, ...] = ()  # pods in which engines may sleep that are not among these
    holders: tuple[Holder, ...] = ()  # that may hold memory, and are not among these either
    resource_version: int = 0

    @property
    def features(self) -> dict[str, versions.Features]:
        """What each version of SGLang can do that its engines run."""
        return {each.engine_version: each.features for each in self.engines}

    @property
    def present(self) -> tuple[Engine, ...]:
        """The pool's engines, and those beside them that stay for now: who sleeps and wakes."""
        beside = (e for e in self.unlisted if not e.leaving)
        return (*self.engines, *(e for e in beside if e.url and e.instance))

    @property
    def unreached(self) -> tuple[Engine, ...]:
        """Engines that run, and of which the registry does not say where they answer."""
        beside = (e for e in self.unlisted if not e.leaving)
        return tuple(e for e in beside if not (e.url and e.instance))

    @property
    def running(self) -> Sequence[str] | None:
        """The instances of all engines that run; None while some may not be told of.

        One of these that waits for its trainer has none; of one of the ``others`` it is not said
        that it has ended: its sleep is another part's.
        """
        here = (engine for engine in self.engines if not engine.waits)
        every = (*here, *self.others, *self.unlisted)
        known = [e.instance for e in every if e.instance]
        return known if len(known) == len(every) and not self.hidden else None

    def synced(self, version: str) -> int:
        """Engines whose gate is open at this version; the Services follow within a moment.

        One without a gate is reached whatever it holds: the commit vouches for it alone.
        """
        committed = (self.weights.phase, self.weights.version) == (COMMITTED, version)
        return sum(committed if e.gate is None else e.version == version for e in self.engines)

    def of(self, engines: Iterable[Engine]) -> "Registry":
        """The same with those engines only."""
        known = {engine.engine for engine in engines}
        left = tuple(engine for engine in self.engines if engine.engine in known)
        others = (engine for engine in self.engines if engine.engine not in known)
        return dataclasses.replace(self, engines=left, others=(*self.others, *others))

    def require_all_or_gated(self, covered: Iterable[Engine]) -> None:
        """Raises Unsupported if these are a part only, and not a commit alone opens gates.

        What the others hold may be torn, with the label of a version before.
        """
        known = {engine.engine for engine in covered}
        others = [engine for engine in self.engines if engine.engine not in known]
        words = texts.PART_OF_THE_POOL
        if self.weights.gate == GATE_COMMITTED:
            others = [engine for engine in others if engine.gate is None]
            words = texts.PART_WITHOUT_GATE
        if others:
            which = ", ".join(f"engine {e.rank} ({e.engine})" for e in others[:8])
            gate, count = self.weights.gate, len(self.engines)
            raise Unsupported(words.format(which=which, gate=gate, engines=count))

    def require_up(self) -> None:
        """Raises :class:`NotReady` unless there are engines and all of them are up."""
        if not self.engines:
            raise NotReady(texts.NO_ENGINES)
        missing = [engine for engine in self.engines if not engine.up]
        if missing:
            which = ", ".join(f"engine {e.rank} ({e.engine}): {e.state}" for e in missing[:8])
            which += f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            up = len(self.engines) - len(missing)
            raise NotReady(texts.NOT_UP.format(up=up, wanted=len(self.engines), which=which))

    def require_for_sync(self) -> None:
        """Raises NotReady as ``require_up``, Unsupported where engines cannot be synced."""
        if why := self.weights.no_sync:
            raise Unsupported(texts.NO_SYNC.format(why=why))
        self.require_up()

    def nccl_plan(
        self,
        master_address: str,
        master_port: int,
        *,
        group_name: str = DEFAULT_GROUP,
        backend: str = "nccl",
    ) -> "NcclPlan":
        """The process group of trainer and engines; the trainer is its master and rank 0.

        Both sides use the plan's ``group_name``: where engines cannot leave a group, each plan has
        a name of its own, because torch keeps names for the life of a process.
        """
        self.require_up()
        if not all(engine.features.destroy_group for engine in self.engines):
            group_name = f"{group_name}-{secrets.token_hex(4)}"
        return NcclPlan(
            epoch=self.epoch,
            master_address=given.text(master_address, "master_address"),
            master_port=given.port(master_port, "master_port"),
            world_size=self.world_size,
            group_name=given.version(group_name, "group_name"),
            backend=given.text(backend, "backend"),
            rank_offsets={engine.rank: engine.rank_offset for engine in self.engines},
        )


@dataclass(frozen=True, kw_only=True)
class NcclPlan:
    """What each side passes to form the group.

    The trainer's rank 0 listens on ``master_address:master_port``; engine i takes ranks from
    ``rank_offsets[i]``, one for each of its GPUs (ROLL, slime: 1 + GPUs of the engines before it).
    """

    epoch: str
    master_address: str
    master_port: int
    world_size: int
    group_name: str
    backend: str
    rank_offsets: Mapping[int, int]

    def payload(self, rank: int) -> dict[str, Any]:
        """The body of ``/init_weights_update_group`` for the engine of this rank."""
        return {
            "master_address": self.master_address,
            "master_port": self.master_port,
            "rank_offset": self.rank_offsets[rank],
            "world_size": self.world_size,
            "group_name": self.group_name,
            "backend": self.backend,
        }


def parse(config_map: Mapping[str, Any]) -> Registry:
    """The registry in a ConfigMap.  Raises :class:`PoolError` if it is none."""
    metadata = config_map.get("metadata") or {}
    try:
        document = json.loads((config_map.get("data") or {})[_CONFIG_KEY])
        current, earlier = document["engineVersion"], _earlier(document.get("revisions") or {})
        section, places = document.get("weights") or {}, document.get("placement") or {}
        said = {key: set(_ranks(section.get(key) or ())) for key in _BY_RANKS}
        weights = _gates(section)
        return Registry(
            pool=document["pool"],
            namespace=document["namespace"],
            epoch=document["epoch"],
            engine_version=current,
            world_size=document["worldSize"],
            generation=document.get("generation") or {},
            weights=weights,
            memory_saver=document.get("memorySaver"),
            gpus_per_node=int(places.get("numGpusPerNode") or 0),
            awaits_slots=places.get("awaitsSlots") is True,
            engines=tuple(
                _engine(item, earlier.get(item["rank"], current), said, weights.turns)
                for item in document["engines"]
            ),
            unlisted=tuple(
                _beside(item, weights.turns, section.get("takenBeside") or ())
                for item in document.get("unlisted") or ()
            ),
            hidden=tuple(document.get("hidden") or ()),
            holders=tuple(
                Holder(item["pod"], tuple(item.get("devices") or ()))
                for item in document.get("holders") or ()
            ),
            resource_version=int(metadata.get("resourceVersion") or 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PoolError(
            texts.BROKEN_REGISTRY.format(
                namespace=metadata.get("namespace"), name=metadata.get("name"), detail=repr(error)
            )
        ) from error


def _gates(section: Mapping[str, Any]) -> WeightsSection:
    return WeightsSection(
        gate=section.get("gate") or GATE_OFF,
        phase=section.get("phase") or "",
        version=section.get("version") or "",
        transaction=section.get("transaction") or "",
        seen=section.get("seen") or section.get("transaction") or "",
        groups=section.get("groups"),
        claims=section.get("claims") or 0,
        no_sync=section.get("noSync") or "",
        parts=section.get("parts") is True,
        turns=section.get("turns") is True,
        taken_by=tuple(section.get("takenBy") or ()),
    )


def _earlier(revisions: Mapping[str, Any]) -> dict[int, str]:
    """The version of SGLang by rank, where an engine has that of an earlier spec."""
    return {
        rank: each["engineVersion"]
        for each in revisions.values()
        for rank in _ranks(each.get("ranks", ()))
    }


def _ranks(ranges: Iterable[Iterable[int]]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)


def _engine(
    item: Mapping[str, Any],
    engine_version: str,
    said: Mapping[str, Container[int]] | None = None,
    in_turns: bool = False,
) -> Engine:
    rank = item["rank"]
    told = [rank in said[key] if said else False for key in _BY_RANKS]
    images, asleep, behind, waits, taken = told
    return Engine(
        rank=rank,
        engine=item["engine"],
        devices=tuple(item.get("devices") or ()),
        gpus=item["gpus"],
        rank_offset=item["rankOffset"],
        state=item["state"],
        pod=item.get("pod"),
        pod_ip=item.get("podIP"),
        url=item.get("url"),
        instance=item.get("instance"),
        gate=item.get("gate"),
        version=item.get("version"),
        engine_version=engine_version,
        waits=waits,
        taken=taken,
        uuids=tuple(item.get("uuids") or ()),
        keeps_images=images,
        asleep=asleep,
        behind=behind,
        runs_in_part=item.get("runsInPart") is True,
        in_turns=in_turns,
    )


def _beside(item: Mapping[str, Any], in_turns: bool, taken: Container[str]) -> Engine:
    by_rank = {"rank": NO_RANK, "gpus": 0, "rankOffset": 0}
    engine = _engine({**item, **by_rank}, item["engineVersion"], in_turns=in_turns)
    engine = dataclasses.replace(engine, taken=engine.engine in taken)
    if item["state"] != _LEAVES:
        return engine
    until, grace = item.get("until") or "", float(item.get("graceSeconds") or 0)
    return dataclasses.replace(engine, leaving=Leaving(until=until, grace=grace))


def changes(covered: tuple[Engine, ...], registry: Registry) -> list[str]:
    """What became of the covered engines, in words; empty while all are the same."""
    now = {engine.engine: engine for engine in registry.engines}
    changed = []
    for engine in covered:
        found = now.get(engine.engine)
        if found is None:
            changed.append(texts.GONE.format(rank=engine.rank, engine=engine.engine))
        elif found.instance != engine.instance:
            changed.append(texts.RESTARTED.format(rank=engine.rank, engine=engine.engine))
        elif found.rank != engine.rank:
            changed.append(
                texts.MOVED.format(rank=engine.rank, engine=engine.engine, now=found.rank)
            )
    return changed
