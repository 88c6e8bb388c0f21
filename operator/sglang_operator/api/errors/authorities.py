"""Who would refuse it, in the words of a row's ``authority``."""

POLICY = "policy"
ROLL_WORKER_CONFIG = "ROLL roll/configs/worker_config.py"
ROLL_STRATEGY = "ROLL roll/distributed/strategy/sglang_strategy.py"
SERVER_ARGS = "SGLang sglang/srt/server_args.py"
SERVER_PARSER = "SGLang's argument parser: "  # and what it says
KUBERNETES = "Kubernetes"
SGLANG_MEMORY = "SGLang's memory rules (reference/memory.md)"
