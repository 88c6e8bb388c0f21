"""A launch script of slime: what it says of engines and of the trainer.

It is read, not run: comments are left out, variables that it sets itself are filled in, of
``$(seq …)`` the last number counts, and of a flag that is there twice the last one, as in argparse.
Flags of SGLang begin with --sglang-; the others are slime's and Megatron's.
"""

import re
import shlex
from collections.abc import Iterator, Mapping

from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.yaml_tree.nodes import Mark
from sglang_operator.memory import models, reading
from sglang_operator.memory.balance import TrainingStep
from sglang_operator.memory.engine import Sequence
from sglang_operator.memory.trainer import Kind, Training

_SEQ = re.compile(r"\$\(seq(?: +[0-9]+){1,3}\)")
_SET = re.compile(r"(?:export +)?([A-Za-z_][A-Za-z0-9_]*)=(\"[^\"]*\"|'[^']*'|[^\s(]*)\s*(?:#.*)?")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_VARIABLE = re.compile(rf"\$\{{({_NAME})(?::?-([^}}]*))?\}}|\$({_NAME})")
_ENGINE = "sglang_"
_MOST_LINES, _MOST_GPUS = 20_000, 65_536
_SIGNS = ("--rollout-num-gpus-per-engine", "--hf-checkpoint", "--sglang-")


class Script:
    """The flags of a script."""

    def __init__(self, text: str, file: str) -> None:
        self.mark = Mark(file, 1, 1)
        self.flags = dict(_flags(text))

    def number(self, name: str, default: int = 0) -> int:
        """The whole number of a flag."""
        values = self.flags.get(name)
        found = values[0] if values else ""
        return int(found) if found.isascii() and found.isdecimal() and len(found) < 10 else default

    def is_set(self, name: str) -> bool:
        return name in self.flags

    @property
    def model(self) -> str:
        """What --hf-checkpoint names; a variable that is nobody's stays as it is."""
        values = self.flags.get("hf_checkpoint")
        return values[0] if values else ""

    @property
    def gpus(self) -> int:
        """Of one engine."""
        return max(1, self.number("rollout_num_gpus_per_engine", 1))

    @property
    def trainers(self) -> int:
        """GPUs that train."""
        each = self.number("actor_num_gpus_per_node", 8)
        return min(_MOST_GPUS, self.number("actor_num_nodes", 1) * each)

    @property
    def colocated(self) -> bool:
        return self.is_set("colocate")

    @property
    def rollout_gpus(self) -> int:
        """GPUs of all engines together."""
        given = self.number("rollout_num_gpus")
        return min(_MOST_GPUS, given) if given and not self.colocated else self.trainers

    def settings(self) -> Mapping[str, object]:
        """The engine's arguments by their names."""
        ours = {
            name.removeprefix(_ENGINE): _value(values)
            for name, values in self.flags.items()
            if name.startswith(_ENGINE)
        }
        pp = max(1, self.number("sglang_pp_size", 1))
        return {"tp_size": max(1, self.gpus // pp), "enable_memory_saver": self.colocated, **ours}

    def sequence(self) -> Sequence | None:
        """How long a sequence may get."""
        response = self.number("rollout_max_response_len")
        if not response:
            return None
        prompt = self.number("rollout_max_prompt_len")
        context = self.number("rollout_max_context_len")
        return Sequence(prompt=prompt or max(0, context - response), response=response)

    def roles(self) -> list[Role]:
        """The trainer, and the engines beside it or on its GPUs."""
        trainers = frozenset(range(self.trainers))
        first = 0 if self.colocated else self.trainers
        engines = frozenset(range(first, first + self.rollout_gpus))
        backend = "fsdp" if self._backend == "fsdp" else "megatron"
        return [
            Role(path=("actor_train",), mark=self.mark, strategy=backend, devices=trainers),
            Role(path=("actor_infer",), mark=self.mark, strategy="sglang", devices=engines),
        ]

    @property
    def _backend(self) -> str:
        values = self.flags.get("train_backend")
        return values[0] if values else "megatron"

    def engines(self) -> tuple[tuple[int, ...], ...]:
        """The GPUs of each engine."""
        devices = sorted(self.roles()[1].devices)
        size = self.gpus
        return tuple(
            tuple(devices[start : start + size])
            for start in range(0, len(devices) - size + 1, size)
        )

    def training(self) -> Iterator[Training]:
        """What the trainer is, if its model is known."""
        config = models.config(self.model)
        if config is None:
            return
        try:
            shape = reading.shape(config)
        except reading.NotKnownError:
            return
        cp = max(1, self.number("context_parallel_size", 1))
        tokens = self.number("max_tokens_per_gpu") * cp
        sequence = self.sequence()
        yield Training(
            name="actor_train",
            shape=shape,
            kind=Kind.SHARDED if self._backend == "fsdp" else Kind.MEGATRON,
            gpus=self.trainers,
            tp=max(1, self.number("tensor_model_parallel_size", 1)),
            pp=max(1, self.number("pipeline_model_parallel_size", 1)),
            cp=cp,
            ep=max(1, self.number("expert_model_parallel_size", 1)),
            expert_tp=max(1, self.number("expert_tensor_parallel_size", 1)),
            sequence_parallel=self.is_set("sequence_parallel"),
            recompute=self.is_set("recompute_granularity"),
            optimizer_on_host=self.is_set("optimizer_cpu_offload"),
            tokens=tokens or (sequence.tokens if sequence is not None else 8192),
        )

    def step(self) -> TrainingStep | None:
        """The work of one step."""
        sequence, batch = self.sequence(), self.number("rollout_batch_size")
        if sequence is None or not batch:
            return None
        together = self.trainers + (0 if self.colocated else self.rollout_gpus)
        return TrainingStep(
            samples=batch * max(1, self.number("n_samples_per_prompt", 1)),
            prompt=sequence.prompt,
            response=sequence.response,
            passes=1 + self.is_set("ref_load"),
            train_gpus=self.trainers,
            total_gpus=together,
        )


def is_script(text: str) -> bool:
    """Whether this is a launch script of slime, and no YAML."""
    head = text.lstrip()[:200]
    return head.startswith("#!") and any(sign in text for sign in _SIGNS)


def _value(values: list[str]) -> object:
    if not values:
        return True
    return values[0] if len(values) == 1 else values


def _flags(text: str) -> Iterator[tuple[str, list[str]]]:
    flag, values = "", list[str]()
    for word in _words(text):
        if word.startswith("--") and len(word) > 2:
            if flag:
                yield flag, values
            name, _, after = word[2:].partition("=")
            flag, values = name.replace("-", "_"), [after] if after else []
        elif word in ("(", ")", "\\") or word.endswith("=("):
            if flag:
                yield flag, values
            flag, values = "", []
        elif flag:
            values.append(word)
    if flag:
        yield flag, values


def _words(text: str) -> Iterator[str]:
    known: dict[str, str] = {}
    for line in text.splitlines()[:_MOST_LINES]:
        last = _SEQ.sub(lambda match: match[0][:-1].split()[-1], line)
        if (match := _SET.fullmatch(last.strip())) is not None:
            known[match[1]] = _filled(match[2].strip("\"'"), known)
            continue
        goes_on = last.rstrip().endswith("\\")
        plain = last.rstrip().removesuffix("\\").replace("(", " ( ").replace(")", " ) ")
        try:
            words = shlex.split(plain, comments=True)
        except ValueError:  # a quotation that goes on in the next line holds no flags
            continue
        yield from (_filled(word, known) for word in words)
        if not goes_on:
            yield "\\"  # what a flag has stands in its line


def _filled(text: str, known: Mapping[str, str]) -> str:
    """A text with the variables that the script sets; others stay."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1] or match[3], match[2]
        found = known.get(name)
        return found if found is not None else match[0] if default is None else default

    return _VARIABLE.sub(value, text)
