"""Ends of engines that users report: the GPU, the model, the arguments.  Part of the table.

The texts are PyTorch's, NCCL's, transformers', huggingface_hub's, FlashInfer's and SGLang's own.
"""

from sglang_operator.engine import node_ends
from sglang_operator.engine.signature_row import MORE_SHM, Signature
from sglang_operator.engine.signature_row import signature as _row

DRIVER_TOO_OLD = "GPUDriverTooOld"
GPU_BROKEN = "GPUBroken"
GPU_BUSY = "GPUBusy"
GPU_UNSUPPORTED = "GPUNotSupported"
CUDA_ERROR = "CUDAError"
MODEL_UNSUPPORTED = "ModelNotSupported"
MODEL_INCOMPLETE = "ModelIncomplete"
MODEL_HUB_BUSY = "ModelHubBusy"
MODEL_HUB_UNREACHABLE = "ModelHubUnreachable"
REMOTE_CODE = "RemoteCodeRefused"
ARGUMENT_INVALID = "ArgumentInvalid"
KV_CACHE_TOO_SMALL = "KVCacheTooSmall"
SHARED_MEMORY = "SharedMemoryExceeded"
NCCL_FAILED = "NCCLFailed"
NCCL_TIMEOUT = "NCCLTimeout"
SCHEDULER_HUNG = "SchedulerHung"

# Ends before the first answer, whatever the clocks say.
AT_STARTUP = (
    DRIVER_TOO_OLD,
    GPU_BUSY,
    GPU_UNSUPPORTED,
    MODEL_UNSUPPORTED,
    MODEL_INCOMPLETE,
    MODEL_HUB_BUSY,
    REMOTE_CODE,
    node_ends.MODULE_MISSING,
    node_ends.LIBRARY_MISSING,
    node_ends.CPU_UNSUPPORTED,
)

JSON_KEYS = (
    "json_model_override_args, model_loader_extra_config, preferred_sampling_params, "
    "hicache_storage_backend_extra_config"
)
_NEWER = "use an image of a newer SGLang in spec.image"
_FILES = "download the model again, whole (git-lfs leaves small files in place of the weights)"
_QUANTIZATION = (
    "remove quantization from strategy_config (SGLang reads it from the checkpoint), or use a "
    "checkpoint of that kind"
)
_BROKEN = (
    "cordon the node and look at dmesg (Xid) and nvidia-smi -q there: the GPU has to be reset or "
    "replaced"
)
_OTHER_GPU = "use an image built for this GPU, or nodes with another (podTemplate's nodeSelector)"
_CUDA = (
    "if it comes back on this node only, the GPU is to blame; else try another attention_backend "
    "or SGLang version, and CUDA_LAUNCH_BLOCKING=1 names the kernel"
)
_SHM = MORE_SHM + "{limit}"
_HUB = "let the pod reach the hub (proxy, CA certificates), or mount a volume with the model"
_HEADS = "choose num_gpus_per_worker, and tp_size with it, so that it divides these sizes"

ENDINGS: tuple[Signature, ...] = (
    # --- the GPU and its driver
    _row(
        DRIVER_TOO_OLD,
        r"NVIDIA driver on your system is too old \(found version (?P<found>\d+)\)",
        "the node's driver (CUDA {found}) is older than the CUDA of the image",
        "use an image built for an older CUDA, or nodes with a newer driver",
    ),
    _row(
        DRIVER_TOO_OLD,
        r"CUDA driver version is insufficient for CUDA runtime version"
        r"|forward compatibility was attempted on non supported HW"
        r"|unsupported (?:toolchain|PTX version)"
        r"|provided PTX was compiled with an unsupported toolchain",
        "the node's driver is older than the CUDA of the image",
        "use an image built for an older CUDA, or nodes with a newer driver",
    ),
    _row(
        GPU_BROKEN,
        r"(?P<what>uncorrectable (?:NVLink |ECC )?error(?: encountered)?"
        r"|GPU (?:has fallen off the bus|is lost)|Xid\b.{0,80}|NVRM: .{0,80}"
        r"|hardware stack error|device unavailable: .{0,60})",
        "a GPU of the node is broken: {what}",
        _BROKEN,
    ),
    _row(
        GPU_BROKEN,
        r"(?:Error 802: |CUDA error: )system not yet initialized",
        "the node's NVSwitch fabric is not up",
        "start nvidia-fabricmanager, of the driver's version, on the node",
    ),
    _row(
        GPU_BUSY,
        r"CUDA-capable device\(s\) is/are busy or unavailable|exclusive (?:process|compute) mode",
        "a GPU is in exclusive compute mode, and another process has it",
        "set the compute mode to default on the node (nvidia-smi -c 0), or free the GPU",
    ),
    _row(
        GPU_UNSUPPORTED,
        r"no kernel image is available for execution on the device"
        r"|(?:sm_\d+\w?|compute capability [\d.]+) is not (?:compatible|supported)"
        r"|not compiled (?:for|with) (?:sm|compute)_?\d+|invalid device function",
        "the image holds no kernels for this kind of GPU",
        _OTHER_GPU,
    ),
    _row(
        GPU_UNSUPPORTED,
        r"(?i)bfloat16 (?:is (?:only|not) supported on|[^\n]{0,200}requires) ",
        "this GPU cannot compute in bfloat16",
        "set dtype: half in strategy_config, or use newer GPUs",
        words=("bfloat16",),
    ),
    _row(
        GPU_UNSUPPORTED,
        r"quantization method (?P<method>\S+) is not supported for the current GPU\. "
        r"Minimum capability: (?P<least>\d+)",
        "this GPU is too old for quantization {method} (it takes capability {least})",
        "use another quantization, or newer GPUs",
    ),
    _row(
        GPU_UNSUPPORTED,
        r"out of resources?: shared memory, Required: (?P<needed>\d+), Hardware limit:"
        r" (?P<has>\d+)",
        "a kernel wants {needed} bytes of the GPU's shared memory, which has {has}",
        "choose another attention_backend, or a newer SGLang",
    ),
    _row(
        CUDA_ERROR,
        r"(?:CUDA error|AcceleratorError|CUDA Error|HIP error)[^\n]{0,200}?(?P<what>an illegal "
        r"memory access was encountered|device-side assert triggered|misaligned address"
        r"|unspecified launch failure|an illegal instruction was encountered)",
        "CUDA stopped the engine: {what}",
        _CUDA,
    ),
    _row(
        CUDA_ERROR,
        r"(?P<what>CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+|cuBLAS error \S+)",
        "a CUDA library failed: {what}",
        "lower mem_fraction_static{fraction}: such errors often are a lack of GPU memory",
    ),
    # --- NCCL
    _row(
        NCCL_TIMEOUT,
        r"Watchdog caught collective operation timeout|wait timeout after \d+ms"
        r"|Timed out after \d+ (?:seconds|ms) waiting for clients"
        r"|DistStoreError: [^\n]{0,200}[Tt]imed? ?out|Timed out initializing process group",
        "the engine's GPUs waited for each other in vain",
        "read what another rank said before (kubectl sglang logs): one that died or hangs; "
        "dist_timeout gives slow starts more time",
    ),
    _row(
        SHARED_MEMORY,
        r"(?i)(?:error while (?:creating|attaching) shared memory segment"
        r"|unable to (?:allocate|open|write to|mmap) .{0,20}shared memory"
        r"|/dev/shm.{0,120}No space left"
        r"|No space left on device.{0,120}/dev/shm|posix_fallocate.{0,40}No space|\bBus error\b"
        r"|insufficient shared memory|exit ?code: -7\b)",
        "/dev/shm is too small for the engine's processes",
        _SHM,
        words=(
            "shared memory",
            "/dev/shm",
            "posix_fallocate",
            "bus error",
            "exit code: -7",
            "exitcode: -7",
        ),
    ),
    _row(
        NCCL_FAILED,
        r"(?P<what>unhandled (?:system|cuda) error|NCCL error[^\n]{0,120}|ncclInternalError\S*"
        r"|ncclRemoteError\S*|ncclSystemError\S*|ncclInvalidUsage\S*)",
        "the engine's GPUs cannot speak to each other: {what}",
        "set NCCL_DEBUG=INFO in podTemplate's env to see why; often a network "
        "interface has to be named in NCCL_SOCKET_IFNAME, or /dev/shm is too small: " + MORE_SHM,
    ),
    _row(
        SCHEDULER_HUNG,
        r"[Ww]atchdog timeout \((?:self\.)?watchdog_timeout=(?P<seconds>[\d.]+)",
        "the scheduler got nothing done for {seconds} s (watchdog_timeout), and SGLang"
        " ended itself",
        "read what it did last (kubectl sglang logs); long prompts need a larger watchdog_timeout",
    ),
    # --- the model on the hub
    _row(
        MODEL_HUB_BUSY,
        r"429 Client Error|Too Many Requests for url|rate.?limit(?:ed)? (?:exceeded|reached)",
        "the model hub lets the engines download only so often",
        "wait, give a token (HF_TOKEN from a Secret, in podTemplate), use a mirror (HF_ENDPOINT), "
        "or mount a volume with the model",
    ),
    _row(
        MODEL_HUB_UNREACHABLE,
        r"CERTIFICATE_VERIFY_FAILED|certificate has expired|SSLError|SSLCertVerificationError",
        "the certificate of the model hub, or of a proxy before it, is not trusted: {error}",
        _HUB,
    ),
    _row(
        MODEL_HUB_UNREACHABLE,
        r"ProxyError|Temporary failure in name resolution|Failed to resolve '"
        r"|LocalEntryNotFoundError|Max retries exceeded with url|offline mode is enabled"
        r"|OfflineModeIsEnabled|50[0234] Server Error",
        "the model is not in the pod, and the hub is out of reach: {error}",
        _HUB,
    ),
    # --- the model's files
    _row(
        REMOTE_CODE,
        r"set the option `?trust_remote_code=True`?|requires you to execute the \w+ file in that",
        "the model brings code of its own, which SGLang runs only if it may",
        "read that code, then set trust_remote_code: true in strategy_config",
    ),
    _row(
        MODEL_INCOMPLETE,
        r"SafetensorError: (?P<detail>.+)$|(?P<other>(?:MetadataIncompleteBuffer|HeaderTooLarge"
        r"|InvalidHeader\w*|incomplete metadata, file not fully covered).*)",
        "a weight file of the model is broken or not whole: {detail}{other}",
        _FILES,
    ),
    _row(
        MODEL_INCOMPLETE,
        r"Cannot find any model weights with `(?P<model>[^`]+)`",
        "{model} holds no weights",
        _FILES,
    ),
    _row(
        MODEL_INCOMPLETE,
        r"(?i)(?:can't load tokenizer for|couldn't instantiate the backend tokenizer"
        r"|unable to load vocabulary|no tokenizer file found|tokenizer\.(?:json|model)"
        r"[^\n]{0,200}?(?:not found|no such file))",
        "the model holds no tokenizer that can be loaded: {error}",
        "complete the model's folder, or name another in tokenizer_path",
        words=("tokenizer", "unable to load vocabulary"),
    ),
    _row(
        MODEL_INCOMPLETE,
        r"No such file or directory: '(?P<file>[^']+\.(?:safetensors|bin|json|pt"
        r"|index\.json|model))'",
        "the model lacks {file}",
        _FILES,
    ),
    _row(
        MODEL_INCOMPLETE,
        r"(?:unexpected EOF|PytorchStreamReader failed|invalid load key|Consistency check failed)",
        "a weight file of the model is broken or not whole: {error}",
        _FILES,
    ),
    # --- a model that this SGLang does not know
    _row(
        MODEL_UNSUPPORTED,
        r"Model architectures (?P<found>\[[^\]]{0,120}\]) are not supported",
        "this SGLang does not know the model's architecture {found}",
        _NEWER,
    ),
    _row(
        MODEL_UNSUPPORTED,
        r"model type `(?P<found>[^`]+)` but Transformers does not recognize",
        "the transformers in this image does not know model type {found}",
        _NEWER,
    ),
    _row(
        MODEL_UNSUPPORTED,
        r"Transformers version (?P<found>\S+) is not supported for model|upgrade transformers to"
        r"|has no SGlang implementation|Cannot find model module\. '",
        "the SGLang or transformers in this image does not fit the model: {error}",
        _NEWER,
    ),
    _row(
        MODEL_UNSUPPORTED,
        r"^KeyError: '(?P<name>(?:model|language_model|lm_head|visual|transformer)\.[\w.]+)'",
        "the model's weight {name} is none that this SGLang expects",
        "use an image of a newer SGLang, or a checkpoint in the format and quantization that the "
        "arguments name",
    ),
    _row(
        MODEL_UNSUPPORTED,
        r"assert param(?:_data)?\.(?:shape|size\(\)) == loaded_weight\.|size mismatch for"
        r" (?P<name>\S+)"
        r"|The size of tensor a \(\d+\) must match the size of tensor b",
        "the weights have other shapes than the model's config says: {error}",
        "check that config.json and weights belong together, and the quantization",
    ),
    # --- arguments that only the model or the GPU can refute
    _row(
        ARGUMENT_INVALID,
        r"context_length \((?P<asked>\d+)\) is greater than the derived context_length "
        r"\((?P<most>\d+)\)",
        "context_length is {asked}, and the model's own is {most}",
        "lower context_length to {most}, or set SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 in "
        "system_envs",
    ),
    _row(
        ARGUMENT_INVALID,
        r"method specified in the model config \((?P<has>[^)]+)\) does not match the quantization "
        r"method specified in the `quantization` argument \((?P<asked>[^)]+)\)",
        "quantization is {asked}, and the checkpoint is quantized as {has}",
        _QUANTIZATION,
    ),
    _row(
        ARGUMENT_INVALID,
        r"Unknown quantization method: (?P<asked>\S+?)\. Must be one of (?P<known>.+)$",
        "quantization {asked} is none that this SGLang knows",
        "set quantization to one of {known}",
    ),
    _row(
        ARGUMENT_INVALID,
        r"Cannot find the config file for (?P<asked>\w+)|Invalid quant_config",
        "the checkpoint is not quantized as the quantization argument says",
        _QUANTIZATION,
    ),
    _row(
        ARGUMENT_INVALID,
        r"(?<!\S)(?P<dtype>\S+) is not supported for quantization method (?P<method>\S+?)\. "
        r"Supported dtypes: (?P<known>.+)$",
        "dtype {dtype} does not go with quantization {method}",
        "set dtype to one of {known}",
        words=(" is not supported for quantization method ",),
    ),
    _row(
        ARGUMENT_INVALID,
        r"(?P<detail>(?:Total )?[Nn]umber of (?:attention|kv|key-value)"
        r" heads[^\n]{0,200}?(?:divisible|multiple).*"
        r"|(?<!\d)\d{1,12} is not divisible by \d+"
        r"|^[^\n]{0,1000}?(?:out|in)put_size[^\n]{0,200} is not divisible by weight"
        r" quantization.*)$",
        "the model cannot be split over so many GPUs: {detail}",
        _HEADS,
        words=("divisible", "multiple"),
    ),
    _row(
        ARGUMENT_INVALID,
        r"assert (?:self\.)?(?:total_)?num_(?:kv_)?heads % \S+ == 0|assert numerator %"
        r" denominator == 0",
        "the model's attention heads cannot be split over so many GPUs",
        _HEADS,
    ),
    _row(
        KV_CACHE_TOO_SMALL,
        r"max_running_requests? is zero|max_total_num_tokens.{0,40}(?:<= ?0|is zero|too small)",
        "the GPU memory that is left holds not one request",
        "raise mem_fraction_static{fraction}, lower context_length, or use more GPUs for each "
        "engine",
    ),
    _row(
        ARGUMENT_INVALID,
        r"(?i)chat template (?P<name>\S+) is not a built-in template name|chat_template.{0,60}"
        r"(?:not found|No such file)",
        "there is no chat template {name}",
        "correct chat_template: a name that SGLang knows, or a file that is mounted",
        words=("chat template", "chat_template"),
    ),
    _row(
        ARGUMENT_INVALID,
        r"(?i)(?:failed to load lora|lora(?:(?!lora).){0,120}?(?:not found|no such file"
        r"|does not exist|is not supported|incompatible|exceeds)|adapter_config\.json)",
        "a LoRA adapter cannot be loaded: {error}",
        "correct lora_paths, max_lora_rank and lora_target_modules, and mount the adapter",
        words=("lora", "adapter_config.json"),
    ),
    _row(
        ARGUMENT_INVALID,
        r"(?i)(?:draft (?:model|worker|vocab)|speculative_draft|eagle|hot_token|spec(?:ulative)? "
        r"(?:algorithm|decoding)).{0,160}(?:mismatch|differ|not (?:match|supported|found)"
        r"|must|same|require)",
        "the draft model does not go with the model: {error}",
        "correct speculative_draft_model_path and the other speculative_ keys",
        words=("draft", "spec", "eagle", "hot_token"),
    ),
    # --- JSON
    _row(
        ARGUMENT_INVALID,
        r"json\.loads\((?:\w+\.)*(?P<flag>(?=\w+_\w)\w+)\)[^\n]{0,200}\n"
        r"(?:[^\n]{0,400}\n){0,12}?[^\n]{0,200}JSONDecodeError: (?P<detail>.+)$",
        "{key} is not JSON: {detail}",
        "write {key} as JSON, keys and texts in double quotes (true, not True)",
    ),
    _row(
        MODEL_INCOMPLETE,
        r"(?:json\.load\(|_dict_from_json_file|(?:config|index|tokenizer\w*)\.json)"
        r"[^\n]{0,200}\n(?:[^\n]{0,400}\n){0,12}?[^\n]{0,200}JSONDecodeError: (?P<detail>.+)$",
        "a JSON file of the model is broken: {detail}",
        _FILES,
    ),
    _row(
        ARGUMENT_INVALID,
        r"JSONDecodeError: (?P<detail>.+)$",
        "an argument's JSON is wrong: {detail}",
        "check the keys that take JSON: " + JSON_KEYS,
    ),
    *node_ends.ENDINGS,
    # --- whatever else SGLang says of its arguments
    _row(
        ARGUMENT_INVALID,
        r'server_args\.py", line \d+, in \w+\n(?: [^\n]*+\n)*+(?:ValueError|AssertionError|'
        r"NotImplementedError): (?P<detail>.+)$",
        "SGLang refuses the arguments: {detail}",
        "correct strategy_config",
    ),
    _row(
        ARGUMENT_INVALID,
        r"^(?:AssertionError|ValueError|NotImplementedError): (?P<detail>.*(?:mutually exclusive"
        r"|cannot be used (?:together|at the same time|with)|can(?:not|'t) be (?:both"
        r"|combined|enabled)"
        r"|(?:is|are) not (?:supported|compatible|allowed) (?:with|when|for|by)"
        r"|incompatible with|only (?:supports?|supported|works?) ).*)$",
        "SGLang refuses the arguments: {detail}",
        "correct strategy_config",
    ),
)
