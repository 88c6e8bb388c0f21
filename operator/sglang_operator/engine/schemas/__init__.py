"""What each known SGLang version accepts: generated from its wheel by ``make schema``.

The modules ``v…`` are literals, one for each version; ``index`` imports the one that is asked
for, and ``history`` says which versions have which argument.  ``engine.schema`` reads them.
"""

from typing import TypedDict


class Json(TypedDict, total=False):
    """How an argument that the parser takes as text is read later; what is not so is left out."""

    reads: str  # text: all of it is JSON; braces: what does not begin as JSON is a path or a word
    empty: bool  # no text at all is as good as nothing
    at_file: bool  # @path is a file with JSON in it; false: only in other versions
    words: tuple[str, ...]  # that mean something of their own
    endings: tuple[str, ...]  # of paths


class Argument(TypedDict, total=False):
    """One argument; what is at its default is left out."""

    flags: tuple[str, ...]  # option strings; none: the name with dashes
    # store, store_true, store_const, boolean_optional and lora_paths are what argparse does;
    # ignored is accepted without effect, refused stops the start with a message.
    action: str
    field: str  # of ServerArgs that it sets, where that is not its own name; "" for none
    type: str  # of each value: str, int, float, human_int, json, json_list, json_object, lora…
    nargs: str  # ?, * or +; without it one value
    const: str | int | float | bool  # what the flag alone means
    choices: tuple[str | int, ...]  # none: anything
    keys: dict[str, tuple[str, ...]]  # of a json_object, and of the maps in it
    json: Json  # a map, which a text of the parser's is read as later
    default: object  # none: null, or false for a flag
    undecided: bool  # null without its flag, and SGLang decides: there is no way to say false
    help: str
    deprecated: bool
    replacement: str


class Schema(TypedDict):
    """One version."""

    version: str
    arguments: dict[str, Argument]
    rules: dict[str, str]  # of engine.combinations that it has, with their places in its source
    fields_without_flag: tuple[str, ...]  # of ServerArgs: for Python only
    endpoints: tuple[str, ...]
    # What SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=false does: works, no effect, or absent.
    health_without_generation: str
