"""The words of a plan."""

# --- what SGLang asserts
HEADS = "{heads} attention heads are not divisible among {tp} GPUs"
KV_HEADS = "{heads} heads of keys and values and {tp} GPUs: neither divides the other"
REPLICAS = "dp {dp} does not divide tp {tp}"
STAGES = "{pp} pipeline stages for {layers} layers"
EXPERTS_TP = "ep {ep} does not divide tp {tp}"
EXPERTS = "{experts} experts are not divisible among ep {ep}"
EXPERT_SIZE = "an expert's {size} columns are not divisible among {tp} GPUs (tp / ep)"
STATE_HEADS = "{heads} heads of linear attention are not divisible among {tp} GPUs"

# --- the verdict
SET = "set {knob}"
NO_KNOB = "nothing to turn"
NO_ONE_KNOB = "no knob alone is enough: use larger GPUs, or a smaller model"
OWN_GPUS = "GPUs of their own"
ROOM = "{tokens} tokens of cache, {spare} GiB to spare beside what graphs and work need"
ROOM_OF = (
    "{tokens} tokens of cache, {sequences} sequences of {length} at once, {spare} GiB to spare "
    "beside what graphs and work need"
)
CANNOT_DIVIDE = "SGLang cannot divide it: {what}"
WEIGHTS = "weights take {weights} GiB of each GPU, mem_fraction_static {share} gives {static}"
OUT_OF_MEMORY = (
    "mem_fraction_static {share} leaves {left} GiB for graphs and work, which need about {needed}: "
    "out of memory when graphs are captured, or at work"
)
RESIDENT = (
    "others keep {others} GiB of each GPU, and mem_fraction_static {share} leaves {left} GiB for "
    "graphs and work, which need about {needed}"
)
BEYOND_CONTEXT = "a sequence of {length} tokens is longer than the context of {context}"
BEYOND_MODEL = (
    "context_length {asked} is more than the {context} that the model was made for, and SGLang "
    "refuses it"
)
BEYOND_CACHE = (
    "a sequence of {length} tokens is longer than the whole cache of {tokens} at "
    "mem_fraction_static {share}"
)
FEW = "only {sequences} sequences of {length} tokens fit at once"
CONTEXT_BEYOND = (
    "the context of {context} tokens is longer than the cache of {tokens}: a request may not use "
    "all of it"
)
TIGHT = "{left} GiB are left for graphs and work, where SGLang itself would leave {reserve}"
COPIED = "tp {tp} with {heads} heads of keys and values: each is kept {copies} times"
WITH_EP = "and ep_size: {ep}"
WITHOUT_SHARE = "and leave mem_fraction_static to SGLang"
MORE_TOKENS = "{percent} % more tokens, if nobody else needs these GPUs"

# --- what is not counted
DRAFT = "the draft model {model} is not counted: its sizes are not known"
LORA = "LoRA adapters are not counted"

# --- what is not known
MODEL = "the sizes of {model}; give its config.json with --config, or its folder with --model"
CONFIG = "{what}"
VERSION = "SGLang {version} has no {what}, which came by {since}"
QUANTIZATION = "how much memory the quantization {found} takes"
OVERRIDES = "what json_model_override_args changes: it is no JSON map"
