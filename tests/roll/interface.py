"""ROLL's interface as its source has it: classes, methods, parameters, and who takes what of ours.

Kept in tests/data/roll-interface.json by a run of ``make roll``, for the tests that have no
checkout of ROLL; the run fails where the file says something else than the commit it was made of.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = "roll.distributed.strategy.sglang_strategy"  # whose place the product takes
WORKER = "roll.pipeline.base_worker"
READ = {
    "roll.distributed.executor.model_update_group": ("ModelUpdateGroup",),
    "roll.distributed.executor.worker": ("Worker",),
    "roll.distributed.scheduler.generate_scheduler": ("DynamicSamplingScheduler",),
    "roll.distributed.scheduler.rollout_scheduler": ("RolloutScheduler",),
    "roll.distributed.scheduler.router": (
        "EnvAffinityRouter",
        "PromptAffinityRouter",
        "RouterClient",
        "RouterManager",
        "SglangRouter",
    ),
    "roll.distributed.strategy.factory": ("create_strategy",),
    OURS: ("SgLangStrategy", "create_sampling_params_for_sglang", "postprocess_generate"),
    "roll.distributed.strategy.strategy": ("InferenceStrategy",),
    WORKER: ("InferWorker",),
    "roll.third_party.fsdp2.model_update": ("FSDP2WeightUpdater",),
    "roll.third_party.megatron.model_update": ("MegatronWeightUpdater",),
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def read(source: Path) -> dict[str, Any]:
    """The whole table."""
    return {
        "modules": {
            module: {name: _described(_defined(source, module, name)) for name in names}
            for module, names in READ.items()
        },
        "attributes": _attributes(
            _defined(source, "roll.distributed.strategy.strategy", "InferenceStrategy")
        ),
        "asked": sorted(set(_asked(_defined(source, WORKER, "InferWorker")))),
        "taken": {path: sorted(names) for path, names in sorted(_taken(source))},
    }


def _defined(source: Path, module: str, name: str) -> ast.AST:
    tree = ast.parse((source / (module.replace(".", "/") + ".py")).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef | _Function) and node.name == name:
            return node
    raise ValueError(f"{module} defines no {name}: this ROLL is another one")


def _described(node: ast.AST) -> dict[str, Any]:
    if isinstance(node, ast.ClassDef):
        methods = [each for each in node.body if isinstance(each, _Function)]
        return {
            "methods": {
                each.name: _described(each)
                for each in methods
                if not each.name.startswith("_") or each.name == "__init__"
            }
        }
    assert isinstance(node, _Function)
    given = node.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    parameters = [each.arg for each in named if each.arg not in ("self", "cls")]
    parameters += [f"*{given.vararg.arg}"] if given.vararg else []
    parameters += [f"**{given.kwarg.arg}"] if given.kwarg else []
    return {"parameters": parameters, "async": isinstance(node, ast.AsyncFunctionDef)}


def _attributes(node: ast.AST) -> list[str]:
    """What its __init__ sets."""
    assert isinstance(node, ast.ClassDef)
    (made,) = [each for each in node.body if getattr(each, "name", "") == "__init__"]
    targets = [each.targets[0] for each in ast.walk(made) if isinstance(each, ast.Assign)]
    targets += [each.target for each in ast.walk(made) if isinstance(each, ast.AnnAssign)]
    return sorted(each.attr for each in targets if isinstance(each, ast.Attribute))


def _asked(node: ast.AST) -> Iterator[str]:
    """The methods of its strategy that a worker calls."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self.strategy":
            yield each.attr


def _taken(source: Path) -> Iterator[tuple[str, set[str]]]:
    """Which of ROLL's files import which names from the module whose place is taken."""
    for path in sorted((source / "roll").rglob("*.py")):
        text = path.read_text(errors="replace")
        if OURS not in text:
            continue
        names = {
            alias.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.module == OURS
            for alias in node.names
        }
        if names:
            yield str(path.relative_to(source)), names
