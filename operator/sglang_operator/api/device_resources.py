"""Which extended resources are GPUs, and which give an engine more of its node than that.

A device plugin puts files of ``/dev`` into whatever pod asks for its resource: with those of some a
container mounts, or reads memory and disks of the node.  Admission policies do not see it.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from sglang_operator.api import errors

FLAG = "--allow-resource"

_GPU = re.compile(
    r"nvidia\.com/(?:gpu|mig-[0-9]+g\.[0-9]+gb(?:\.[a-z]+)*)(?:\.shared)?"
    r"|amd\.com/(?:gpu|[a-z]{3}_nps[0-9])"  # whole, or a partition of the MI300 family
    r"|gpu\.intel\.com/(?:i915|xe)|habana\.ai/gaudi|huawei\.com/Ascend[0-9]+"
    # As a class of devices, by dynamic resource allocation.
    r"|deviceclass\.resource\.kubernetes\.io/(?:(?:gpu|mig)\.nvidia|gpu\.amd|gpu\.intel)\.com"
)
# A class of devices is whatever whoever runs the cluster selects by it, under any name.
_CLASSES = "deviceclass.resource.kubernetes.io/"
# Plugins that give any file of /dev ...
_OF_ANY_FILE = re.compile(
    r"(?:[a-z0-9-]+\.)*(?:smarter-devices|kubevirt\.io|squat\.ai|akri\.sh)/.*"
)
# ... and files that give the node: its kernel, its memory, its disks, its keyboard.
_FILES = re.compile(
    r"fuse|kvm|vfio|uio|tun|tap|vhost|vsock|loop|kmsg|kmem|uinput|hidraw|evdev|nbd|rbd|snd|msr|ipmi"
    r"|mei|tpm(rm)?|usb|tty[a-z]*|i2c|gpio|block|mapper|dm|sd[a-z]|nvme[0-9]+n"
)
_PARTS = re.compile(r"[/._-]+")


def is_gpu(name: str) -> bool:
    """Whether a resource of this name counts GPUs, whole ones, shares or partitions."""
    return _GPU.fullmatch(name) is not None


def gives_the_node(name: str) -> bool:
    """Whether devices of this name give access to their node, or, of a class, may do so."""
    lower = name.lower()
    if lower.startswith(_CLASSES):
        return not is_gpu(name)
    if _OF_ANY_FILE.fullmatch(lower):
        return True
    parts = [part.rstrip("0123456789") for part in _PARTS.split(lower)]
    return parts[-1] == "mem" or any(map(_FILES.fullmatch, parts))


def of_class(name: str) -> str:
    """The resource that stands for a class of devices, whoever asks for it in another way."""
    return f"{_CLASSES}{name}"


def of_gpus(
    field: str, name: str, allowed: Collection[str] = (), whose: str = ""
) -> Iterator[errors.Problem]:
    """Why this is not taken for GPUs; ``whose`` is what asks for it, where no field does."""
    if name in allowed or is_gpu(name):
        return
    yield errors.POD_TEMPLATE(
        field,
        found=f"the resource {errors.shown(name)}{whose}",
        expected="GPUs, such as nvidia.com/gpu, nvidia.com/mig-1g.10gb or amd.com/gpu",
        advice=_advice(name),
    )


def problems(
    gpus: str, beside: Iterable[tuple[str, str]], allowed: Collection[str] = ()
) -> Iterator[errors.Problem]:
    """What an engine may not ask for, unless the operator was told so.

    ``gpus`` is the resource of its GPUs, ``beside`` are the others, each with its field.
    """
    yield from of_gpus("spec.placement.resourceName", gpus, allowed)
    for field, name in beside:
        if name not in (gpus, *allowed) and gives_the_node(name):
            yield errors.POD_TEMPLATE(
                field,
                found=f"the resource {errors.shown(name)}",
                expected="devices that do not give access to their node",
                advice=_advice(name),
            )


def _advice(name: str) -> str:
    return f"whoever installs the operator may allow it: {FLAG}={errors.shown(name)}"
