"""SGLang versions: which one an image holds, and what it can do.

What an engine of a version can do is a field of :class:`Features`.  How much memory it takes is
told apart in ``memory.rules``, which process numbers it heeds in ``client.colocated``.  The facts
are from the released wheels.
"""

import re
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import images
from sglang_operator.engine.schemas import index

DEFAULT_IMAGE = "lmsysorg/sglang:v0.5.7"

_NOT_A_POST_RELEASE = -1
_RELEASE = r"v?([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?:\.post([0-9]{1,4}))?"
_VERSION = re.compile(_RELEASE)
# A tag may go on with the platform (-cu129, -rocm700-mi30x) or the flavour (-runtime).
_TAG = re.compile(_RELEASE + r"(?:-[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True, kw_only=True, order=True)
class Version:
    """A released version; post-releases come after what they correct."""

    major: int
    minor: int
    patch: int
    post: int = _NOT_A_POST_RELEASE

    def __str__(self) -> str:
        base = f"{self.major}.{self.minor}.{self.patch}"
        return base if self.post == _NOT_A_POST_RELEASE else f"{base}.post{self.post}"


def parse(text: str) -> Version:
    """A version from ``0.5.5.post3`` or ``v0.5.7``.

    Raises :class:`errors.InvalidError` for anything else, pre-releases included: what a release
    candidate can do is not known from its number.
    """
    version = _matched(_VERSION, text)
    if version is None:
        raise errors.InvalidError(
            errors.ENGINE_VERSION("spec.engineVersion", found=errors.word(text))
        )
    return version


def reported(text: str) -> Version | None:
    """The release that an engine says it is, whoever built it; None if that is none."""
    return _matched(_VERSION, text.partition("+")[0])


def _matched(pattern: re.Pattern[str], text: str) -> Version | None:
    match = pattern.fullmatch(text)
    if match is None:
        return None
    major, minor, patch, post = match.groups()
    return Version(
        major=int(major),
        minor=int(minor),
        patch=int(patch),
        post=_NOT_A_POST_RELEASE if post is None else int(post),
    )


# ROLL roll/third_party/sglang/__init__.py: all others raise NotImplementedError in its trainer.
ROLL_VERSIONS = tuple(
    map(
        parse,
        (
            "0.4.6.post1",
            "0.4.6.post4",
            "0.4.6.post5",
            "0.4.10.post2",
            "0.5.2",
            "0.5.4.post2",
            "0.5.5.post3",
            "0.5.6.post2",
            "0.5.7",
        ),
    )
)
NEWEST_KNOWN = parse(index.VERSIONS[-1])


@dataclass(frozen=True, kw_only=True)
class Detected:
    """The version to go by; ``known`` is false where it is only assumed."""

    version: Version
    known: bool
    problems: tuple[errors.Problem, ...]


def detect(image: str, engine_version: str | None) -> Detected:
    """The SGLang version in an image: what the user says, else its tag, else the newest known.

    Never raises; an ``engine_version`` that is none is among the problems, as an error.
    """
    tagged = _matched(_TAG, images.tag(image))
    if engine_version is None:
        return _of_tag(image, tagged)
    try:
        said = parse(engine_version)
    except errors.InvalidError as error:
        return Detected(version=tagged or NEWEST_KNOWN, known=False, problems=(error.problem,))
    problems = _outside_roll(said)
    if tagged is not None and tagged != said:
        mismatch = errors.VERSION_MISMATCH(
            "spec.engineVersion", found=said, image=images.shown(image), version=tagged
        )
        problems = (mismatch, *problems)
    return Detected(version=said, known=True, problems=problems)


def _of_tag(image: str, tagged: Version | None) -> Detected:
    if tagged is not None:
        return Detected(version=tagged, known=True, problems=_outside_roll(tagged))
    unknown = errors.VERSION_UNKNOWN("spec.image", image=images.shown(image), version=NEWEST_KNOWN)
    return Detected(version=NEWEST_KNOWN, known=False, problems=(unknown,))


def _outside_roll(version: Version) -> tuple[errors.Problem, ...]:
    if version in ROLL_VERSIONS:
        return ()
    supported = ", ".join(map(str, ROLL_VERSIONS))
    return (errors.VERSION_OUTSIDE_ROLL("spec.image", version=version, versions=supported),)


# The first versions with each feature; sources at the fields of Features.
HEALTH_WITHOUT_GENERATION_SINCE = parse("0.5.6")
WEIGHT_VERSION_SINCE = parse("0.5.2")
READY_SINCE = parse("0.5.20")
MODEL_INFO_SINCE = parse("0.5.6")
SERVER_INFO_PATHS = ("/server_info", "/get_server_info")  # the latter is the older name
ROUTED_EXPERTS_SINCE = parse("0.5.6.post3")
ROUTED_EXPERTS_AS_TEXT_SINCE = parse("0.5.10")
PREFERRED_SAMPLING_SINCE = parse("0.4.6.post5")
ADMIN_API_KEY_SINCE = parse("0.5.8")
WEIGHT_SESSION_SINCE = parse("0.5.21")
NO_SESSION = "no weight-update session is open"  # SGLang to who ends one; its weight_updater.py
GET_LOAD_SINCE = parse("0.4.10.post2")
LOADS_SINCE = parse("0.5.9")
PAUSE_SINCE = parse("0.4.10.post2")
PAUSE_MODES_SINCE = parse("0.5.6.post2")
DESTROY_GROUP_SINCE = parse("0.5.4.post2")
CRASH_DIAGNOSTICS_SINCE = parse("0.5.13")
PAUSE_REACHES_TOKENIZERS_SINCE = parse("0.5.12")
PAUSE_STOPS_DISAGGREGATED_SINCE = parse("0.5.12")
# /flush_cache while paused minds requests that wait, from the one on and until the other.
FLUSH_MINDS_WAITING = (parse("0.5.10"), parse("0.5.21"))


@dataclass(frozen=True, kw_only=True)
class Features:
    """What an engine of one version can do."""

    # SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=false makes /health answer without generating.
    # 0.5.5.post3 has the variable, but tests the object instead of its value (http_server.py:
    # `not envs.SGLANG_…` without `.get()`), so that it has no effect there.
    health_without_generation: bool
    # --weight-version: in the wheel of 0.5.2, not in 0.4.10.post2.
    weight_version_flag: bool
    # GET /ready: in 0.5.20, a 404 in 0.5.14.
    ready_endpoint: bool
    # GET, needs the API key if there is one: /model_info since 0.5.6, an older name before.
    model_info_path: str
    # GET, needs the API key if there is one: /server_info since 0.5.6, an older name before.  The
    # scheduler has to answer, and it shows every argument in clear, keys too.
    server_info_path: str
    # GET: requests and tokens in work.  /get_load since 0.4.10.post2 (gone in 0.5.21), /v1/loads
    # since 0.5.9; empty: nothing tells.
    load_path: str
    # --enable-return-routed-experts: ROLL asserts 0.5.6.post3; in 0.5.7, not in 0.5.6.post2.
    return_routed_experts: bool
    # --preferred-sampling-params: in 0.4.6.post5, not in 0.4.6.post1.
    # Over HTTP the experts that a token was routed to come as text, also without a tokenizer:
    # tokenizer_manager.py of 0.5.10 encodes them, that of 0.5.9 hands a tensor to JSON.
    routed_experts_as_text: bool
    preferred_sampling_params: bool
    # --admin-api-key: in 0.5.8, not in 0.5.7.
    admin_api_key: bool
    # /begin_weight_update and /end_weight_update, obligatory around updates since 0.5.21.
    begin_end_weight_update: bool
    # /pause_generation: in 0.4.10.post2, not in 0.4.6.post5.
    pause: bool
    # Its modes: PauseGenerationReqInput is in 0.5.6.post2, not in 0.5.5.post3, which only aborts.
    pause_modes: bool
    # With several tokenizer processes, a pause and its end reach all of them
    # (multi_tokenizer_mixin.py, PauseContinueBroadcast): in 0.5.12, not in 0.5.10.
    pause_reaches_tokenizers: bool
    # A pause stops the schedulers of disaggregated engines too (disaggregation/prefill.py and
    # decode.py look at _engine_paused): in 0.5.12, not in 0.5.9.
    pause_stops_disaggregated: bool
    # /destroy_weights_update_group: in the wheel of 0.5.4.post2, not in 0.5.2.
    destroy_group: bool
    # The tags of /release_memory_occupation; empty: it takes none, and releases everything.
    # Wheels of 0.4.10.post2 (constants.py: two) and 0.5.4.post2 (cuda_graph).
    memory_tags: tuple[str, ...]
    # /flush_cache goes through while requests wait that a pause retracted: scheduler.py,
    # _is_no_request until 0.5.9; is_fully_idle from 0.5.10 counts them, and from 0.5.21 not in a
    # pause (ignore_waiting).
    flush_keeps_requests: bool
    # Before it ends after a crash, tokenizer_manager.py (dump_requests_before_crash) sleeps 5 s for
    # diagnostics, and 60 more if a scheduler is left: in 0.5.13, not in 0.5.12.
    crash_diagnostics: bool

    @property
    def quickest_pause(self) -> str:
        """The mode of a pause that waits for nothing; empty where there is no pause."""
        if not self.pause:
            return ""
        return "retract" if self.pause_modes else "abort"


def features(version: Version) -> Features:
    """What an engine of this version can do."""
    return Features(
        health_without_generation=version >= HEALTH_WITHOUT_GENERATION_SINCE,
        weight_version_flag=version >= WEIGHT_VERSION_SINCE,
        ready_endpoint=version >= READY_SINCE,
        model_info_path="/model_info" if version >= MODEL_INFO_SINCE else "/get_model_info",
        server_info_path=SERVER_INFO_PATHS[version < MODEL_INFO_SINCE],
        load_path=_load_path(version),
        return_routed_experts=version >= ROUTED_EXPERTS_SINCE,
        routed_experts_as_text=version >= ROUTED_EXPERTS_AS_TEXT_SINCE,
        preferred_sampling_params=version >= PREFERRED_SAMPLING_SINCE,
        admin_api_key=version >= ADMIN_API_KEY_SINCE,
        begin_end_weight_update=version >= WEIGHT_SESSION_SINCE,
        pause=version >= PAUSE_SINCE,
        pause_modes=version >= PAUSE_MODES_SINCE,
        pause_reaches_tokenizers=version >= PAUSE_REACHES_TOKENIZERS_SINCE,
        pause_stops_disaggregated=version >= PAUSE_STOPS_DISAGGREGATED_SINCE,
        destroy_group=version >= DESTROY_GROUP_SINCE,
        memory_tags=_memory_tags(version),
        flush_keeps_requests=version >= PAUSE_MODES_SINCE and not _flush_minds_waiting(version),
        crash_diagnostics=version >= CRASH_DIAGNOSTICS_SINCE,
    )


def _memory_tags(version: Version) -> tuple[str, ...]:
    if version < PAUSE_SINCE:
        return ()
    since = ("weights", "kv_cache")
    return (*since, "cuda_graph") if version >= DESTROY_GROUP_SINCE else since


def _flush_minds_waiting(version: Version) -> bool:
    begun, ended = FLUSH_MINDS_WAITING
    return begun <= version < ended


def _load_path(version: Version) -> str:
    if version >= LOADS_SINCE:
        return "/v1/loads?include=core"
    return "/get_load" if version >= GET_LOAD_SINCE else ""
