"""The ways in which an engine fails to start, with the last words of the real one.

The decisive lines are those of real engines (tests/data/engine-logs) or of the sources named in
explanation/sglang.md, Ends; the frames before them are abbreviated.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from sglang_operator.testing.engine import death, log
from sglang_operator.testing.engine.settings import Settings

_SCHEDULER = (
    ("srt/managers/scheduler.py", "run_scheduler_process"),
    ("srt/managers/tp_worker.py", "_init_model_runner"),
)
_KV_CACHE = (
    "ValueError: Loaded weights leave no GPU memory for the KV cache under "
    "--mem-fraction-static={given:g}. Raise --mem-fraction-static above {wanted:g} (minimum viable "
    "= 1 - available/pre = {wanted:g}). If using speculative decoding, draft weights are now "
    "counted."
)
_OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total "
    "capacity of 79.10 GiB of which 300.75 MiB is free. "
    "Including non-PyTorch memory, this process has 78.80 GiB memory in use. Of the allocated "
    "memory 78.11 GiB is allocated by PyTorch, and 19.42 MiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
    "for Memory Management  "
    "(https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)
_GPU_MISSING = (
    "torch.AcceleratorError: CUDA error: invalid device ordinal\n"
    "GPU device may be out of range, do you have enough GPUs?\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace "
    "below might be incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
_GRAPHS = (
    "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    "Possible solutions:\n"
    "1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)\n"
    "2. set --cuda-graph-max-bs to a smaller value (e.g., 16)\n"
    "3. disable CUDA graph by --disable-cuda-graph. (Not recommended. Huge performance loss)\n"
)
_UNBALANCED = (
    "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes. "
    "pre_model_load_memory=20.1, local_gpu_memory=78.6, local_gpu_memory * 0.9=70.7"
)
_NOT_FOUND = (
    "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': {path!r}. Use "
    "`repo_type` argument if needed."
)
_OFFLINE = (
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find "
    "them in the cached files.\nCheck your internet connection or see how to run the library in "
    "offline mode at 'https://huggingface.co/docs/transformers/installation#offline-mode'."
)
_GATED = (
    "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
    "https://huggingface.co/{path}.\n401 Client Error."
)


def scheduler(error: str) -> NoReturn:
    """A scheduler that fails while the engine starts, and takes the engine with it."""
    death.scheduler_failed(death.traceback(error, *_SCHEDULER), launching=True)
    death.kill_tree()


def launcher(error: str, code: int = 1) -> NoReturn:
    """An exception in the launching process itself."""
    log.raw(death.traceback(error, ("launch_server.py", "<module>")))
    sys.exit(code)


def _killed_rank() -> NoReturn:
    launcher(
        "RuntimeError: Rank 0 scheduler died during initialization (exit code: -9). If exit code "
        "is -9 (SIGKILL), a common cause is the OS OOM killer."
    )


def _silent() -> NoReturn:
    os._exit(1)


# A failure's name -> how it ends the start; called with the parsed arguments.
AT_START: dict[str, Callable[[argparse.Namespace], NoReturn]] = {
    "kv-cache-too-small": lambda args: kv_cache(args.mem_fraction_static or 0.0, 0.3),
    "cuda-out-of-memory": lambda args: scheduler(_OUT_OF_MEMORY),
    "gpu-missing": lambda args: scheduler(_GPU_MISSING),
    "graph-capture": lambda args: scheduler(_GRAPHS),
    "gpu-shared": lambda args: scheduler(_UNBALANCED),
    "model-not-found": lambda args: model_not_found(args.model_path),
    "hub-unreachable": lambda args: launcher(_OFFLINE),
    "model-gated": lambda args: launcher(_GATED.format(path=args.model_path)),
    "host-out-of-memory": lambda args: _killed_rank(),
    "silent": lambda args: _silent(),
}


def kv_cache(given: float, wanted: float) -> NoReturn:
    """--mem-fraction-static leaves nothing after the weights."""
    scheduler(_KV_CACHE.format(given=given, wanted=wanted))


def model_not_found(path: str) -> NoReturn:
    """Transformers' answer to a path without a model."""
    launcher(_NOT_FOUND.format(path=path))


def tell_port_in_use(host: str, port: int) -> None:
    """Uvicorn's words; it does not end before what SGLang has begun in it does."""
    log.raw(
        f"ERROR:    [Errno 98] error while attempting to bind on address ('{host}', {port}): "
        "address already in use"
    )
    log.raw("INFO:     Waiting for application shutdown.")


def warm_up(said: str) -> NoReturn:
    """The warm-up has given up (_execute_server_warmup): the server kills itself."""
    log.line(f"Initialization failed. warmup error: Traceback (most recent call last):\n{said}")
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # it has ended by then


def check(args: argparse.Namespace, settings: Settings) -> None:
    """End the start where the arguments, or the settings, say so; else return."""
    if settings.fail:
        if settings.fail not in AT_START:
            known = ", ".join(AT_START)
            sys.exit(f"FAKE_SGLANG_FAIL={settings.fail} is not known; the failures are {known}")
        AT_START[settings.fail](args)
    gpus = args.tp_size * args.pp_size
    if gpus % args.nnodes:
        launcher("AssertionError: tp_size must be divisible by number of nodes")
    if 0 <= settings.gpus < gpus // args.nnodes:
        scheduler(_GPU_MISSING)
    fraction = args.mem_fraction_static
    if fraction is not None and fraction < settings.min_mem_fraction:
        kv_cache(fraction, settings.min_mem_fraction)
    if fraction is not None and fraction > settings.max_mem_fraction:
        scheduler(_OUT_OF_MEMORY)
