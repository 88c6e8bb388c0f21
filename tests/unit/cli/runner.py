"""The examples, mistakes put into copies of them, and commands run as a user runs them."""

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from sglang_operator.cli import check_files
from sglang_operator.cli.main import cli
from sglang_operator.cli.pipeline import objects
from sglang_operator.pool.resolve import Owner, Pool, resolve_pool
from tests.builders import OWNER

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "tests" / "data" / "roll-examples").glob("*.yaml"))
WITH_SGLANG = [path for path in EXAMPLES if not path.name.startswith("not-sglang")]
(WITHOUT_SGLANG,) = [path for path in EXAMPLES if path.name.startswith("not-sglang")]
GUIDE = next(path for path in EXAMPLES if path.name == "rlvr_config_sglang.yaml")
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))


def run(*arguments: object, stdin: str = "") -> Result:
    """One command, in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)


def converted(path: Path, *arguments: object) -> list[dict[str, Any]]:
    """The objects that a pipeline converts to."""
    result = run("convert", path, *arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def linted(
    tmp_path: Path, text: str, name: str = "file.yaml", **options: Any
) -> check_files.Judged:
    """What is found in a text."""
    path = tmp_path / name
    path.write_text(text)
    return check_files.lint([str(path)], None, objects.Options(**options))


def line_of(text: str, part: str) -> int:
    """The first line that holds a part."""
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


def pipeline(**changes: Any) -> dict[str, Any]:
    """A small pipeline: 4 engines of 2 GPUs beside a trainer."""
    base: dict[str, Any] = {
        "pretrain": "Qwen/Qwen2.5-7B",
        "response_length": 4096,
        "num_gpus_per_node": 8,
        "seed": 7,
        "actor_train": {
            "strategy_args": {"strategy_name": "megatron_train", "strategy_config": {}},
            "device_mapping": "list(range(0,8))",
        },
        "actor_infer": {
            "model_args": {"dtype": "bf16"},
            "generating_args": {"max_new_tokens": "${response_length}"},
            "strategy_args": {
                "strategy_name": "sglang",
                "strategy_config": {"mem_fraction_static": 0.7, "load_format": "dummy"},
            },
            "num_gpus_per_worker": 2,
            "device_mapping": "list(range(8,16))",
        },
    }
    return {**base, **changes}


def write(tmp_path: Path, config: Any, name: str = "pipeline.yaml") -> Path:
    """A configuration as a file."""
    path = tmp_path / name
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    return path


def guide_body(**changes: Any) -> dict[str, Any]:
    """The object that the guide's example becomes, with these fields of its spec changed."""
    body = converted(GUIDE)[0]
    body["metadata"]["namespace"] = "rl"
    body["spec"].update(changes)
    return body


def guide_pool(body: dict[str, Any]) -> Pool:
    """The pool that such an object describes."""
    owner = Owner(name="actor-infer", namespace="rl", uid=OWNER.uid, generation=1)
    pool = resolve_pool(owner, body["spec"])
    assert isinstance(pool, Pool), pool
    return pool
