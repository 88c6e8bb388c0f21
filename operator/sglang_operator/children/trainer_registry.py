"""The registry: what a trainer must know to attach to the pool, as one ConfigMap.

It lists pod addresses, which ignore readiness: a trainer reaches an engine to give it weights
before any client may reach it for answers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import orjson

from sglang_operator.api import bounds, errors, names
from sglang_operator.ask import engines as questions
from sglang_operator.children import metadata
from sglang_operator.engine import versions
from sglang_operator.gates import standing as stands
from sglang_operator.gates.decide import GatePlan
from sglang_operator.gates.holders import Holder
from sglang_operator.observed import facts
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.placement import devices
from sglang_operator.pool import registry_size
from sglang_operator.pool.resolve import EngineFacts, Owner, Pool
from sglang_operator.weights import rules, trail
from sglang_operator.weights import turn as turns
from sglang_operator.weights.lease_state import Transaction, of_phase
from sglang_operator.weights.times import shown

ENGINES_KEY = names.REGISTRY_KEY
# The same addresses (host:port) as other trainers take them, by rank.  While an engine has no
# address a form is called with an empty list, and has to give an empty text: not "[]" then, either.
SLIME_KEY = "slime"  # --rollout-external-engine-addrs host:port host:port
AREAL_KEY = "areal"  # AREAL_LLM_SERVER_ADDRS=host:port,host:port
FORMATS: Mapping[str, Callable[[Sequence[str]], str]] = {SLIME_KEY: " ".join, AREAL_KEY: ",".join}

MOST_NAMED = 8  # where there is no room for all: enough to look for the others
MOST_REVISIONS = 24  # entries of them: engines may say what they like
TAKEN, TAKEN_BESIDE = "taken", "takenBeside"
HOLDERS = "holders"
RUNS_IN_PART = "runsInPart"  # told only where it is so
_APART = "/"  # between a revision and the version of those of its engines that have another
LAST_PORT = 65535
MOST_GPUS = 2**16


def registry(pool: Pool, weights: GatePlan) -> dict[str, Any]:
    """The ConfigMap with every engine by rank.

    What other trainers take is left out where it has no room (from some 3,400 engines on): a pool
    whose engines alone have none is refused (pool/registry_size.py).  So it is while an engine
    has no address: these forms know a rank by its place, and one less would move those behind it.
    """
    content = document(pool, weights)
    if weights.others and len(orjson.dumps(content)) > registry_size.LIMIT:
        few = content["unlisted"][:MOST_NAMED]
        content["unlisted"] = [{**each, "url": None, "instance": None} for each in few]
    return config_map(pool.owner, content)


def config_map(owner: Owner, content: Mapping[str, Any]) -> dict[str, Any]:
    """The ConfigMap that says this, also in the forms of other trainers."""
    engines = orjson.dumps(content)
    urls = [engine["url"] for engine in content["engines"]]
    known = [url.removeprefix("http://") for url in urls] if all(urls) else []
    renderings = {key: form(known) for key, form in FORMATS.items()}
    if len(engines) + sum(map(len, renderings.values())) > registry_size.LIMIT:
        renderings = dict.fromkeys(renderings, "")
    return metadata.child(
        owner,
        "v1",
        "ConfigMap",
        names.registry_name(owner.name),
        "registry",
        data={ENGINES_KEY: engines.decode(), **renderings},
    )


def document(pool: Pool, weights: GatePlan) -> dict[str, Any]:
    """The registry's content.

    ``worldSize`` and ``rankOffset`` follow ROLL's NCCL group: the trainer is rank 0, and an engine
    begins after the GPUs of those before it (ROLL roll/distributed/strategy/sglang_strategy.py).
    While a change of their number is rolled out, each has those that it was started with.

    ``engineVersion`` and ``port`` are those of the spec, and ``revisions`` says what other engines
    have, started by an earlier spec or of another version by their own word; no engine may be
    synced, or put to sleep, that was started in a way that forbids it.  Of two pods of one engine,
    while a new one comes up beside an old one, it names the one that is synced next
    (``plan.heirs``).  ``unlisted`` are engines beside those that still run: who puts the pool to
    sleep, or wakes it, reaches them too.  Of those that are on their way out (Waiting) it says
    until when: ``graceSeconds`` from the time when they were told.  ``hidden`` are pods in which
    engines may sleep that are not told of here.  ``holders``, where a trainer has the GPUs in turns
    with engines, are pods that may hold memory of these GPUs and in which no engine is told of, by
    the ids of the GPUs where these are known: the memory is not the trainer's before they are gone.

    ``placement``: only where the ids of ``device_mapping`` are GPUs of the trainer's nodes: how
    many each node rank has, and whether the trainer is to say which (``awaitsSlots``).

    ``runsInPart``: of an engine that is Lost, where it has a process on a node that is not: that
    holds GPU memory.

    ``weights.transaction`` is the one that the operator has acted upon: every gate was set as it
    asks.  Empty while that is still to be done.  ``weights.count`` is how many there were so far,
    ``weights.trail`` the number of the write that began the last one, and its digest: by these the
    next operator knows a Lease that was put back.
    ``weights.seen`` is the last one that it knew of when it wrote this: whoever has begun one knows
    by it that the engines are told as they are now, not as an operator that is gone has left them.
    ``weights.groups`` and ``weights.claims`` say the same to who forms process groups without one:
    by its id, and how often it had claimed them.  An operator of before writes neither.
    ``weights.noSync`` says why no trainer may bring weights, where that is so: the pool has no gate
    then, but trainers need none to sync.
    ``weights.keepImages``: the ranks whose engines keep what a vision tower has made of images, as
    their pods were made so, by an earlier operator or by the user.
    ``weights.released``: the memory that engines may have released, but for what ``weights.woken``
    names by instance and tag; of ``weights.unclear`` nobody knows, and of no sleeper while
    ``weights.unsure``: somebody is at work on them, or died so.  ``weights.asleep`` are the ranks
    whose engines sleep, or are about to, and ``weights.behind`` those that are awake and lack
    what was committed last; of the others ``state`` says whether they serve.  ``weights.parts``:
    this operator lets the others serve on, which one of before does not.
    ``weights.turns``: engines are on their trainer's GPUs, and those that it has, by the Lease
    (``weights.turn``), have no engine started on them: ``weights.waits`` are the ranks that are not
    there for that.  It names none while the operator makes any.
    ``weights.taken`` are the ranks whose GPUs engines of another pool have (``weights.takenBy``),
    or pods of none that there is (``holders``), and ``weights.takenBeside`` such engines without a
    rank: none of them is made, or may be woken.

    Of a Lease that was emptied or put back it says what that said before, until the operator's own
    step stands there: the one that replaces it right then knows it by that.
    """
    known = [_facts(pool, weights, engine) for engine in weights.listed]
    counted = known or [pool.facts]
    beside = [_facts(pool, weights, engine) for engine in weights.others]
    unlisted = list(map(partial(_beside, pool, weights), weights.others, beside))
    every = (*weights.listed, *weights.others)
    offsets = list(accumulate((each.gpus for each in known), initial=1))
    no_sync = next((each.no_sync for each in counted if each.no_sync), "")
    return {
        "pool": pool.owner.name,
        "namespace": pool.owner.namespace,
        "epoch": weights.epoch,
        "engineVersion": str(pool.version),
        "port": pool.spec.network.port,
        "memorySaver": all(each.saves_memory for each in (*counted, *beside)),
        **_places(pool),
        "worldSize": offsets[-1],
        "generation": dict(pool.sampling),
        "weights": {
            "gate": pool.gate.value,
            "lease": names.weights_lease_name(pool.owner.name),
            **acted_upon(weights, every),
            **by_weights(weights, weights.listed),
            **contended(weights),
            **_keeping_images(weights.listed),
            **({"turns": True} if pool.takes_turns else {}),
            **({"noSync": no_sync} if no_sync else {}),
        },
        "revisions": _revisions(pool, weights, known),
        **({"unlisted": unlisted} if unlisted else {}),
        **({"hidden": list(weights.hidden[:MOST_NAMED])} if weights.hidden else {}),
        **holding(weights.holders),
        "engines": [
            _engine(pool, weights, engine, each, offset)
            for engine, each, offset in zip(weights.listed, known, offsets[:-1], strict=True)
        ],
    }


def _places(pool: Pool) -> dict[str, Any]:
    """What ids mean, where they are more than a number."""
    if not pool.placement.by_id:
        return {}
    per_node = pool.spec.num_gpus_per_node
    return {"placement": {"numGpusPerNode": per_node, "awaitsSlots": pool.awaits_slots}}


def acted_upon(weights: GatePlan, engines: Iterable[EngineStatus]) -> dict[str, Any]:
    """What the operator has seen of the transaction, and done about it."""
    current, told, owner = weights.transaction, weights.told, weights.transaction.groups
    return {
        "phase": told.phase.value,
        **_released(told, engines),
        **({"turn": turns.written(told.turn)} if told.turn is not None else {}),
        "version": told.version,
        "transaction": current.id if weights.settled else "",
        "count": told.transitions,
        "trail": trail.written(told.trail.last),
        # Who has begun by a Lease that was put back goes no farther.
        "seen": current.id if told == current else "",
        "groups": owner.id if owner is not None else "",
        "claims": owner.claims if owner is not None else 0,
        "parts": True,
    }


def by_weights(weights: GatePlan, engines: Iterable[EngineStatus]) -> dict[str, list[list[int]]]:
    """The ranks that sleep, that are behind the commit, and that wait for their turn, if any."""
    engines, told = list(engines), weights.told
    found = {
        "asleep": stands.asleep(engines, told),
        "behind": stands.behind(engines, told),
        "waits": stands.waiting(engines, weights.transaction, weights.occupied),
        TAKEN: [engine for engine in engines if engine.name in weights.taken],
    }
    ranks: dict[str, list[list[int]]] = {}
    for key, each in found.items():
        for engine in each:
            _extend(ranks.setdefault(key, []), engine.rank)
    return ranks


def contended(weights: GatePlan) -> dict[str, list[str]]:
    """Which pools have GPUs of these engines, and the engines without a rank of which they do."""
    if not weights.taken:
        return {}
    beside: list[str] = sorted({e.name for e in weights.others} & weights.taken.keys())
    who = sorted({*weights.taken.values()} - {""})[:MOST_NAMED]
    told = {"takenBy": who, TAKEN_BESIDE: beside}
    return {key: found for key, found in told.items() if found}


def holding(holders: Sequence[Holder]) -> dict[str, list[dict[str, Any]]]:
    """Pods that may hold memory of a trainer's GPUs, beside all engines that are told of.

    Where there is no room for all, those that are named stand for the others: on any GPU.
    """
    room = len(holders) <= MOST_NAMED
    told = [
        {"pod": each.pod, "devices": list(each.devices) if room else []}
        for each in holders[:MOST_NAMED]
    ]
    return {HOLDERS: told} if told else {}


def told_taken(data: Mapping[str, str], transaction: str) -> frozenset[names.EngineName] | None:
    """The engines of which a trainer was told, in this transaction, that another pool has their
    GPUs; None where it has been told nothing in it yet."""
    try:
        told = orjson.loads(data[ENGINES_KEY])
        weights, engines = told["weights"], told["engines"]
        if weights["seen"] != transaction:
            return None
        found = [engines[r]["engine"] for a, z in weights.get(TAKEN, ()) for r in range(a, z + 1)]
        return frozenset((*found, *weights.get(TAKEN_BESIDE, ())))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _facts(pool: Pool, weights: GatePlan, engine: EngineStatus) -> EngineFacts:
    return facts.of(pool, engine.leader, engine.instance, weights.revisions, weights.reports)


def _revisions(pool: Pool, weights: GatePlan, known: Sequence[EngineFacts]) -> dict[str, Any]:
    """What engines are started with, by revision, and the ranks where that is not the spec's.

    The operator knows by it what engines have that it did not start itself.  Engines of one
    revision that say they are of another version than the rest have an entry of their own.
    """
    there = [engine for engine in weights.listed if engine.exists]
    of_all = {pool.revision: facts.learnt(pool, there, weights.revisions, weights.reports)}
    ranks: dict[str, list[list[int]]] = {}
    for engine, each in zip(weights.listed, known, strict=True):
        revision = engine.revision if engine.exists else pool.revision
        key = revision
        if of_all.setdefault(revision, each) != each:
            key = f"{revision}{_APART}{each.version}"
        if key not in of_all and len(of_all) >= MOST_REVISIONS:
            continue  # told as the spec says
        of_all[key] = each
        if each != pool.facts:
            _extend(ranks.setdefault(key, []), engine.rank)
    return {
        key: _written(each) | ({"ranks": ranks[key]} if key in ranks else {})
        for key, each in of_all.items()
    }


def _keeping_images(engines: Iterable[EngineStatus]) -> dict[str, list[list[int]]]:
    """The ranks that answer from what another vision tower has made of an image."""
    ranks: list[list[int]] = []
    for engine in engines:
        if engine.leader is not None and engine.leader.keeps_images:
            _extend(ranks, engine.rank)
    return {"keepImages": ranks} if ranks else {}


def _extend(ranges: list[list[int]], rank: int) -> None:
    """Most often a rollout has come as far as some rank: first and last are enough."""
    if ranges and ranges[-1][1] == rank - 1:
        ranges[-1][1] = rank
    else:
        ranges.append([rank, rank])


def _written(each: EngineFacts) -> dict[str, Any]:
    return {
        "engineVersion": each.version,
        "port": each.port,
        "memorySaver": each.saves_memory,
        **({"gpus": each.gpus} if each.gpus else {}),
        **({"noSync": each.no_sync} if each.no_sync else {}),
        **({"reported": True} if each.reported else {}),
    }


def revisions(data: Mapping[str, str]) -> dict[str, EngineFacts]:
    """What engines were started with, by revision, as far as a registry tells."""
    try:
        told = orjson.loads(data[ENGINES_KEY])["revisions"].items()
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    known = ((revision, _read(each)) for revision, each in told if _APART not in revision)
    return {revision: each for revision, each in known if each is not None}


def _read(told: Any) -> EngineFacts | None:
    """The facts as ``_written`` has them; None for anything else.

    Whoever may edit ConfigMaps may have written it, while no operator looked: it goes into the
    next registry, and nothing may be made of it but a comparison of types.
    """
    match told:
        case {"engineVersion": str(version), "port": int(port), "memorySaver": bool(saves)}:
            why, gpus = told.get("noSync", ""), told.get("gpus", 0)
        case _:
            return None
    if not isinstance(why, str) or len(why) > bounds.MAX_WORDS:
        return None
    if type(gpus) is not int or not 0 <= gpus <= MOST_GPUS:
        return None
    if isinstance(port, bool) or not 0 < port <= LAST_PORT or len(version) > bounds.MAX_LABEL:
        return None
    try:
        version = str(versions.parse(version))
    except errors.InvalidError:
        return None
    reported = told.get("reported") is True
    return EngineFacts(
        version=version,
        port=port,
        saves_memory=saves,
        gpus=gpus,
        no_sync=why,
        reported=reported,
    )


def _released(current: Transaction, engines: Iterable[EngineStatus]) -> dict[str, Any]:
    """What sleeps, told in few words: most often all engines do, on the same memory."""
    if not current.released:
        return {}
    runs = [run for engine in engines if (run := engine.instance)]
    left = ((run, set(current.released) - current.may_sleep(run)) for run in runs)
    woken = [f"{run}/{tag}" for run, tags in left for tag in sorted(tags)]
    unclear = [run for run in runs if run in current.unclear]
    more = {"woken": woken, "unclear": unclear, "unsure": rules.unsure(current)}
    return {"released": list(current.released), **{key: few for key, few in more.items() if few}}


def last_said(data: Mapping[str, str]) -> Transaction | None:
    """What the Lease said when the registry was written, as far as that tells."""
    try:
        told = orjson.loads(data[ENGINES_KEY])
        every = (*told["engines"], *told.get("unlisted", ()))
        runs = [engine["instance"] for engine in every if engine["instance"]]
        keys = ("released", "woken", "unclear")
        slept = {key: told["weights"].get(key) or [] for key in keys}
        slept["asleep"] = runs if slept["released"] else []
        if told["weights"].get("unsure") is True:
            slept["unclear"] = slept["asleep"]
        words = {key: ",".join(value) for key, value in slept.items()}
        count = told["weights"].get("count")
        # Whoever may edit ConfigMaps may have written it; a Lease counts no farther.
        count = count if type(count) is int and 0 < count <= bounds.INT32 else 0
        numbers = trail.read(told["weights"].get("trail"))
        words["turn"] = told["weights"].get("turn") or ""
        return of_phase(told["weights"]["phase"], **words, transitions=count, trail=numbers)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _engine(
    pool: Pool, weights: GatePlan, engine: EngineStatus, facts: EngineFacts, offset: int = 0
) -> dict[str, Any]:
    wanted = engine.engine
    return {
        "rank": wanted.rank,
        "engine": wanted.name,
        "devices": list(wanted.devices),
        "gpus": facts.gpus,
        "rankOffset": offset,
        **_uuids(weights, engine),
        **standing(engine, facts.port, gated=pool.gated),
    }


def _uuids(weights: GatePlan, engine: EngineStatus) -> dict[str, list[str]]:
    """The GPUs that it shares with its trainer, who can look at them; of others nothing is told,
    nor of such as nobody knows by their UUIDs yet."""
    gpus = [gpu for member in engine.members for gpu in member.gpus_seen]
    found = devices.uuids(gpus, weights.cards)
    return {"uuids": list(found)} if found else {}


def standing(engine: EngineStatus, port: int, *, gated: bool) -> dict[str, Any]:
    """What of an engine changes while the spec does not; ``gated``: the pool, as it is wanted."""
    gate = engine.gate
    is_open = gate is not None and gate.is_open
    gated = gated if engine.gated is None else engine.gated
    return {
        "state": engine.state.value,
        **({RUNS_IN_PART: True} if engine.runs_in_part else {}),
        "pod": engine.pod_name or None,
        "podIP": engine.ip or None,
        "url": _url(engine, port),
        "instance": engine.instance,
        "gate": ("Open" if is_open else "Closed") if gated else None,
        "version": gate.version if gate and is_open else None,
    }


_BY_RANK = ("rank", "devices", "gpus", "rankOffset")


def _beside(
    pool: Pool, weights: GatePlan, engine: EngineStatus, facts: EngineFacts
) -> dict[str, Any]:
    """An engine that is none of the pool's any more, or will soon be gone."""
    entry = _engine(pool, weights, engine, facts)
    told = {key: value for key, value in entry.items() if key not in _BY_RANK}
    if pool.takes_turns:  # who is to have its GPUs waits for it
        told["devices"] = entry["devices"]
    told["engineVersion"] = facts.version
    pod = engine.leader
    if engine.state is EngineState.WAITING and pod is not None:
        due, grace = pod.deletion_due, pod.deletion_due - pod.deletion_asked
        told["until"] = shown(due) if due else None
        told["graceSeconds"] = int(grace) if due else pool.spec.drain.grace_period_seconds
    return told


def _url(engine: EngineStatus, port: int) -> str | None:
    """Where the engine answers; None while it has no address."""
    return questions.url(engine.ip, port) if engine.ip else None
