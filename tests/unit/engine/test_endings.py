"""Ends of engines as users report them: each has a reason of its kind, and advice.

The texts are short forms of what PyTorch, NCCL, transformers, the hubs and SGLang write.
"""

import pytest

from sglang_operator.engine import diagnosis

KILL = (
    "[2026-01-01 00:00:00 TP0] Received sigquit from a child process. It usually means the child "
    "failed.\n[2026-01-01 00:00:00] kill_process_tree called: parent_pid=1, include_parent=True"
)
TRACE = 'Traceback (most recent call last):\n  File "scheduler.py", line 1, in run\n    run()\n'
CUDA = "torch.AcceleratorError: CUDA error: "
ARGUMENTS = 'File "sglang/srt/server_args.py", line 2272, in _handle\n    raise ValueError(\n'
JSON = "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
RESOLVE = "Failed to resolve 'hub.invalid' ([Errno -3] Temporary failure in name resolution)"

ENDS = [
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12040). Please",
        "GPUDriverTooOld",
        "12040",
        "newer driver",
    ),
    (
        "RuntimeError: CUDA driver version is insufficient for CUDA runtime version",
        "GPUDriverTooOld",
        "driver",
        "older CUDA",
    ),
    (
        "Error 804: forward compatibility was attempted on non supported HW",
        "GPUDriverTooOld",
        "driver",
        "older CUDA",
    ),
    (
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "GPUBroken",
        "uncorrectable ECC error",
        "cordon",
    ),
    ("RuntimeError: CUDA error: uncorrectable NVLink error detected", "GPUBroken", "NVLink", "Xid"),
    ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", "GPUBroken", "Xid", "cordon"),
    (
        "RuntimeError: Unexpected error. Error 802: system not yet initialized",
        "GPUBroken",
        "NVSwitch",
        "nvidia-fabricmanager",
    ),
    (
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "GPUBusy",
        "exclusive",
        "nvidia-smi -c 0",
    ),
    (
        CUDA + "no kernel image is available for execution on the device",
        "GPUNotSupported",
        "no kernels",
        "image built for this GPU",
    ),
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at"
        " least 8.0. Your",
        "GPUNotSupported",
        "bfloat16",
        "dtype: half",
    ),
    (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum "
        "capability: 89. Current capability: 80.",
        "GPUNotSupported",
        "fp8",
        "newer GPUs",
    ),
    (
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 180224, "
        "Hardware limit: 101376. Reducing block sizes",
        "GPUNotSupported",
        "101376",
        "attention_backend",
    ),
    (CUDA + "an illegal memory access was encountered", "CUDAError", "illegal memory", "node only"),
    (CUDA + "device-side assert triggered", "CUDAError", "device-side assert", "CUDA_LAUNCH"),
    (
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDAError",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "mem_fraction_static",
    ),
    (
        "[rank1]:[E101 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=7)",
        "NCCLTimeout",
        "in vain",
        "dist_timeout",
    ),
    (
        "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:77, unhandled"
        " system error",
        "NCCLFailed",
        "NCCL error",
        "NCCL_DEBUG",
    ),
    (
        "torch.distributed.DistBackendError: NCCL error, unhandled system error\nLast"
        " error:\nError "
        "while creating shared memory segment /dev/shm/nccl-a (size 33030528)",
        "SharedMemoryExceeded",
        "/dev/shm",
        "emptyDir",
    ),
    ("Fatal Python error: Bus error", "SharedMemoryExceeded", "/dev/shm", "emptyDir"),
    (
        "[2026-01-01 TP0] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)",
        "SchedulerHung",
        "300 s",
        "watchdog_timeout",
    ),
    (
        "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: "
        "https://hub.invalid/api/models",
        "ModelHubBusy",
        "so often",
        "HF_TOKEN",
    ),
    (
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url:"
        " https://a/b",
        "ModelAccessDenied",
        "401",
        "HF_TOKEN",
    ),
    (
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: 1)\n\n"
        "Repository Not Found for url: https://hub.invalid/api/models/a/b.\nPlease make sure",
        "ModelNotFound",
        "hub.invalid/api/models/a/b",
        "model_name_or_path",
    ),
    (
        "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://hub.invalid/x",
        "ModelNotFound",
        "404",
        "model_name_or_path",
    ),
    (
        "huggingface_hub.errors.GatedRepoError: access to a/b is restricted",
        "ModelAccessDenied",
        "restricted",
        "HF_TOKEN",
    ),
    (
        "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired",
        "ModelHubUnreachable",
        "not trusted",
        "CA certificates",
    ),
    (
        f"urllib3.exceptions.NameResolutionError: HTTPSConnection: {RESOLVE}",
        "ModelHubUnreachable",
        "out of reach",
        "mount a volume",
    ),
    (
        "requests.exceptions.ProxyError: HTTPSConnectionPool(host='a'): Unable to connect to proxy",
        "ModelHubUnreachable",
        "ProxyError",
        "proxy",
    ),
    (
        "ValueError: Loading a/b requires you to execute the configuration file in that repo. then "
        "set the option `trust_remote_code=True` to remove this error.",
        "RemoteCodeRefused",
        "code of its own",
        "trust_remote_code: true",
    ),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
        "ModelIncomplete",
        "HeaderTooLarge",
        "git-lfs",
    ),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
        "file not fully covered",
        "ModelIncomplete",
        "not fully covered",
        "again",
    ),
    (
        "RuntimeError: Cannot find any model weights with `/models/a`",
        "ModelIncomplete",
        "/models/a",
        "again",
    ),
    (
        "OSError: Can't load tokenizer for '/models/a'. If you were trying to load it",
        "ModelIncomplete",
        "tokenizer",
        "tokenizer_path",
    ),
    (
        "FileNotFoundError: [Errno 2] No such file or directory:"
        " '/models/a/model-00003.safetensors'",
        "ModelIncomplete",
        "model-00003.safetensors",
        "again",
    ),
    (
        "ValueError: Model architectures ['NewForCausalLM'] are not supported for now. Supported "
        "architectures: dict_keys(['A'])",
        "ModelNotSupported",
        "NewForCausalLM",
        "newer SGLang",
    ),
    (
        "ValueError: The checkpoint you are trying to load has model type `new_moe` but"
        " Transformers "
        "does not recognize this architecture.",
        "ModelNotSupported",
        "new_moe",
        "newer SGLang",
    ),
    (
        "KeyError: 'model.layers.0.mlp.experts.w13_weight_scale'",
        "ModelNotSupported",
        "w13_weight_scale",
        "checkpoint",
    ),
    (
        "    assert param_data.shape == loaded_weight.shape\nAssertionError",
        "ModelNotSupported",
        "other shapes",
        "config.json",
    ),
    (
        "ValueError: Warning: User-specified context_length (131072) is greater than the derived "
        "context_length (40960). This may lead to incorrect model outputs",
        "ArgumentInvalid",
        "131072",
        "lower context_length to 40960",
    ),
    (
        "ValueError: Quantization method specified in the model config (fp8) does not match the "
        "quantization method specified in the `quantization` argument (awq).",
        "ArgumentInvalid",
        "awq, and the checkpoint is quantized as fp8",
        "remove quantization",
    ),
    (
        "ValueError: Unknown quantization method: foo. Must be one of ['awq', 'fp8'].",
        "ArgumentInvalid",
        "foo",
        "awq",
    ),
    (
        "ValueError: Cannot find the config file for awq",
        "ArgumentInvalid",
        "not quantized",
        "remove",
    ),
    (
        "ValueError: torch.bfloat16 is not supported for quantization method awq."
        " Supported dtypes: "
        "[torch.float16]",
        "ArgumentInvalid",
        "torch.bfloat16",
        "torch.float16",
    ),
    (
        "ValueError: Total number of attention heads (28) must be divisible by tensor"
        " parallel size "
        "(8).",
        "ArgumentInvalid",
        "28",
        "num_gpus_per_worker",
    ),
    ("AssertionError: 25 is not divisible by 4", "ArgumentInvalid", "25", "num_gpus_per_worker"),
    (
        "    assert self.total_num_heads % tp_size == 0\nAssertionError",
        "ArgumentInvalid",
        "heads",
        "tp_size",
    ),
    (
        "ValueError: The output_size of gate's and up's weight = 192 is not divisible by weight "
        "quantization block_n = 128.",
        "ArgumentInvalid",
        "192",
        "num_gpus_per_worker",
    ),
    (
        "AssertionError: max_running_request is zero",
        "KVCacheTooSmall",
        "not one request",
        "raise mem_fraction_static",
    ),
    (
        "RuntimeError: Chat template foo is not a built-in template name or a valid chat template "
        "file path.",
        "ArgumentInvalid",
        "foo",
        "chat_template",
    ),
    (
        "ValueError: Failed to load LoRA adapter a: not found",
        "ArgumentInvalid",
        "LoRA",
        "lora_paths",
    ),
    (
        "ValueError: the draft model and the target model must have the same vocabulary",
        "ArgumentInvalid",
        "draft model",
        "speculative_draft_model_path",
    ),
    (
        '  File "model_config.py", line 130\n    self.x = json.loads(model_override_args)\n'
        '  File "json/__init__.py", line 346, in loads\n    return _default_decoder.decode(s)\n'
        + JSON,
        "ArgumentInvalid",
        "json_model_override_args is not JSON",
        "double quotes",
    ),
    ("    return cls(**json.load(f))\n  File x\n" + JSON, "ModelIncomplete", "JSON file", "again"),
    (JSON, "ArgumentInvalid", "JSON is wrong", "preferred_sampling_params"),
    (
        ARGUMENTS + "ValueError: The arguments a and b are mutually exclusive and cannot be used.",
        "ArgumentInvalid",
        "mutually exclusive",
        "strategy_config",
    ),
    (
        ARGUMENTS + "ValueError: something of its own",
        "ArgumentInvalid",
        "something of its own",
        "strategy_config",
    ),
    (
        "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist",
        "KernelBuildFailed",
        "nvcc",
        "CUDA toolkit",
    ),
    (
        "subprocess.CalledProcessError: Command '['ninja', '-v']' returned non-zero exit status 1.",
        "KernelBuildFailed",
        "ninja",
        "CUDA toolkit",
    ),
    (
        "RuntimeError: Assertion error (csrc/deep_gemm/jit.hpp:112): failed",
        "KernelBuildFailed",
        "DeepGEMM",
        "SGLANG_ENABLE_JIT_DEEPGEMM",
    ),
    (
        "ImportError: /lib/libm.so.6: version `GLIBC_2.38' not found (required by x.so)",
        "LibraryMissing",
        "GLIBC_2.38",
        "image",
    ),
    (
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
        "LibraryMissing",
        "libcudart.so.13",
        "image",
    ),
    ("ModuleNotFoundError: No module named 'flash_attn'", "ModuleMissing", "flash_attn", "image"),
    (
        "ImportError: cannot import name 'A' from 'transformers.x' (/a/b)",
        "ModuleMissing",
        "transformers.x",
        "image",
    ),
    ("Fatal Python error: Illegal instruction", "CPUNotSupported", "CPU", "newer CPU"),
    ("OSError: [Errno 28] No space left on device", "DiskFull", "disk is full", "volume"),
    (
        "PermissionError: [Errno 13] Permission denied: '/cache/hub'",
        "PermissionDenied",
        "/cache/hub",
        "fsGroup",
    ),
    (
        "OSError: [Errno 30] Read-only file system: '/models/a/.lock'",
        "PermissionDenied",
        "/models/a/.lock",
        "mount",
    ),
    ("RuntimeError: can't start new thread", "ProcessLimitReached", "thread", "podPidsLimit"),
    ("OSError: [Errno 24] Too many open files", "ProcessLimitReached", "open files", "raise"),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't"
        " allocate memory",
        "OOMKilled",
        "memory is used up",
        "raise the memory limit",
    ),
    ("OSError: [Errno 12] Cannot allocate memory", "OOMKilled", "used up", "raise"),
    ("Fatal Python error: Segmentation fault", "SegmentationFault", "native", "SGLang version"),
]


@pytest.mark.parametrize(("text", "reason", "message", "advice"), ENDS)
def test_an_end_that_users_report_has_its_reason_and_advice(text, reason, message, advice):
    for whole in (text, f"{TRACE}{text}\n\n{KILL}\n"):
        told = diagnosis.diagnose(whole, 1, "Error")
        assert told.reason == reason
        assert message in told.message
        assert advice in told.advice


def a_full_gpu(*, others: str, own: str) -> str:
    return (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        f"capacity of 79.10 GiB of which 1.00 GiB is free. {others}Including non-PyTorch memory, "
        f"this process has {own} memory in use. Of the allocated memory 7 GiB is allocated"
    )


@pytest.mark.parametrize(
    ("others", "own", "reason"),
    [
        pytest.param("Process 7 has 70.00 GiB memory in use. ", "8.00 GiB", "GPUShared", id="seen"),
        pytest.param("", "8.00 GiB", "GPUShared", id="in another pod"),
        pytest.param("", "77.90 GiB", "CUDAOutOfMemory", id="its own"),
        pytest.param(
            "Process 7 has 500.00 MiB memory in use. ", "77.5 GiB", "CUDAOutOfMemory", id="helper"
        ),
    ],
)
def test_a_gpu_that_somebody_else_fills_is_told_from_a_fraction_that_is_too_large(
    others, own, reason
):
    told = diagnosis.diagnose(a_full_gpu(others=others, own=own), 1, "Error")
    assert told.reason == reason
    assert told.advice.startswith("free the GPU" if reason == "GPUShared" else "lower mem_frac")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(f"{TRACE}foo.WeirdError: no idea\n{KILL}", "foo.WeirdError: no idea", id="1"),
        pytest.param(
            f"[2026-01-01 00:00:00 TP1] {TRACE}foo.WeirdError: no idea\nEOFError\n",
            "foo.WeirdError: no idea",
            id="an echo in another process",
        ),
        pytest.param(
            "[2026-01-01 00:00:00] pool is gone\n/usr/lib/python3/multiprocessing/"
            "resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked "
            f"shared_memory objects\n  warnings.warn(\n{KILL}",
            "pool is gone",
            id="warnings",
        ),
    ],
)
@pytest.mark.parametrize("code", [1, 137])
def test_what_nobody_understands_is_shown_by_its_last_line_that_is_a_cause(text, shown, code):
    assert diagnosis.diagnose(text, code, "Error").message.endswith(f": {shown}")


@pytest.mark.parametrize("code", [1, 137])
def test_lines_that_are_no_cause_are_not_quoted(code):
    told = diagnosis.diagnose(f"{KILL}\n", code, "Error").message
    assert "kill_process_tree" not in told
    assert "sigquit" not in told


@pytest.mark.parametrize(
    ("code", "reason"),
    [(132, "CPUNotSupported"), (135, "SharedMemoryExceeded"), (139, "SegmentationFault")],
)
def test_signals_speak_where_the_log_is_empty(code, reason):
    assert diagnosis.diagnose("", code, "Error").reason == reason
