"""Which engines are to be asked, what, and how often.  Pure; ``fleet`` asks.

The rule is silence: what Kubernetes tells no engine is asked, and one with an API key is asked
nothing, because the operator reads no Secrets (explanation/weights.md).  What is asked:

- once for each life of an engine, what it runs: its real version and arguments;
- for a Versioned gate, the version of its weights;
- for hang detection, which is off by default, whether its work moves.

Each is asked as the one that it is (``observed.facts``), those of an earlier revision too: while a
rollout is paused, or keeps some ranks, they are not on their way out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from sglang_operator.api.spec import WeightsGate
from sglang_operator.engine import versions
from sglang_operator.observed import facts
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import EngineReport
from sglang_operator.pool.resolve import EngineFacts, Pool
from sglang_operator.weights.lease_state import Phase, Transaction

WEIGHTS_SECONDS = 3.0
# Seconds between two looks at an engine's work: a quarter of the time after which it hangs.
LOAD_SECONDS = (5.0, 30.0)
_NOTHING_BEGUN = Transaction()
# The engines are a trainer's, and their work stands still because it says so.
QUIET_PHASES = (Phase.SYNCING, Phase.SLEEPING, Phase.AWAKE)


class Topic(Enum):
    RESOLVED = "resolved"
    WEIGHTS = "weights"
    LOAD = "load"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One thing to ask of one instance of an engine."""

    instance: str
    topic: Topic
    url: str  # of the engine, without a path
    features: versions.Features
    every: float | None = None  # seconds between two times; None: until it has answered


def url(address: str, port: int) -> str:
    """Where an engine answers, without a path."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}"


def questions(
    pool: Pool,
    engines: Sequence[EngineStatus],
    current: Transaction = _NOTHING_BEGUN,
    loading: Collection[str] = (),
    revisions: Mapping[str, EngineFacts] = MappingProxyType({}),
    reports: Mapping[str, EngineReport] = MappingProxyType({}),
) -> tuple[Question, ...]:
    """Everything to ask of this pool's engines while they and their weights stand like this.

    ``loading``: the instances that read a checkpoint for the operator: they answer nothing.
    ``revisions`` and ``reports`` are what is known of the engines.
    """
    security = pool.spec.security
    if security.api_key is not None or security.admin_api_key is not None:
        return ()
    return tuple(
        question
        for engine in engines
        for question in _of_engine(
            pool,
            engine,
            facts.of(pool, engine.leader, engine.instance, revisions, reports),
            current.of(engine.instance).phase,
            loading,
        )
    )


def _of_engine(
    pool: Pool,
    engine: EngineStatus,
    known: EngineFacts,
    phase: Phase,
    loading: Collection[str],
) -> Iterator[Question]:
    instance = engine.instance
    if not (engine.up and engine.ip and instance):
        return
    to_ask: list[tuple[Topic, float | None]] = [(Topic.RESOLVED, None)]
    features = known.features
    if pool.gate is WeightsGate.VERSIONED and features.weight_version_flag:
        to_ask.append((Topic.WEIGHTS, WEIGHTS_SECONDS))
    hang = pool.spec.restart.hang_seconds
    works = phase not in QUIET_PHASES and instance not in loading
    if hang is not None and works and features.load_path:
        least, most = LOAD_SECONDS
        to_ask.append((Topic.LOAD, min(most, max(least, hang / 4))))
    for topic, every in to_ask:
        yield Question(
            instance=instance,
            topic=topic,
            url=url(engine.ip, known.port),
            features=features,
            every=every,
        )
