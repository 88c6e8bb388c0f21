"""The environment of an engine's container: ours, then ROLL's ``system_envs``.

Values come out as Kubernetes takes them: strings, with every ``$`` doubled, because the kubelet
would expand ``$(NAME)`` in them.  Secrets and ``podTemplate`` add theirs elsewhere.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from sglang_operator.api import (
    device_variables,
    errors,
    pod_template,
    pod_volumes,
    problems,
    redaction,
)
from sglang_operator.engine import habits, values, versions

CACHE_DIR = pod_volumes.CACHE_DIR  # it survives the pod where the user says so
FIELD = "spec.system_envs"

HEALTH_GENERATION = "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"
MODELSCOPE = "SGLANG_USE_MODELSCOPE"

# Defaults; system_envs may say otherwise.
DEFAULTS: Mapping[str, str] = {
    # Caches of compiled kernels: with them an engine starts in 50 s instead of 140 s (measured,
    # explanation/sglang.md).  HOME holds what has no variable of its own, and must be writable for
    # any user id; without a directory of its own, inductor asks who that user is, and fails.
    "HOME": CACHE_DIR,
    "FLASHINFER_WORKSPACE_BASE": CACHE_DIR,
    "TRITON_CACHE_DIR": f"{CACHE_DIR}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE_DIR}/inductor",
    # ROLL roll/platforms/cuda.py; the trainer's side of the NCCL group has the same.
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
}
# An engine that has crashed ends at once, so that it leaves its Service and the next one comes.
# Whoever wants the diagnostics, for which its event loop sleeps, sets them in system_envs.
ENDS_AT_ONCE: Mapping[str, str] = {
    "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "false",
    "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "false",
}
# What an engine has made of an image stays under the image's hash, and nothing empties that cache:
# after a commit the old vision tower would answer.  Engines without a gate are synced, too.
# Whoever trains none sets it in system_envs.
IMAGE_CACHE = "SGLANG_VLM_CACHE_SIZE_MB"
FORGETS_IMAGES: Mapping[str, str] = {IMAGE_CACHE: "0"}
# ROLL and slime remove it: expandable segments break the allocator that lets an engine release
# its memory.  The second name is PyTorch's newer one for the same setting.
REMOVED = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# Refused, with what to do instead.
OWNED: Mapping[str, str] = {
    "SGLANG_API_KEY": "name a Secret in security.apiKey",
    "SGLANG_ADMIN_API_KEY": "name a Secret in security.adminApiKey",
    "SGLANG_OPERATOR_POD_IP": "write network.listenOnPodIP",
}
# Set to 0, a follower ends its start without a server that answers its probes, and does not wait
# for its ranks; whoever embeds SGLang in a process of their own wants that.
FOLLOWER_RETURNS = "SGLANG_BLOCK_NONZERO_RANK_CHILDREN"
_HEALTH_ADVICE = "the kubelet asks /health, and one that generates kills a sleeping engine"
_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")  # what every Kubernetes version takes
_SIGN = re.compile(r"(?<=.)[=:]")  # of docker's NAME=value, and of YAML's
_MOST_WORDS = 16
_FALSE = ("false", "0", "no", "n")  # SGLang srt/environ.py; all else is the default, true


def environment(
    system_envs: Mapping[str, object], features: versions.Features
) -> tuple[dict[str, str], tuple[errors.Problem, ...]]:
    """The variables by name, in alphabetical order, and every problem of ``system_envs``."""
    written = {name: value for name, value in system_envs.items() if value is not None}
    problems = [problem for rule in _RULES for problem in rule(written, features)]
    given = {
        name: text
        for name, value in written.items()
        if _is_name(name) and name not in REMOVED and (text := _text(value)) is not None
    }
    own = {**DEFAULTS, **_health(features), **_modelscope(given)}
    merged = {**own, **{name: values.literal(text) for name, text in given.items()}}
    return {name: merged[name] for name in sorted(merged)}, tuple(problems)


def of_followers(system_envs: Mapping[str, object]) -> Iterator[errors.Problem]:
    """What keeps the pods that follow an engine's leader from answering their probes."""
    if str(system_envs.get(FOLLOWER_RETURNS)) == "0":
        yield errors.SYSTEM_ENV_OWNED(
            f"{FIELD}.{FOLLOWER_RETURNS}",
            key=FOLLOWER_RETURNS,
            found=errors.shown(system_envs[FOLLOWER_RETURNS]),
            advice="the pods that follow an engine's leader answer their probes only without it",
        )


def owner(name: str) -> str | None:
    """What to do instead of setting a variable that is not the user's; None if it is."""
    if name in OWNED:
        return OWNED[name]
    return device_variables.ADVICE if device_variables.names_devices(name) else None


def beside(features: versions.Features) -> Mapping[str, str]:
    """Defaults that are no part of the revision: an engine without them is restarted for none."""
    ends = ENDS_AT_ONCE if features.crash_diagnostics else {}
    return {**ends, **FORGETS_IMAGES}


def template_problems(variables: Iterable[str]) -> Iterator[errors.Problem]:
    """Which variables of a pod template's container are the operator's own."""
    for index, name in enumerate(variables):
        advice = _HEALTH_ADVICE if name == HEALTH_GENERATION else owner(name)
        if advice is None:
            continue
        yield errors.POD_TEMPLATE(
            f"{pod_template.FIELD}.spec.containers[0].env[{index}].name",
            found=f"the variable {name}",
            expected="variables that the operator does not set",
            advice=f"remove it: {advice}",
        )


def _health(features: versions.Features) -> dict[str, str]:
    """Where it can be had, a /health that does not generate (see ``probes``)."""
    return {HEALTH_GENERATION: "false"} if features.health_without_generation else {}


def _modelscope(given: Mapping[str, str]) -> dict[str, str]:
    """ROLL's files say USE_MODELSCOPE; SGLang listens to a name of its own."""
    wanted = given.get("USE_MODELSCOPE", "0").lower() in ("1", "true")
    return {MODELSCOPE: "true"} if wanted else {}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _text(value: object) -> str | None:
    """A value as Kubernetes takes it; None if it is none.  YAML's true stays ``true``."""
    match value:
        case bool():
            return str(value).lower()
        case str() if "\0" not in value:
            return value
        case int() | float() if values.number_fault(value) is None:
            return str(value)
    return None


def _written(
    written: Mapping[str, object], features: versions.Features
) -> Iterator[errors.Problem]:
    """Names and values that no environment can hold, and what ROLL's loader was to fill in."""
    for name, value in written.items():
        key = _called(name)
        if values.unresolved(value):
            yield errors.UNRESOLVED(f"{FIELD}.{key}", found="text with a reference in it")
        elif not _is_name(name) or redaction.is_a_key(name) or _text(value) is None:
            yield errors.SYSTEM_ENV(f"{FIELD}.{key}", key=key, found=_described(name, value))


def _called(name: object) -> str:
    """A name as messages have it: what follows a sign in one may be its value, or a blank."""
    if not isinstance(name, str):
        return errors.shown(name)
    begins = _SIGN.split(name, maxsplit=1)[0]
    words = begins.split(maxsplit=_MOST_WORDS)
    for count, word in enumerate(words[1:], start=1):
        if errors.is_secret(words[count - 1]) or redaction.looks_like_a_key(word):
            begins = " ".join(words[:count])
            break
    return errors.shown(begins if begins == name else f"{begins}…")


def _described(name: object, value: object) -> str:
    """What is wrong with a variable, without its value: whose name tells a secret is not known."""
    if not _is_name(name):
        return "no name of a variable"
    if redaction.is_a_key(str(name)):
        return "a secret's value and no name"
    if isinstance(value, str):
        return "text with a character that ends it"
    is_number = isinstance(value, (int, float))
    return errors.shown(value) if is_number else problems.kind(value)


def _owned(written: Mapping[str, object], features: versions.Features) -> Iterator[errors.Problem]:
    for name in sorted(filter(_is_name, written)):
        advice = owner(name)
        if advice is None:
            continue
        found = "set" if "API_KEY" in name else errors.typed(written[name])
        yield errors.SYSTEM_ENV_OWNED(f"{FIELD}.{name}", key=name, found=found, advice=advice)


def _generating(
    written: Mapping[str, object], features: versions.Features
) -> Iterator[errors.Problem]:
    """A generating /health would have the kubelet kill engines that sleep."""
    value = _text(written.get(HEALTH_GENERATION, False))
    if value is not None and value.lower() not in _FALSE:
        yield errors.SYSTEM_ENV_OWNED(
            f"{FIELD}.{HEALTH_GENERATION}",
            key=HEALTH_GENERATION,
            found=errors.typed(value),
            advice=_HEALTH_ADVICE,
        )


def _removed(
    written: Mapping[str, object], features: versions.Features
) -> Iterator[errors.Problem]:
    for name in REMOVED:
        if name in written:
            yield errors.SYSTEM_ENV_REMOVED(
                f"{FIELD}.{name}",
                key=name,
                found=errors.typed(written[name]),
                advice="it breaks the release of GPU memory, and ROLL removes it too",
            )


def _of_vllm(
    written: Mapping[str, object], features: versions.Features
) -> Iterator[errors.Problem]:
    for name in filter(_is_name, written):
        if habits.is_vllm_variable(name):
            yield errors.SYSTEM_ENV_OF_VLLM(f"{FIELD}.{name}", key=name)


_RULES: tuple[
    Callable[[Mapping[str, object], versions.Features], Iterator[errors.Problem]], ...
] = (_written, _owned, _generating, _removed, _of_vllm)
