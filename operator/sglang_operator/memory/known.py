"""The shape of an engine's model, or why it is not known: nothing is guessed in silence.  Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_operator.api import errors
from sglang_operator.engine import versions
from sglang_operator.memory import engine, models, reading, rules, texts
from sglang_operator.memory.settings import Settings
from sglang_operator.memory.shape import Shape


@dataclass(frozen=True, kw_only=True)
class NotKnown:
    """Why there is no plan."""

    why: str


def shape(
    model: str,
    version: versions.Version,
    settings: Settings,
    config: Mapping[str, Any] | None = None,
) -> Shape | NotKnown:
    """The shape that SGLang of this version makes of a model with these settings.

    ``config``: its config.json; None: of the models that are shipped as data, the one whose name
    ends ``model``.
    """
    found = config if config is not None else models.config(model)
    if found is None:
        return NotKnown(why=texts.MODEL.format(model=errors.shown(model)))
    try:
        made = reading.shape(_overridden(found, settings.overrides))
    except reading.NotKnownError as error:
        return NotKnown(why=texts.CONFIG.format(what=error))
    since = rules.lacks(version, made.architecture)
    if since:
        lacking = {"version": version, "what": made.architecture, "since": since}
        return NotKnown(why=texts.VERSION.format(**lacking))
    if not engine.understands(made, settings):
        quantization = errors.shown(settings.quantization)
        return NotKnown(why=texts.QUANTIZATION.format(found=quantization))
    return made


def _overridden(config: Mapping[str, Any], given: str | None) -> Mapping[str, Any]:
    """The config as SGLang changes it: by the keys of json_model_override_args.

    Raises NotKnownError if they cannot be read.
    """
    if given is None:
        return config
    try:
        changes = json.loads(given)
    except (ValueError, RecursionError):
        changes = None
    if not isinstance(changes, dict):
        raise reading.NotKnownError(texts.OVERRIDES)
    return {**config, **changes}
