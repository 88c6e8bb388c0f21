"""Variables by which a container runtime gives a container devices of its node, uncounted.

The device plugin sets them to what the scheduler has counted out; the kubelet puts the variables of
the container behind those, and of two with one name the last one wins.
"""

import re

NVIDIA = "NVIDIA_VISIBLE_DEVICES"  # what its runtime gives, by UUID

ADVICE = "the device plugin gives an engine its GPUs"

# Of NVIDIA's, those are left that say what of a GPU is used, and what a driver must be able to do.
_HARMLESS = re.compile(
    r"NVIDIA_(DRIVER_CAPABILITIES|REQUIRE_\w+|DISABLE_REQUIRE|TF32_OVERRIDE)", re.ASCII
)
_DEVICES = re.compile(r"NVIDIA_.*|.*VISIBLE_(DEVICES|CARDS|CORES).*", re.ASCII | re.IGNORECASE)
# How the names of those begin that some runtime reads.
_BEGINNINGS = (
    *("NVIDIA_", "CUDA_", "AMD_", "HIP_", "ROCR_", "GPU_", "HABANA_", "ASCEND_", "NPU_", "NEURON_"),
    *("TPU_", "XPU_", "CXPU_", "ONEAPI_", "ZE_", "MTHREADS_", "MUSA_", "METAX_", "MACA_", "DCU_"),
    *(
        "HYGON_",
        "CAMBRICON_",
        "MLU_",
        "ENFLAME_",
        "TOPS_",
        "GCU_",
        "ILUVATAR_",
        "BIREN_",
        "VISIBLE_",
    ),
)


def names_devices(name: str) -> bool:
    """Whether a variable of this name may give devices."""
    return _DEVICES.fullmatch(name) is not None and _HARMLESS.fullmatch(name) is None


def may_begin(prefix: str) -> bool:
    """Whether the name of such a variable may begin with this."""
    upper = prefix.upper()
    return any(name.startswith(upper) or upper.startswith(name) for name in _BEGINNINGS)
