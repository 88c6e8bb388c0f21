"""Why engines ended: real ends of real engines, and texts read in SGLang's source."""

import pathlib
import time

import pytest

from sglang_operator.engine import diagnosis, signatures

LOGS = pathlib.Path(__file__).parents[2] / "data" / "engine-logs"


# Exit codes as seen on the GPU machines (explanation/sglang.md).
@pytest.mark.parametrize(
    ("log", "exit_code", "reason", "message", "advice"),
    [
        pytest.param(
            "kv-cache-too-small",
            137,
            "KVCacheTooSmall",
            "the weights leave no GPU memory for the KV cache",
            "raise mem_fraction_static above 0.002 (now 0.001)",
            id="kv cache",
        ),
        pytest.param(
            "cuda-out-of-memory",
            137,
            "GPUShared",
            "no 896.00 MiB free on GPU 0: of 139.80 GiB, other processes hold 120.51 GiB",
            "free the GPU of the other processes; only if one shares it on purpose, lower "
            "mem_fraction_static",
            id="cuda memory",
        ),
        pytest.param(
            "gpu-missing",
            137,
            "GPUMissing",
            "the engine needs more GPUs than its pod sees",
            "make tp_size x pp_size the GPUs of the pod, and check the node's device plugin",
            id="gpu",
        ),
        pytest.param(
            "health-probe-while-memory-released",
            137,
            "RequestWhileAsleep",
            "a request reached the engine while its GPU memory was released",
            "close the gate before memory is released, and probe no path that generates",
            id="sleep",
        ),
        pytest.param(
            "woken-without-memory",
            137,
            "WokenWithoutMemory",
            "the engine was woken, and its GPU had not the memory that it had released: a trainer, "
            "or another engine there, still held it",
            "have whoever shares the GPU free its memory before the wake; in torch, drop the "
            "tensors and call torch.cuda.empty_cache()",
            id="wake",
        ),
        pytest.param(
            "model-not-found",
            1,
            "ModelNotFound",
            "there is no model at /models/missing",
            "correct model_args.model_name_or_path, or mount a volume with the model there",
            id="model",
        ),
        pytest.param(
            "unknown-flag",
            2,
            "ArgumentUnknown",
            "this SGLang version does not know --no-such-flag 1",
            "correct or remove it in strategy_config or extraArgs, or use an image that knows it",
            id="flag",
        ),
        pytest.param(
            "bad-value",
            2,
            "ArgumentInvalid",
            "--mem-fraction-static is 'abc', which is no float",
            "set mem_fraction_static to a value of type float",
            id="value",
        ),
        pytest.param(
            "bad-choice",
            2,
            "ArgumentInvalid",
            "--load-format is 'nope', which this SGLang version does not offer",
            "set load_format to one of 'auto', 'pt', 'safetensors', 'npcache', 'dummy', "
            "'sharded_state', 'gguf', 'bitsandbytes', 'mistral', 'layered', 'flash_rl', "
            "'remote', 'remote_instance', 'fastsafetensors', 'private', 'runai_streamer'",
            id="choice",
        ),
    ],
)
def test_real_ends_are_diagnosed(log, exit_code, reason, message, advice):
    text = (LOGS / f"{log}.txt").read_text()
    assert diagnosis.diagnose(text, exit_code, "Error") == diagnosis.Diagnosis(
        reason=reason, message=message, advice=advice
    )


def test_every_real_log_is_recognised_by_its_text_alone():
    logs = sorted(LOGS.glob("*.txt"))
    assert len(logs) >= 8
    for log in logs:
        assert not diagnosis.diagnose(log.read_text(), None, None).reason.startswith("Engine"), log


KILL = (
    "[2026-11-22 21:53:26] Received sigquit from a child process. It usually means the child "
    "failed."
)


@pytest.mark.parametrize(
    ("text", "reason", "message", "advice"),
    [
        pytest.param(
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
            f"Current value: self.server_args.mem_fraction_static=0.31\n\n{KILL}",
            "KVCacheTooSmall",
            "the weights leave no GPU memory for the KV cache",
            "raise mem_fraction_static (now 0.31), or use more GPUs for each engine",
            id="kv cache up to 0.5.9",
        ),
        pytest.param(
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n"
            f"{KILL}",
            "KVCacheTooSmall",
            "the weights leave no GPU memory for the KV cache",
            "raise mem_fraction_static, or use more GPUs for each engine",
            id="kv cache in 0.5.2",
        ),
        pytest.param(
            "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 2.00 GiB."
            f"\nPossible solutions:\n1. set --mem-fraction-static to a smaller value\n{KILL}",
            "GraphCaptureFailed",
            "capturing CUDA graphs failed: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "lower mem_fraction_static or the largest batch size of CUDA graphs",
            id="graph capture",
        ),
        pytest.param(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 1 has a "
            "total capacity of 79.10 GiB of which 900.00 MiB is free. Including non-PyTorch "
            "memory, this process has 78 GiB memory in use.",
            "CUDAOutOfMemory",
            "no 1.50 GiB free on GPU 1: of 79.10 GiB, 900.00 MiB are left",
            "lower mem_fraction_static, or use more GPUs for each engine",
            id="cuda memory, alone",
        ),
        pytest.param(
            f"RuntimeError: CUDA error: out of memory\n{KILL}",
            "CUDAOutOfMemory",
            "a GPU of the engine ran out of memory",
            "lower mem_fraction_static, or use more GPUs for each engine",
            id="cuda memory, short",
        ),
        pytest.param(
            "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other "
            f"processes. pre_model_load_memory=10.1\n{KILL}",
            "GPUShared",
            "the engine's GPUs have unequal free memory: another process uses some of them",
            "free the GPUs of other processes",
            id="shared gpu",
        ),
        pytest.param(
            "RuntimeError: No CUDA GPUs are available",
            "GPUMissing",
            "the pod sees no GPU",
            "check the node's driver, device plugin and runtime class",
            id="no gpu",
        ),
        pytest.param(
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and "
            "couldn't find them in the cached files.",
            "ModelHubUnreachable",
            "the model is not in the pod, and https://huggingface.co is out of reach",
            "mount a volume with the model, or let the pod reach the hub",
            id="hub offline",
        ),
        pytest.param(
            "OSError: qwen/nope is not a local folder and is not a valid model identifier listed "
            "on 'https://huggingface.co/models'",
            "ModelNotFound",
            "there is no model qwen/nope, neither in the pod nor on the hub",
            "correct model_args.model_name_or_path, or mount a volume with the model there",
            id="no such model on the hub",
        ),
        pytest.param(
            "OSError: /models/a does not appear to have a file named config.json. Checkout",
            "ModelNotFound",
            "/models/a holds no config.json",
            "correct model_args.model_name_or_path, or mount a volume with the model there",
            id="an empty folder",
        ),
        pytest.param(
            "OSError: You are trying to access a gated repo.\nMake sure to have access to it.",
            "ModelAccessDenied",
            "the model hub refuses access: OSError: You are trying to access a gated repo.",
            "give the engine a token (HF_TOKEN from a Secret, in podTemplate) that may read the "
            "model",
            id="gated repo",
        ),
        pytest.param(
            "sglang serve: error: ambiguous option: --cuda-graph-max-bs could match "
            "--cuda-graph-max-bs-decode, --cuda-graph-max-bs-prefill",
            "ArgumentUnknown",
            "--cuda-graph-max-bs could mean --cuda-graph-max-bs-decode, "
            "--cuda-graph-max-bs-prefill",
            "replace cuda_graph_max_bs by one of these",
            id="ambiguous flag",
        ),
        pytest.param(
            "launch_server.py: error: argument --tensor-parallel-size/--tp-size: expected one "
            "argument",
            "ArgumentInvalid",
            "--tensor-parallel-size/--tp-size: expected one argument",
            "correct tp_size",
            id="other trouble with a flag",
        ),
        pytest.param(
            "sglang serve: error: argument --enable-memory-saver: ignored explicit argument 'true'",
            "ArgumentInvalid",
            "--enable-memory-saver: ignored explicit argument 'true'",
            "correct enable_memory_saver",
            id="a value for a bare flag",
        ),
        pytest.param(
            "sglang serve: error: the following arguments are required: --model-path/--model",
            "ArgumentInvalid",
            "--model-path/--model is missing",
            "check extraArgs: an item there may have swallowed it",
            id="a flag missing",
        ),
        pytest.param(
            "AssertionError: chunked_prefill_size must be divisible by page_size",
            "ArgumentInvalid",
            "SGLang refuses the arguments: chunked_prefill_size must be divisible by page_size",
            "correct strategy_config",
            id="arguments that do not go together",
        ),
        pytest.param(
            "AssertionError: release_memory_occupation should be called only when no ongoing "
            f"request.\n\n{KILL}",
            "ReleasedWhileBusy",
            "a trainer released the engine's GPU memory while requests ran",
            "pause the engine and wait until it is idle before release_memory_occupation",
            id="released while busy",
        ),
        pytest.param(
            '  File "scheduler_update_weights_mixin.py", line 160, in resume_memory_occupation\n'
            f"    self.offload_tags.remove(tag)\nKeyError: 'weights'\n\n{KILL}",
            "ResumedWhileAwake",
            "a trainer resumed GPU memory that this engine had not released: it has restarted "
            "since",
            "resume only engines of the epoch in which they were released",
            id="resumed while awake",
        ),
        pytest.param(
            "AssertionError: Group model_update/0 not in []. Please call "
            f"`init_weights_update_group` first.\n{KILL}",
            "WeightGroupUnknown",
            "a trainer sent weights in group model_update/0, which this engine has not joined: it "
            "has restarted since",
            "start a new transaction, with a new group, whenever the epoch changes",
            id="unknown weight group",
        ),
        pytest.param(
            '  File "patch_torch.py", line 97, in _device_from_maybe_uuid\n'
            '    raise Exception("Invalid device_uuid=" + device_maybe_uuid)\n'
            f"Exception: Invalid device_uuid=GPU-5ad8\n\n{KILL}",
            "HandleOfAnotherGPU",
            "a trainer handed weights over in the memory of GPU GPU-5ad8, which this engine does "
            "not see: engines of a pool have GPUs of their own",
            "have the trainer send weights over NCCL or from disk; in ROLL, give actor_infer a "
            "device_mapping that shares no id with actor_train's",
            id="a handle of another GPU",
        ),
        pytest.param(
            '  File "reductions.py", line 181, in rebuild_cuda_tensor\n'
            f"torch.AcceleratorError: CUDA error: mapping of buffer object failed\n\n{KILL}",
            "HandleNotOpened",
            "a trainer handed weights over as a handle of GPU memory, and this engine cannot open "
            "it: their pods do not share a /dev/shm",
            "mount one volume at /dev/shm in both pods (podTemplate), or have the trainer send "
            "weights over NCCL or from disk",
            id="a handle without a shared /dev/shm",
        ),
        pytest.param(
            "RuntimeError: Rank 0 scheduler died during initialization (exit code: -9). If exit "
            "code is -9 (SIGKILL), a common cause is the OS OOM killer.",
            "OOMKilled",
            "scheduler 0 was killed while it started, usually for want of memory in the pod",
            "raise the memory limit in podTemplate, which /dev/shm counts towards too",
            id="host memory",
        ),
        pytest.param(
            "[2026-11-23 10:00:00] Rank 1 scheduler is dead. Please check if there are relevant "
            "logs.\nEOFError",
            "SchedulerDied",
            "scheduler 1 died: EOFError",
            "kubectl sglang logs shows what came before it",
            id="scheduler up to 0.5.9",
        ),
        pytest.param(
            "RuntimeError: Rank 2 scheduler died during initialization (exit code: 1).",
            "SchedulerDied",
            "scheduler 2 died: RuntimeError: Rank 2 scheduler died during initialization (exit "
            "code: 1).",
            "kubectl sglang logs shows what came before it",
            id="scheduler since 0.5.14",
        ),
        pytest.param(
            f"Traceback (most recent call last):\nfoo.bar.WeirdError: no idea\n\n{KILL}",
            "SchedulerDied",
            "a process of the engine died: foo.bar.WeirdError: no idea",
            "kubectl sglang logs shows what came before it",
            id="a crash nobody knows",
        ),
        pytest.param(
            "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 30000): "
            "address already in use",
            "PortInUse",
            "the address '0.0.0.0', 30000 is in use in the pod",
            "set network.port to another port, and remove hostNetwork or sidecars on this one",
            id="port",
        ),
        pytest.param(
            "ValueError: dist_init_port at 30001 is not available in 30 seconds. ",
            "PortInUse",
            "port 30001 (dist_init_port) is in use in the pod",
            "set network.port to another port: SGLang counts its other ports from it",
            id="internal port",
        ),
        pytest.param(
            "[2026-11-23 10:00:00] Initialization failed. warmup error: Traceback (most recent "
            "call last):\n  File x\nrequests.exceptions.ConnectionError: refused\n",
            "WarmUpFailed",
            "the first request failed: requests.exceptions.ConnectionError: refused",
            "read the engine's log; the model may not fit this SGLang version",
            id="warm-up",
        ),
    ],
)
def test_texts_from_sglangs_source_are_diagnosed(text, reason, message, advice):
    assert diagnosis.diagnose(text, 137, "Error") == diagnosis.Diagnosis(
        reason=reason, message=message, advice=advice
    )


def test_the_kubelets_word_for_lack_of_memory_needs_no_text():
    told = diagnosis.diagnose(KILL, 137, "OOMKilled")
    assert told.reason == "OOMKilled"
    assert "memory limit" in told.advice


def test_advice_has_the_pools_own_numbers_where_they_are_known():
    numbers = diagnosis.Numbers(mem_fraction_static="0.9", memory_limit="64Gi")
    told = diagnosis.diagnose("CUDA error: out of memory", 137, "Error", numbers)
    assert told.advice.startswith("lower mem_fraction_static (now 0.9), or")
    told = diagnosis.diagnose("", 137, "OOMKilled", numbers)
    assert "raise the memory limit in podTemplate (now 64Gi)" in told.advice


@pytest.mark.parametrize(
    ("exit_code", "reason", "message"),
    [
        pytest.param(0, "EngineExited", "the engine exited with code 0", id="0"),
        pytest.param(
            137,
            "EngineKilled",
            "the engine was killed (exit code 137), and not for its memory limit",
            id="137",
        ),
        pytest.param(
            143, "EngineTerminated", "the engine ended on SIGTERM (exit code 143)", id="143"
        ),
        pytest.param(1, "EngineFailed", "the engine failed (exit code 1)", id="1"),
        pytest.param(None, "EngineFailed", "the engine failed", id="none"),
    ],
)
def test_without_a_text_the_exit_code_speaks(exit_code, reason, message):
    for text in ("", "\n"):
        told = diagnosis.diagnose(text, exit_code, None)
        assert (told.reason, told.message) == (reason, message)
        assert told.advice


def test_a_text_nobody_knows_is_shown_by_its_last_exception():
    text = "[2026-11-23 10:00:00] hello\nValueError: strange\n  at the end\n"
    assert diagnosis.diagnose(text, 1, "Error").message == (
        "the engine failed (exit code 1): ValueError: strange"
    )


def test_a_text_without_an_exception_is_shown_by_its_last_line():
    text = "first\n[2026-11-23 10:00:00] last\n\n"
    assert diagnosis.diagnose(text, 0, "Completed").message == "the engine exited with code 0: last"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 5000, id="long"),
        pytest.param("error: unrecognized arguments: " + "--x " * 2000, id="long arguments"),
        pytest.param("\x1b[31mred\x07\x1b[0m", id="terminal codes"),
        pytest.param("error: unrecognized arguments: {flag} {0} {", id="braces"),
        pytest.param("KeyError\n" * 500 + "in resume_memory_occupation\n" * 500, id="repetitive"),
    ],
)
def test_whatever_an_engine_writes_becomes_one_short_printable_line(text):
    told = diagnosis.diagnose(text, 1, "Error")
    for line in (told.message, told.advice):
        assert line.isprintable()
        assert 0 < len(line) <= 300


def test_the_line_with_all_arguments_is_never_shown_because_keys_are_in_it():
    arguments = ", ".join(f"argument_{n}=None" for n in range(50)) + ", api_key='secret'"
    for text in (f"server_args=ServerArgs({arguments})", arguments[200:]):
        told = diagnosis.diagnose(f"[2026-11-23 10:00:00] before\n{text}\n", 1, "Error")
        assert told.message == "the engine failed (exit code 1): before"
        told = diagnosis.diagnose(text, 1, "Error")
        assert "secret" not in told.message + told.advice


def test_every_signature_has_its_texts_filled():
    for signature in signatures.SIGNATURES:
        fields = dict.fromkeys(
            (
                *signature.pattern.compiled.groupindex,
                "key",
                "error",
                "because",
                "fraction",
                "limit",
            ),
            "x",
        )
        assert signature.message.format(**fields)
        assert signature.advice.format(**fields)


@pytest.mark.parametrize(
    "line",
    [
        "NCCL WARN Error: failed to extend /dev/shm/nccl-Ab12Cd to 33030532 bytes, error: "
        "No space left on device (28)",
        "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-a2 (size 9637888)",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
        "shared memory (shm).",
        "RuntimeError: unable to write to shared memory object </torch_12_34>: No space left on "
        "device (28)",
    ],
)
def test_a_full_dev_shm_is_told_by_the_way_that_makes_it_larger(line):
    told = diagnosis.diagnose(line, 1, "Error")
    assert told.reason == "SharedMemoryExceeded"
    assert "mount an emptyDir at /dev/shm in podTemplate, with medium: Memory" in told.advice


HOSTILE = {
    "one word": "a" * 4096,
    "dots": "a." * 2048,
    "keys": "a_b=" * 1024,
    "errors": "Error " * 682,
    "a log": "RuntimeError: CUDA error " * 170,
    "lines": "\n" * 4096,
    "brackets": "[" * 4096,
    "spaces": " " * 4095 + "x",
    "paths": "/lib.so" * 600,
    "numbers": "1 is not divisible by " * 200,
    "megabytes": "a b" * 1_000_000,
    "indented lines": 'server_args.py", line 1, in run\n' + "    a\n" * 500,
    "sizes": "input_size 1 " * 400,
    "memory objects": "shared memory object " * 200,
}


def quickest(message: str) -> float:
    """Seconds of CPU for the end of an engine that wrote this."""
    seconds = []
    for number in range(5):
        begun = time.process_time()
        diagnosis.diagnose(f"{number} {message}", 1, "Error")
        seconds.append(time.process_time() - begun)
    return min(seconds)


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_an_engine_writes_at_its_end_costs_little_to_read(message):
    """It is its user's text, and is read for every engine that ended: as an ordinary log is."""
    ordinary = quickest("INFO: 10.0.0.1:4242 - POST /generate HTTP/1.1 200 OK\n" * 80)
    assert quickest(message) < 20 * ordinary
