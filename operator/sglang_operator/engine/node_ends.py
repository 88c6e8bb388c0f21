"""Ends of engines for what the image lacks or the node does not give.  Part of the table."""

from sglang_operator.engine.signature_row import Signature
from sglang_operator.engine.signature_row import signature as _row

KERNEL_BUILD_FAILED = "KernelBuildFailed"
MODULE_MISSING = "ModuleMissing"
LIBRARY_MISSING = "LibraryMissing"
CPU_UNSUPPORTED = "CPUNotSupported"
DISK_FULL = "DiskFull"
PERMISSION_DENIED = "PermissionDenied"
OUT_OF_HOST_MEMORY = "OOMKilled"
LIMIT_REACHED = "ProcessLimitReached"
NO_PROCESS_NUMBERS = "SharedMemoryUnusable"
SEGMENTATION_FAULT = "SegmentationFault"

_IMAGE = "use SGLang's own image, or one whose parts belong together, in spec.image"

ENDINGS: tuple[Signature, ...] = (
    # --- before SGLang, of engines on a trainer's GPUs (placement/entry.py)
    _row(
        NO_PROCESS_NUMBERS,
        r"^sglang-operator: no process numbers: (?P<what>[^\n]{1,300})",
        "the engine cannot share its /dev/shm with its trainer: {what}",
        "let user and group of both write to that folder of the node (placement.shared, "
        "security.runAsUser), or raise the node's kernel.pid_max",
    ),
    # --- the image
    _row(
        KERNEL_BUILD_FAILED,
        r"(?i)could not find nvcc|nvcc(?:: command)? not found|CUDA_HOME environment"
        r" variable is not "
        r"set|ninja is required|command '\['ninja'|ninja build failed|nvcc compilation failed"
        r"|No such file or directory: '[^']*(?:nvcc|ninja)'|fatal error: \S+\.h: No such file"
        r"|triton\S*CompilationError|error compiling objects for extension"
        r"|failed to find C compiler",
        "SGLang could not build a kernel: {error}",
        "use an image with the CUDA toolkit (nvcc, ninja, gcc), or another attention_backend and "
        "sampling_backend",
        words=(
            "nvcc",
            "cuda_home",
            "ninja",
            "fatal error:",
            "compilationerror",
            "error compiling objects",
            "c compiler",
        ),
    ),
    _row(
        KERNEL_BUILD_FAILED,
        r"(?i)(?:deep_?gemm|deep_?ep).{0,200}(?:error|failed|assert)"
        r"|(?:error|failed|assert).{0,200}deep_?gemm",
        "a DeepGEMM or DeepEP kernel failed: {error}",
        "set SGLANG_ENABLE_JIT_DEEPGEMM=0 in system_envs to do without it, or use another SGLang",
        words=("deepgemm", "deep_gemm", "deepep", "deep_ep"),
    ),
    _row(
        LIBRARY_MISSING,
        r"(?P<what>version `GLIBC(?:XX)?_[\d.]+' not found|undefined symbol: \S+"
        r"|(?<!\S)\S+\.so[.\d]*: cannot open shared object file[^\n]{0,60})",
        "the image's libraries do not belong together: {what}",
        _IMAGE,
        words=("glibc", "undefined symbol: ", "cannot open shared object file"),
    ),
    _row(
        MODULE_MISSING,
        r"No module named '?(?P<name>[\w.]+)'?",
        "the image holds no Python module {name}",
        _IMAGE,
    ),
    _row(
        MODULE_MISSING,
        r"cannot import name '(?P<name>\w+)' from (?:partially initialized module"
        r" )?'(?P<where>[\w.]+)'",
        "the image's {where} has no {name}: it is another version than SGLang wants",
        _IMAGE,
    ),
    _row(
        MODULE_MISSING,
        r"(?P<what>(?<!\S)\S+ is (?:not installed|required)\b[^\n]{0,60}|[Pp]lease install"
        r" \S+[^\n]{0,60})",
        "the image lacks a part: {what}",
        _IMAGE,
        words=(" is not installed", " is required", "lease install "),
    ),
    _row(
        CPU_UNSUPPORTED,
        r"Illegal instruction|exit ?code: -4\b|SIGILL",
        "the node's CPU lacks an instruction that the image uses",
        "use nodes with a newer CPU (AVX2, AVX-512), or an image built for this one",
    ),
    # --- the node
    _row(
        DISK_FULL,
        r"No space left on device|Disk quota exceeded|Not enough free disk space",
        "the disk is full: {error}",
        "mount a larger volume for the cache and the model in podTemplate, or free the node's disk",
    ),
    _row(
        PERMISSION_DENIED,
        r"(?:Permission denied|Read-only file system|Operation not permitted):"
        r" '?(?P<path>[^'\n]+)'?",
        "the engine may not use {path}",
        "set security.runAsUser and fsGroup to those who may, or correct the volume's mount",
    ),
    _row(
        LIMIT_REACHED,
        r"(?P<what>can't start new thread|Too many open files|Resource temporarily unavailable)",
        "a limit of the pod or node was reached: {what}",
        "raise the node's limit of processes (podPidsLimit) or of open files",
    ),
    _row(
        OUT_OF_HOST_MEMORY,
        r"^MemoryError|Cannot allocate memory|DefaultCPUAllocator: can't allocate"
        r"|not enough memory: you tried to allocate|std::bad_alloc"
        r"|CUDA error: (?:out of host memory|operating system call failed)",
        "the pod's memory is used up",
        "raise the memory limit in podTemplate{limit}, which /dev/shm counts towards too",
    ),
    _row(
        SEGMENTATION_FAULT,
        r"Segmentation fault|SIGSEGV|exit ?code: -11\b",
        "a process of the engine crashed in native code (segmentation fault)",
        "try another SGLang version or attention_backend; kubectl sglang logs names the last "
        "Python frame",
    ),
)
