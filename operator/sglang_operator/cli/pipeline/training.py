"""The roles of a pipeline that are no engines, as their memory is estimated."""

from collections.abc import Iterator

from sglang_operator.cli.pipeline import roles
from sglang_operator.cli.pipeline.references import Resolver
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.yaml_tree.nodes import YamlNode, plain
from sglang_operator.memory import models, reading
from sglang_operator.memory.balance import TrainingStep
from sglang_operator.memory.engine import Sequence
from sglang_operator.memory.shape import Shape
from sglang_operator.memory.trainer import Kind, Training

_PROMPT = 1024  # ROLL's default of prompt_length
_KINDS = {
    "megatron_train": (Kind.MEGATRON, True),
    "megatron_infer": (Kind.MEGATRON, False),
    "fsdp2_train": (Kind.SHARDED, True),
    "fsdp2_infer": (Kind.SHARDED, False),
    "deepspeed_train": (Kind.STATE_SHARDED, True),
    "deepspeed_infer": (Kind.INFERENCE, False),
    "hf_infer": (Kind.INFERENCE, False),
}


class Pipeline:
    """Values of a pipeline's file."""

    def __init__(self, root: YamlNode, *, environment: bool) -> None:
        self._resolver = Resolver(root, environment=environment)

    def number(self, *path: str) -> int | None:
        """A whole number, wherever it comes from."""
        node = self._resolver.peek(*path)
        value = node.value if node is not None else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def value(self, *path: str) -> object:
        node = self._resolver.peek(*path)
        return plain(node) if node is not None else None

    def is_true(self, *path: str) -> bool:
        return self.value(*path) is True

    def model(self, role: Role) -> str:
        """The model of a role, by what ROLL fills in."""
        section = self._resolver.peek(*role.path)
        if section is None:
            return ""
        filled = roles.fill(role, section, self._resolver).section
        return filled.text("model_args", "model_name_or_path") or ""

    def sequence(self) -> Sequence | None:
        """How long a sequence may get."""
        prompt = self.number("prompt_length")
        response, whole = self.number("response_length"), self.number("sequence_length")
        if whole is not None and response is None:
            prompt = min(prompt or _PROMPT, whole - 1)
            return Sequence(prompt=prompt, response=whole - prompt) if prompt > 0 else None
        if response is None or response <= 0:
            return None
        return Sequence(prompt=max(0, prompt or _PROMPT), response=response)


def trainings(pipeline: Pipeline, found: list[Role]) -> Iterator[Training]:
    """Every role whose strategy and model are understood."""
    for role in found:
        kind = _KINDS.get(role.strategy or "")
        config = models.config(pipeline.model(role))
        if kind is None or config is None or not role.devices:
            continue
        try:
            shape = reading.shape(config)
        except reading.NotKnownError:
            continue
        yield _training(pipeline, role, *kind, shape)


def _training(pipeline: Pipeline, role: Role, kind: Kind, trains: bool, shape: Shape) -> Training:
    at = (*role.path, "strategy_args", "strategy_config")

    def size(name: str) -> int:
        return max(1, pipeline.number(*at, name) or 1)

    sequence = pipeline.sequence()
    batch = pipeline.number(*role.path, "training_args", "per_device_train_batch_size")
    return Training(
        name=role.name,
        shape=shape,
        kind=kind,
        gpus=len(role.devices),
        tp=size("tensor_model_parallel_size"),
        pp=size("pipeline_model_parallel_size"),
        cp=size("context_parallel_size"),
        ep=size("expert_model_parallel_size"),
        expert_tp=size("expert_tensor_parallel_size"),
        trains=trains,
        distributed_optimizer=pipeline.value(*at, "use_distributed_optimizer") is not False,
        sequence_parallel=pipeline.value(*at, "sequence_parallel") is not False,
        recompute=not pipeline.is_true(*role.path, "model_args", "disable_gradient_checkpointing"),
        optimizer_on_host=pipeline.is_true(*at, "optimizer_cpu_offload"),
        micro_batch=max(1, batch or 1),
        tokens=sequence.tokens if sequence is not None else 8192,
    )


def step(pipeline: Pipeline, found: list[Role]) -> TrainingStep | None:
    """The work of one step, where the file says how much it is."""
    batch = pipeline.number("rollout_batch_size")
    group = pipeline.number("num_return_sequences_in_group") or 1
    sequence = pipeline.sequence()
    trains = next((r for r in found if r.name in ("actor_train", "student_train")), None)
    if not batch or sequence is None or trains is None or not trains.devices:
        return None
    names = {role.name for role in found}
    return TrainingStep(
        samples=batch * group,
        prompt=sequence.prompt,
        response=sequence.response,
        passes=1 + ("reference" in names),
        train_gpus=len(trains.devices),
        total_gpus=len(frozenset().union(*(role.devices for role in found))),
    )
