"""``generation: ServerDefault``: generating_args as the server's own defaults.

SGLang merges them under the parameters of each request (``--preferred-sampling-params``), so
requests that say nothing are sampled as the pool's owner wants.
"""

from collections.abc import Iterator, Mapping

from sglang_operator.api import errors
from sglang_operator.engine import aliases, values, versions

KEY = "preferred_sampling_params"
_FIELD = "spec.generating_args"


def set_defaults(
    given: aliases.Given, sampling: Mapping[str, object], version: versions.Version
) -> Iterator[errors.Problem]:
    """Put the sampling parameters among the arguments, as far as a server can hold them."""
    yield from _refusals(given, version)
    defaults = {name: value for name, value in sampling.items() if value is not None}
    yield from _leave_to_requests(defaults, given)
    problem = values.problem(_FIELD, KEY, defaults)
    if problem is not None:
        yield problem
    else:
        given.values[KEY] = defaults or None


def _refusals(given: aliases.Given, version: versions.Version) -> Iterator[errors.Problem]:
    if given.values.get(KEY) is not None:
        yield errors.ARGUMENT_OWNED(
            given.path(KEY),
            key=given.spelling(KEY),
            found=errors.typed(given.values[KEY]),
            advice="generation is ServerDefault, which makes it from generating_args",
        )
    if not versions.features(version).preferred_sampling_params:
        yield errors.ARGUMENT_VERSION(
            "spec.generation",
            key="ServerDefault",
            needed=versions.PREFERRED_SAMPLING_SINCE,
            version=version,
            advice="use generation: PerRequest, or a newer image",
        )


def _leave_to_requests(
    defaults: dict[str, object], given: aliases.Given
) -> Iterator[errors.Problem]:
    """Take out what SGLang cannot have as a default."""
    if defaults.pop("n", 1) != 1:
        yield errors.GENERATION_DEFAULT(
            f"{_FIELD}.num_return_sequences",
            key="num_return_sequences",
            advice="SGLang reads n before it adds defaults: send it with each request",
        )
    # The scheduler would look for the strings with a tokenizer that is not there, and die of it
    # (schedule_batch.py, tail_str).
    if given.values.get("skip_tokenizer_init") and defaults.pop("stop", None):
        defaults.pop("no_stop_trim", None)
        yield errors.GENERATION_DEFAULT(
            f"{_FIELD}.stop_strings",
            key="stop_strings",
            advice="the engine has no tokenizer to find them: set skip_tokenizer_init: false",
        )
