"""What a log says that ends with an engine's death: one table, read by ``diagnosis``.

The texts are SGLang's, PyTorch's, transformers' and argparse's own, compared with the wheels of
0.5.2 to 0.5.23 and with real ends of real engines (tests/data/engine-logs).  The first signature
that matches wins, so the specific ones stand first.
"""

from sglang_operator.engine import endings
from sglang_operator.engine.signature_row import MORE_SHM as MORE_SHM
from sglang_operator.engine.signature_row import Signature
from sglang_operator.engine.signature_row import signature as _signature

KV_CACHE_TOO_SMALL = "KVCacheTooSmall"
CUDA_OUT_OF_MEMORY = "CUDAOutOfMemory"
GRAPH_CAPTURE_FAILED = "GraphCaptureFailed"
GPU_SHARED = "GPUShared"
GPU_MISSING = "GPUMissing"
MODEL_NOT_FOUND = "ModelNotFound"
MODEL_ACCESS_DENIED = "ModelAccessDenied"
MODEL_HUB_UNREACHABLE = "ModelHubUnreachable"
ARGUMENT_UNKNOWN = "ArgumentUnknown"
ARGUMENT_INVALID = "ArgumentInvalid"
REQUEST_WHILE_ASLEEP = "RequestWhileAsleep"
RELEASED_WHILE_BUSY = "ReleasedWhileBusy"
RESUMED_WHILE_AWAKE = "ResumedWhileAwake"
WOKEN_WITHOUT_MEMORY = "WokenWithoutMemory"
WEIGHT_GROUP_UNKNOWN = "WeightGroupUnknown"
HANDLE_OF_ANOTHER_GPU = "HandleOfAnotherGPU"
HANDLE_NOT_OPENED = "HandleNotOpened"
SHM_FULL = "SharedMemoryExceeded"
OUT_OF_HOST_MEMORY = "OOMKilled"  # the kubelet's own word
PORT_IN_USE = "PortInUse"
WARM_UP_FAILED = "WarmUpFailed"
SCHEDULER_DIED = "SchedulerDied"


_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SIZE = rf"{_NUMBER} [KMGT]?i?B"
_KV_CACHE = "the weights leave no GPU memory for the KV cache"
_MODEL = "correct model_args.model_name_or_path, or mount a volume with the model there"
OTHER_PROCESS = "no {wanted} free on GPU {gpu}: of {total}, other processes hold {other}"
OTHER_PROCESS_ADVICE = (
    "free the GPU of the other processes; only if one shares it on purpose, lower "
    "mem_fraction_static{fraction}"
)
_READ = "kubectl sglang logs shows what came before it"
MORE_MEMORY = "raise the memory limit in podTemplate{limit}, which /dev/shm counts towards too"

SIGNATURES: tuple[Signature, ...] = (
    # --- the command line: argparse's last line, exit code 2
    _signature(
        ARGUMENT_UNKNOWN,
        r"error: unrecognized arguments: (?P<arguments>.+)$",
        "this SGLang version does not know {arguments}",
        "correct or remove it in strategy_config or extraArgs, or use an image that knows it",
    ),
    _signature(
        ARGUMENT_UNKNOWN,
        r"error: ambiguous option: (?P<flag>[\w=.-]+) could match (?P<candidates>.+)$",
        "{flag} could mean {candidates}",
        "replace {key} by one of these",
    ),
    _signature(
        ARGUMENT_INVALID,
        r"error: argument (?P<flag>[^:\s]+): invalid choice: (?P<found>\S+) "
        r"\(choose from (?P<choices>.+)\)$",
        "{flag} is {found}, which this SGLang version does not offer",
        "set {key} to one of {choices}",
    ),
    _signature(
        ARGUMENT_INVALID,
        r"error: argument (?P<flag>[^:\s]+): invalid (?P<type>\w+) value: (?P<found>.+)$",
        "{flag} is {found}, which is no {type}",
        "set {key} to a value of type {type}",
    ),
    _signature(
        ARGUMENT_INVALID,
        r"error: argument (?P<flag>[^:\s]+): (?P<detail>.+)$",
        "{flag}: {detail}",
        "correct {key}",
    ),
    _signature(
        ARGUMENT_INVALID,
        r"error: the following arguments are required: (?P<flag>.+)$",
        "{flag} is missing",
        "check extraArgs: an item there may have swallowed it",
    ),
    # --- shared memory: NCCL's shmutils.cc, PyTorch's data loader
    _signature(
        SHM_FULL,
        r"(?:/dev/shm/nccl-\S|insufficient shared memory|shared memory object)[^\n]{0,200}?"
        r"(?:No space left on device|\(shm\)|size \d)",
        "/dev/shm is full",
        MORE_SHM,
    ),
    # --- GPU memory
    _signature(
        KV_CACHE_TOO_SMALL,
        rf"leave no GPU memory for the KV cache under --mem-fraction-static=(?P<now>{_NUMBER})\. "
        rf"Raise --mem-fraction-static above (?P<needed>{_NUMBER})",
        _KV_CACHE,
        "raise mem_fraction_static above {needed} (now {now})",
    ),
    _signature(
        KV_CACHE_TOO_SMALL,
        rf"Not enough memory\. Please try to increase --mem-fraction-static\. "
        rf"Current value: [\w.]*mem_fraction_static=(?P<now>{_NUMBER})",
        _KV_CACHE,
        "raise mem_fraction_static (now {now}), or use more GPUs for each engine",
    ),
    _signature(
        KV_CACHE_TOO_SMALL,
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        _KV_CACHE,
        "raise mem_fraction_static{fraction}, or use more GPUs for each engine",
    ),
    _signature(
        GRAPH_CAPTURE_FAILED,
        r"Capture cuda graph failed: (?P<detail>.+)$",
        "capturing CUDA graphs failed: {detail}",
        "lower mem_fraction_static{fraction} or the largest batch size of CUDA graphs",
    ),
    _signature(
        CUDA_OUT_OF_MEMORY,
        rf"CUDA out of memory\. Tried to allocate (?P<wanted>{_SIZE})\. GPU (?P<gpu>\d+) has a "
        rf"total capacity of (?P<total>{_SIZE}) of which (?P<free>{_SIZE}) is free",
        "no {wanted} free on GPU {gpu}: of {total}, {free} are left",
        "lower mem_fraction_static{fraction}, or use more GPUs for each engine",
    ),
    _signature(
        CUDA_OUT_OF_MEMORY,
        r"CUDA out of memory|CUDA error: out of memory",
        "a GPU of the engine ran out of memory",
        "lower mem_fraction_static{fraction}, or use more GPUs for each engine",
    ),
    _signature(
        GPU_SHARED,
        r"The memory capacity is unbalanced\. Some GPUs may be occupied by other processes",
        "the engine's GPUs have unequal free memory: another process uses some of them",
        "free the GPUs of other processes",
    ),
    _signature(
        GPU_MISSING,
        r"CUDA error: invalid device ordinal",
        "the engine needs more GPUs than its pod sees",
        "make tp_size x pp_size the GPUs of the pod, and check the node's device plugin",
    ),
    _signature(
        GPU_MISSING,
        r"No CUDA GPUs are available|Found no NVIDIA driver|no CUDA-capable device is detected",
        "the pod sees no GPU",
        "check the node's driver, device plugin and runtime class",
    ),
    # --- the model
    _signature(
        MODEL_NOT_FOUND,
        r"Repo id must be in the form [^\n]{0,200}?: '(?P<model>[^']+)'",
        "there is no model at {model}",
        _MODEL,
    ),
    _signature(
        MODEL_NOT_FOUND,
        r"(?:Repository|Revision|Entry) Not Found for url: (?P<url>\S+?)\.?(?:\s|$)",
        "the hub has no {url}, or hides it from this token",
        _MODEL + "; a private model needs HF_TOKEN from a Secret, in podTemplate",
    ),
    _signature(
        MODEL_NOT_FOUND,
        r"404 Client Error: (?P<detail>.+)$",
        "the hub does not have it: 404 {detail}",
        _MODEL,
    ),
    _signature(
        MODEL_ACCESS_DENIED,
        r"You are trying to access a gated repo|(?:401|403) Client Error|GatedRepoError",
        "the model hub refuses access: {error}",
        "give the engine a token (HF_TOKEN from a Secret, in podTemplate) that may read the model",
    ),
    _signature(
        MODEL_NOT_FOUND,
        r"(?<!\S)(?P<model>\S+) is not a local folder and is not a valid model identifier",
        "there is no model {model}, neither in the pod nor on the hub",
        _MODEL,
        words=(" is not a local folder and is not a valid model identifier",),
    ),
    _signature(
        MODEL_NOT_FOUND,
        r"(?<!\S)(?P<model>\S+) does not appear to have a file named (?P<file>[\w-]+(?:\.[\w-]+)*)",
        "{model} holds no {file}",
        _MODEL,
        words=(" does not appear to have a file named ",),
    ),
    _signature(
        MODEL_HUB_UNREACHABLE,
        r"couldn't connect to '(?P<hub>[^']+)' to load the files",
        "the model is not in the pod, and {hub} is out of reach",
        "mount a volume with the model, or let the pod reach the hub",
    ),
    # --- trainers: what kills an engine from outside
    _signature(
        REQUEST_WHILE_ASLEEP,
        r"Pointer argument \(at \d+\) cannot be accessed from Triton \(cpu tensor\?\)",
        "a request reached the engine while its GPU memory was released",
        "close the gate before memory is released, and probe no path that generates",
    ),
    _signature(
        RELEASED_WHILE_BUSY,
        r"release_memory_occupation should be called only when "
        r"(?:no ongoing request|[^\n]{0,100}idle)",
        "a trainer released the engine's GPU memory while requests ran",
        "pause the engine and wait until it is idle before release_memory_occupation",
    ),
    _signature(
        RESUMED_WHILE_AWAKE,
        r"in resume_memory_occupation\n(?:[^\n]{0,400}\n){0,20}?KeyError: ",
        "a trainer resumed GPU memory that this engine had not released: it has restarted since",
        "resume only engines of the epoch in which they were released",
    ),
    _signature(
        WOKEN_WITHOUT_MEMORY,
        r"cudaError error: 2 \(out of memory\)[^\n]{0,100} func=resume\b",
        "the engine was woken, and its GPU had not the memory that it had released: a trainer, or "
        "another engine there, still held it",
        "have whoever shares the GPU free its memory before the wake; in torch, drop the tensors "
        "and call torch.cuda.empty_cache()",
    ),
    _signature(
        WEIGHT_GROUP_UNKNOWN,
        r"Group (?P<group>\S+) not in [^\n]{0,200}init_weights_update_group",
        "a trainer sent weights in group {group}, which this engine has not joined: it has "
        "restarted since",
        "start a new transaction, with a new group, whenever the epoch changes",
    ),
    _signature(
        HANDLE_OF_ANOTHER_GPU,
        r"Invalid device_uuid=(?P<device>[\w-]{1,100})",
        "a trainer handed weights over in the memory of GPU {device}, which this engine does not "
        "see: engines of a pool have GPUs of their own",
        "have the trainer send weights over NCCL or from disk; in ROLL, give actor_infer a "
        "device_mapping that shares no id with actor_train's",
    ),
    _signature(
        HANDLE_NOT_OPENED,
        r"mapping of buffer object failed",
        "a trainer handed weights over as a handle of GPU memory, and this engine cannot open it: "
        "their pods do not share a /dev/shm",
        "mount one volume at /dev/shm in both pods (podTemplate), or have the trainer send weights "
        "over NCCL or from disk",
    ),
    # --- the GPU, the model, the image, the node
    *endings.ENDINGS,
    # --- the process and its surroundings
    _signature(
        OUT_OF_HOST_MEMORY,
        r"Rank (?P<rank>\d+) scheduler died during initialization \(exit code: -9\)",
        "scheduler {rank} was killed while it started, usually for want of memory in the pod",
        MORE_MEMORY,
    ),
    _signature(
        PORT_IN_USE,
        r"bind on address \((?P<address>[^\n]{1,100}?)\): (?:\[errno 98\] )?address already in use",
        "the address {address} is in use in the pod",
        "set network.port to another port, and remove hostNetwork or sidecars on this one",
    ),
    _signature(
        PORT_IN_USE,
        r"\b(?P<name>\w+) at (?P<port>\S+) is not available in \d+ seconds",
        "port {port} ({name}) is in use in the pod",
        "set network.port to another port: SGLang counts its other ports from it",
        words=(" is not available in ",),
    ),
    _signature(
        WARM_UP_FAILED,
        r"Initialization failed\. warmup error:",
        "the first request failed: {error}",
        "read the engine's log; the model may not fit this SGLang version",
    ),
    _signature(
        ARGUMENT_INVALID,
        r"^(?:AssertionError|ValueError): (?P<detail>.*\bmust be (?:divisible by|greater than|"
        r"less than|set|one of)\b.*)$",
        "SGLang refuses the arguments: {detail}",
        "correct strategy_config",
    ),
    _signature(
        SCHEDULER_DIED,
        r"Rank (?P<rank>\d+) scheduler (?:died during initialization \(exit code: (?P<code>\S+)\)|"
        r"is dead)",
        "scheduler {rank} died{because}",
        _READ,
    ),
    _signature(
        SCHEDULER_DIED,
        r"SIGQUIT received|Received sigquit|crashed with exit code",
        "a process of the engine died{because}",
        _READ,
    ),
)
