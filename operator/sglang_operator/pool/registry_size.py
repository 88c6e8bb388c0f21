"""How large a pool's registry can become: a ConfigMap holds 1 MiB, and an engine that did not fit
would be one that no trainer finds (children/trainer_registry.py).

What is counted is a pool all of whose engines are in service, with IPv4 addresses and a version of
the weights of VERSION characters.  Longer ones may pass the bound in pools that are close to it;
then the write is refused by the API server, which the pool's Ready condition tells.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.api import names

LIMIT = 1 << 20  # bytes of all values of a ConfigMap (k8s.io/kubernetes pkg/apis/core/validation)
VERSION = 16  # characters, as in step-10000
_ADDRESS = "255.255.255.255"
_URL = len(f"http://{_ADDRESS}:65535")
_ATTEMPT = "-99"
_UUID = len('"GPU-6e5d6ea7-9dff-4a3c-8b5f-5d5b6a0d2c11",')
# An entry of children/trainer_registry.py with its comma, without devices, names and what
# depends on GPUs.
_ENTRY = len(
    '{"rank":9999,"engine":"","devices":[],"gpus":,"rankOffset":,"state":"InService",'
    '"pod":"-","podIP":"","url":"","instance":"01234567","gate":"Open","version":""},'
)
_HEAD = 2048  # what stands once, without the generation defaults


def most(
    pool: str,
    engines: Sequence[tuple[names.EngineName, int]],
    gpus: int,
    generation: Mapping[str, Any],
    *,
    told_gpus: bool = False,
) -> int:
    """Bytes of the registry's document.

    ``engines`` are each one's name and the characters of its devices; renderings for other
    trainers are left out where they have no room.  ``told_gpus``: each GPU is told by its UUID.
    """
    numbers = len(f"{gpus}{gpus * len(engines)}")
    uuids = len(',"uuids":[]') + gpus * _UUID if told_gpus else 0
    fixed = uuids + numbers + _ENTRY + len(pool) + len(_ATTEMPT) + len(_ADDRESS) + _URL + VERSION
    head = _HEAD + 2 * len(pool) + len(json.dumps(dict(generation)))
    return head + sum(fixed + 2 * len(name) + devices for name, devices in engines)
