"""SGLang's own rules out of a version's wheel, run without torch.

The functions that decide are cut out of their modules and run with stand-ins for what they ask of
a GPU: how much memory it has, how much is free, how large a number is.
"""

import ast
import copy
import functools
import math
import types
import zipfile

import pytest

from generators.schema import wheels

_SERVER_ARGS = "sglang/srt/server_args.py"
_HOOK = "sglang/srt/arg_groups/memory_hook.py"
_GRAPHS = "sglang/srt/arg_groups/cuda_graph_hook.py"
_CONFIGURATOR = "sglang/srt/mem_cache/kv_cache_configurator.py"
_POOL = "sglang/srt/model_executor/pool_configurator.py"
_MIXIN = "sglang/srt/model_executor/model_runner_kv_cache_mixin.py"
_RUNNER = "sglang/srt/model_executor/model_runner.py"
_SIZES_OF_GRAPHS = frozenset(
    {"generate_prefill_cuda_graph_batch_sizes", "generate_decode_cuda_graph_batch_sizes"}
)
_SIZES = {"auto": 2, "fp8_e4m3": 1, "fp4_e2m1": 1}


@functools.cache
def _wheel(version):
    try:
        return wheels.open_wheel(version)
    except (wheels.UnavailableError, zipfile.BadZipFile) as error:
        pytest.skip(str(error))


@functools.cache
def _tree(version, path):
    wheel = _wheel(version)
    return ast.parse(wheel.read(path)) if path in wheel.namelist() else None


class _WithoutImports(ast.NodeTransformer):
    """What a function imports stands among its stand-ins."""

    def visit_ImportFrom(self, node):
        return ast.Pass()

    def visit_Import(self, node):
        return ast.Pass()


@functools.cache
def _functions(version, path, names):
    """These functions, wherever they stand in a module."""
    found: dict[str, ast.FunctionDef] = {}
    for node in ast.walk(_tree(version, path)):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            function = _WithoutImports().visit(copy.deepcopy(node))
            function.decorator_list, function.returns = [], None
            for argument in (*function.args.args, *function.args.kwonlyargs):
                argument.annotation = None
            found.setdefault(node.name, function)
    return tuple(found.values())


@functools.cache
def _compiled(functions):
    module = ast.Module(body=list(functions), type_ignores=[])
    return compile(ast.fix_missing_locations(module), "wheel", "exec")


def _run(functions, stand_ins):
    namespace = dict(stand_ins)
    exec(_compiled(functions), namespace)
    return namespace


class _Anything:
    """An object of which everything that is asked and not given is None."""

    def __init__(self, **given):
        self.__dict__.update(given)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return


# --- the static share


def static_share(version, mib, *, tower=None, latent=False, **fields):
    """mem_fraction_static as this version chooses it on a card."""
    arguments = _arguments(version, latent=latent, **fields)
    model = _model(tower)
    if _tree(version, _HOOK) is not None:
        return _by_hook(version, mib, arguments, model)
    names = frozenset(
        {
            "_handle_gpu_memory_settings",
            "_generate_cuda_graph_batch_sizes",
            "_generate_decode_cuda_graph_batch_sizes",
            "_generate_prefill_cuda_graph_batch_sizes",
            "_generate_piecewise_cuda_graph_tokens",
            "adjust_mem_fraction_for_vlm",
        }
    )
    functions = _functions(version, _SERVER_ARGS, names)
    if not any(function.name == "_handle_gpu_memory_settings" for function in functions):
        functions = (*functions, _inline(version))
    backend = types.SimpleNamespace(DISABLED="disabled")
    config = types.SimpleNamespace(from_server_args=lambda _: model)
    found = _run(
        functions,
        {"is_npu": lambda: False, "Backend": backend, "envs": _Anything(), "logger": _Anything(),
         "ModelConfig": config},
    )  # fmt: skip
    for name in names & found.keys():
        setattr(arguments, name, types.MethodType(found[name], arguments))
    arguments.use_mla_backend = lambda: latent
    arguments.get_model_config = lambda: model
    arguments._handle_gpu_memory_settings(mib)
    return arguments.mem_fraction_static


def _model(tower):
    vision = types.SimpleNamespace(**tower) if tower is not None else None
    return types.SimpleNamespace(
        is_multimodal=tower is not None, hf_config=types.SimpleNamespace(vision_config=vision)
    )


@functools.cache
def _inline(version):
    """Of versions that choose it in their constructor: that statement alone."""
    for node in ast.walk(_tree(version, _SERVER_ARGS)):
        if (
            isinstance(node, ast.If)
            and ast.unparse(node.test) == "self.mem_fraction_static is None"
        ):
            body = _WithoutImports().visit(copy.deepcopy(node))
            names = [ast.arg(arg="self"), ast.arg(arg="gpu_mem")]
            return ast.FunctionDef(
                name="_handle_gpu_memory_settings",
                args=ast.arguments(
                    posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[]
                ),
                body=[body],
                decorator_list=[],
            )
    raise AssertionError("no choice of mem_fraction_static")


def _arguments(version, *, latent, **fields):
    phases = {
        "decode": _phase("full", fields.pop("graph_batch", None)),
        "prefill": _phase("tc_piecewise", fields.pop("prefill_tokens", None)),
    }
    if fields.pop("prefill_off", False):
        phases["prefill"].backend = "disabled"
    given = {
        "tp_size": 1, "pp_size": 1, "dp_size": 1, "attn_dp_size": 1, "device": "cuda",
        "model_path": "x", "max_prefill_tokens": 16384, "enable_dp_attention": False,
        "language_only": False, "disaggregation_mode": "null",
        "enable_piecewise_cuda_graph": False, "piecewise_cuda_graph_max_tokens": 4096,
        "moe_a2a_backend": "none",
        "disable_cuda_graph_padding": False, "enable_symm_mem": False,
        "cuda_graph_config": types.SimpleNamespace(**phases),
        "cuda_graph_max_bs": phases["decode"].max_bs,
    }  # fmt: skip
    return _Anything(**{**given, **fields})


def _phase(backend, most):
    return types.SimpleNamespace(backend=backend, max_bs=most, bs=None)


def _by_hook(version, mib, arguments, model):
    """Since 0.5.20 functions of a module, which declare what they have decided."""
    tree = _tree(version, _HOOK)
    names = frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))

    def declare(target, where, **decided):
        target.__dict__.update(decided)

    arguments.attn_dp_size = arguments.dp_size if arguments.enable_dp_attention else 1
    found = _run(
        (*_functions(version, _HOOK, names), *_functions(version, _GRAPHS, _SIZES_OF_GRAPHS)),
        {
            "copy": copy,
            "math": math,
            "resolving_view": lambda given: given,
            "resolved_view": lambda given: given,
            "declare_resolution": declare,
            "get_device_memory_capacity": lambda device: mib,
            "use_mla_backend": lambda given: given.is_latent,
            "Backend": types.SimpleNamespace(DISABLED="disabled", BREAKABLE="breakable"),
            "Phase": types.SimpleNamespace(PREFILL="prefill", DECODE="decode"),
            "model_config_of": lambda given: model,
            "post_capture_kv_sizing_planned": lambda given: False,
            "get_platform": lambda: types.SimpleNamespace(is_xpu=False),
            "attn_dp_enabled_of": lambda given: given.enable_dp_attention,
            "expand_multimodal_decode_graph_to_running_limit": lambda *given: None,
            "logger": _Anything(),
            "envs": _Anything(),
        },
    )
    found["handle_gpu_memory_settings"](arguments)
    return arguments.mem_fraction_static


# --- the cell


def cell(version, config, tp, layers, dtype="auto", *, latent=False, index_dim=0):
    """Bytes of a token of the cache as this version divides by them."""
    size = _SIZES[dtype]
    model = types.SimpleNamespace(
        **config,
        get_num_kv_heads=lambda ranks, others=1: max(1, config["kv_heads"] // ranks),
        hf_config=types.SimpleNamespace(architectures=["X"]),
        full_attention_layer_ids=None,
        is_hybrid_swa=False,
    )
    stand_ins = {
        "torch": types.SimpleNamespace(
            _utils=types.SimpleNamespace(_element_size=lambda kind: kind),
            float8_e4m3fn=size if dtype == "fp8_e4m3" else None,
        ),
        **_of_later(tp),
        "get_attention_tp_size": lambda: tp,
        "is_float4_e2m1fn_x2": lambda kind: dtype == "fp4_e2m1",
        **_indexer(index_dim),
        # Of versions that divide at once: all that is free, one GiB, is for the cache.
        "get_available_gpu_memory": lambda *a, **k: 1.0,
        "get_world_group": lambda: types.SimpleNamespace(world_size=1, cpu_group=None),
    }
    runner = _Anything(
        model_config=model, kv_cache_dtype=size, use_mla_backend=latent, pp_size=1,
        num_effective_layers=layers, mem_fraction_static=1.0, server_args=_Anything(),
        is_draft_worker=False,
    )  # fmt: skip
    return _divisor(version, runner, stand_ins, layers)


def _of_later(tp):
    """What versions from 0.5.20 on ask of the process beside."""
    return {
        "get_parallel": lambda: types.SimpleNamespace(attn_tp_size=tp, attn_dcp_size=1),
        "get_memory": _Anything,
        "get_disagg": _Anything,
        "get_exec": lambda: types.SimpleNamespace(kernel=_Anything()),
        "get_glm_dsa_layer_split_effective_num_layers": lambda kvc, layers: layers,
        "get_dsa_index_kpool": lambda config: 1,
        "is_minimax_sparse": lambda config: False,
        "ceil_div": lambda number, by: -(-number // by),
        "envs": _Switches(),
        "_is_npu": False,
        "_is_hip": False,
        "_should_elide_dsa_index_k": lambda **given: False,
    }


class _Switches:
    """Environment variables, all of them off."""

    def __getattr__(self, name):
        return types.SimpleNamespace(get=lambda: False)


def _indexer(dim):
    kind = types.SimpleNamespace(
        quant_block_size=128,
        index_k_with_scale_buffer_dtype=1,
        rope_storage_dtype=types.SimpleNamespace(itemsize=2),
    )
    return {
        **{f"is_deepseek_{name}": lambda config: bool(dim) for name in ("nsa", "dsa")},
        **{f"get_{name}_index_head_dim": lambda config: dim for name in ("nsa", "dsa")},
        "NSATokenToKVPool": kind,
        "DSATokenToKVPool": kind,
    }


def _divisor(version, runner, stand_ins, layers):
    if _tree(version, _POOL) is not None:
        names = frozenset({"_compute_cell_size", "_compute_dsa_indexer_cell_size"})
        functions = _functions(version, _POOL, names)
        if _tree(version, _CONFIGURATOR) is not None:
            wanted = frozenset({"calculate_mla_kv_cache_dim"})
            functions = (*functions, *_functions(version, _CONFIGURATOR, wanted))
        found = _run(functions, stand_ins)
        # Of quantized sparse attention, which none of these models has.
        pool = types.SimpleNamespace(
            kv_cache_dtype_str=None, _compute_qsa_cell_size=lambda **given: 0
        )
        for name in names & found.keys():
            setattr(pool, name, types.MethodType(found[name], pool))
        return pool._compute_cell_size(runner, layers)
    path = _MIXIN if _tree(version, _MIXIN) is not None else _RUNNER
    per_token = _functions(version, path, frozenset({"get_cell_size_per_token"}))
    if per_token:
        return _run(per_token, stand_ins)["get_cell_size_per_token"](runner, layers)
    return _run((_profile(version, path),), stand_ins)["profile_max_num_token"](runner, 1.0)


@functools.cache
def _profile(version, path):
    """The function that divides, up to what it divides by."""
    (profile,) = _functions(version, path, frozenset({"profile_max_num_token"}))
    until = [node for node in profile.body if "rest_memory" not in ast.unparse(node)]
    profile.body = [node for node in until if not isinstance(node, ast.Return)]
    profile.body = [node for node in profile.body if "max_num_token" not in ast.unparse(node)]
    profile.body.append(ast.parse("return cell_size").body[0])
    return profile


# --- states, windows, requests


def states(version, per_request, gib, *, radix=True, requests=None, slots=None):
    """Slots of state that this version makes of so many GiB, and the GiB that are left."""
    path = _MIXIN if _tree(version, _MIXIN) is not None else _RUNNER
    functions = _functions(version, path, frozenset({"handle_max_mamba_cache"}))
    arguments = _Anything(
        disable_radix_cache=not radix, max_running_requests=requests, dp_size=1,
        max_mamba_cache_size=slots, mamba_full_memory_ratio=0.9, enable_dp_attention=False,
    )  # fmt: skip
    parameters = types.SimpleNamespace(mamba_cache_per_req=per_request)
    runner = _Anything(
        mambaish_config=types.SimpleNamespace(mamba2_cache_params=parameters),
        server_args=arguments,
        spec_algorithm=types.SimpleNamespace(is_none=lambda: True),
    )
    left = _run(functions, {})["handle_max_mamba_cache"](runner, gib)
    return arguments.max_mamba_cache_size, left


def requests(version, tokens, context, *, asked=None, replicas=1):
    """max_running_requests of a replica as this version resolves it."""
    functions = _functions(version, _MIXIN, frozenset({"_resolve_max_num_reqs"}))
    runner = _Anything(
        model_config=types.SimpleNamespace(context_len=context),
        server_args=_Anything(max_running_requests=asked),
        dp_size=replicas,
    )
    logger = types.SimpleNamespace(warning=lambda *said: None)
    return _run(functions, {"logger": logger})["_resolve_max_num_reqs"](runner, tokens)


def window_pools(version, heads, layers, window_layers, gib, page):
    """Tokens of full and of window layers as this version divides so many GiB."""
    wanted = {"_solve_pool_sizes", "calculate_pool_sizes"}
    tree = _tree(version, _POOL)
    (kind,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "HybridSWAPoolConfigurator"
    )
    functions = tuple(
        function
        for function in ast.walk(kind)
        if isinstance(function, ast.FunctionDef) and function.name in {*wanted, "__init__"}
    )
    for function in functions:
        function.returns = None
        for argument in function.args.args:
            argument.annotation = None
    stand_ins = {
        "torch": types.SimpleNamespace(
            _utils=types.SimpleNamespace(_element_size=lambda given: given)
        ),
        "get_attention_tp_size": lambda: 1,
        "logger": types.SimpleNamespace(info=lambda *said: None),
        "MemoryPoolConfig": types.SimpleNamespace,
    }
    found = _run(functions, stand_ins)
    model = types.SimpleNamespace(
        full_attention_layer_ids=range(layers), swa_attention_layer_ids=range(window_layers),
        get_num_kv_heads=lambda ranks: heads, get_swa_num_kv_heads=lambda ranks: heads,
        head_dim=64, v_head_dim=64, swa_head_dim=64, swa_v_head_dim=64,
    )  # fmt: skip
    pool = types.SimpleNamespace()
    runner = types.SimpleNamespace(
        model_config=model, kv_cache_dtype=2,
        server_args=types.SimpleNamespace(swa_full_tokens_ratio=0.8),
    )  # fmt: skip
    pool._solve_pool_sizes = types.MethodType(found["_solve_pool_sizes"], pool)
    found["__init__"](pool, runner)
    made = found["calculate_pool_sizes"](pool, int(gib * 2**30), page)
    return made.full_max_total_num_tokens, made.swa_max_total_num_tokens
