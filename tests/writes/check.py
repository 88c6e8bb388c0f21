"""Whether every write carries the guards that it must, and whether each of them holds."""

import asyncio
from collections.abc import Iterator, Mapping

from tests.memory_api import MemoryApi
from tests.writes.guards import Guard, Guarded, Mutant
from tests.writes.sites import Site, sites
from tests.writes.stories import STORIES

UID, VERSION, FENCE, DRY_RUN = Guard.UID, Guard.VERSION, Guard.FENCE, Guard.DRY_RUN

# By write, what it has to carry.  A create names an object that is not there yet: its name is the
# lock.  An Event has a name that nobody else gives.  Whoever holds a Lease may change it, so only
# its version tells that it is still the same; and the fence is made of the operator's own Lease.
REQUIRED: Mapping[tuple[str, str, str], frozenset[Guard]] = {
    ("cluster/writer.py", "once", "POST"): frozenset({FENCE}),  # of a pod
    ("cluster/executor.py", "_delete_pod", "DELETE"): frozenset({UID, VERSION, FENCE}),
    # Whatever became of it since: it is no engine in any state.
    ("cluster/executor.py", "take_back", "DELETE"): frozenset({UID, FENCE}),
    ("cluster/executor.py", "_patch_gate", "PATCH"): frozenset({UID, VERSION, FENCE}),
    ("cluster/executor.py", "_write_lease", "PATCH"): frozenset({UID, VERSION, FENCE}),
    ("cluster/child_writer.py", "write_one", "DELETE"): frozenset({UID, FENCE}),
    ("cluster/child_writer.py", "write_one", "PATCH"): frozenset({UID, FENCE}),
    ("cluster/child_writer.py", "write_one", "POST"): frozenset({FENCE}),
    ("cluster/executor.py", "status", "PATCH"): frozenset({UID, VERSION, FENCE}),
    ("kube/leader_election.py", "_read_or_create", "POST"): frozenset(),
    ("kube/leader_election.py", "_write", "PUT"): frozenset({VERSION}),
    ("cluster/recorder.py", "_tell", "PATCH"): frozenset({FENCE}),
    ("cluster/recorder.py", "_tell", "POST"): frozenset({FENCE}),
    ("cluster/dry_runs.py", "_try", "POST"): frozenset({FENCE, DRY_RUN}),
    ("client/cluster.py", "put_lease", "PUT"): frozenset({UID, VERSION}),
    # Each of a trainer's pods has a key of its own there, and its last word counts.
    ("client/cluster.py", "patch_slots", "PATCH"): frozenset(),
}


STORIES_SECONDS = 120.0


def mutants() -> Iterator[Mutant]:
    """Each write that there is, without each of its guards."""
    for site in sites():
        for guard in sorted(_required(site), key=lambda guard: guard.key):
            yield Mutant(site, guard)


def problems(mutant: Mutant | None = None) -> list[str]:
    """What is wrong with the writes, of which ``mutant`` spoils one."""

    async def bounded() -> list[str]:
        async with asyncio.timeout(STORIES_SECONDS):  # one may wait for a lost write
            return await _problems(mutant)

    return asyncio.run(bounded())


async def _problems(mutant: Mutant | None) -> list[str]:
    carried: dict[Site, set[Guard]] = {}
    harmed: set[tuple[Site, Guard]] = set()
    for tried in (None, *Guard):
        for story in STORIES:
            api = MemoryApi()
            client = Guarded(api, tried, mutant)
            await story(api, client)
            for site, guards in client.carried.items():
                carried.setdefault(site, set()).update(guards)
            if tried is not None:
                harmed |= {(site, tried) for site in client.harmed}
    found = []
    for site in sites():
        required = _required(site)
        if site not in carried:
            found.append(f"{site}: no story makes this write (tests/writes/stories.py)")
        elif carried[site] != required:
            found.append(f"{site}: carries {_words(carried[site])}, not {_words(required)}")
        found += [
            f"{site}: went through although only its {guard.key} stood against it"
            for guard in required
            if (site, guard) in harmed
        ]
    return found


def _required(site: Site) -> frozenset[Guard]:
    key = (site.path, site.function, site.method)
    assert key in REQUIRED, f"{site}: a write that tests/writes/check.py has nothing about"
    return REQUIRED[key]


def _words(guards: set[Guard] | frozenset[Guard]) -> str:
    return " and ".join(sorted(guard.key for guard in guards)) or "nothing"
