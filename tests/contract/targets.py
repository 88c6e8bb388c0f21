"""What the contract is tested on: fake engines of all versions, or one real SGLang.

Without a variable the fakes.  ``SGLANG_CONTRACT_VERSION`` with ``SGLANG_CONTRACT_COMMAND`` (which
starts a real engine; ``--port`` and a test's own arguments are added) or with
``SGLANG_CONTRACT_URL`` (one that runs: only the tests that start and end no engine).
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglang_operator.engine import versions
from sglang_operator.engine.schemas import index
from sglang_operator.testing.engine import settings

# As the pools of the operator and as explanation/sglang.md have it.
ARGUMENTS = ("--load-format=dummy", "--skip-tokenizer-init", "--enable-memory-saver")
_MODEL = (
    '{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 512, '
    '"intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, '
    '"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096, '
    '"rms_norm_eps": 1e-06, "rope_theta": 10000.0, "hidden_act": "silu", '
    '"torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": false}'
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One version, and how an engine of it is started; without a command it is a fake."""

    version: versions.Version
    command: tuple[str, ...] = ()
    url: str = ""
    real: bool = False
    # A real engine takes minutes where a fake one takes parts of a second.
    patience: float = 1.0
    settings: Mapping[str, str] = field(default_factory=dict)

    def since(self, text: str) -> bool:
        """Whether the version is this or a later one."""
        return self.version >= versions.parse(text)


def command(target: Target) -> tuple[str, ...]:
    """How an engine of it is started as a process of its own."""
    fake = (sys.executable, "-m", "sglang_operator.testing.engine", f"--model-path={model()}")
    return target.command or fake


def targets() -> Sequence[Target]:
    """By the environment."""
    if not (said := os.environ.get("SGLANG_CONTRACT_VERSION")):
        return [_fake(version) for version in index.VERSIONS]
    version = versions.parse(said)
    command = tuple(shlex.split(os.environ.get("SGLANG_CONTRACT_COMMAND", "")))
    url = os.environ.get("SGLANG_CONTRACT_URL", "")
    return [Target(version=version, command=command, url=url, real=True, patience=60.0)]


def _fake(version: str) -> Target:
    return Target(
        version=versions.parse(version),
        settings={
            f"{settings.PREFIX}{name}": value
            for name, value in {
                "VERSION": version,
                "MODELS": "strict",
                "LOAD_SECONDS": "0.1",
                "WARM_UP_SECONDS": "0.1",
                "DRAIN_POLL_SECONDS": "0.2",
            }.items()
        },
    )


_folder: list[tempfile.TemporaryDirectory[str]] = []


def model() -> Path:
    """A folder with the configuration of a tiny Qwen2, for the time of the process."""
    if not _folder:
        _folder.append(tempfile.TemporaryDirectory(prefix="contract-model-"))
        (Path(_folder[0].name) / "config.json").write_text(_MODEL)
    return Path(_folder[0].name)
