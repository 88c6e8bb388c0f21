"""Volumes and mounts of a podTemplate: what the API server asks of them, and what is not given to
an engine, because its pod would get more of the node than its user may have.

Whoever may write a pool may run an image of their own in its namespace, with the namespace's
Secrets and claims; what they mount over their own image harms nobody.  The node is not theirs:
its folders are read and never written, and only those for data are read (``host_folders``).
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sglang_operator.api import errors, host_folders, syntax

# Names of the volumes that every engine pod has, unless the user's take their places.
SHM_VOLUME = "dshm"
CACHE_VOLUME = "cache"
SHM_DIR = "/dev/shm"
CACHE_DIR = "/cache"
SHM_ADVICE = (
    "mount an emptyDir with medium: Memory at /dev/shm, which takes the place of the operator's"
)

_WRITABLE = ("emptyDir", "persistentVolumeClaim", "ephemeral")
# A mount of the node's folder is never written, and nothing that is mounted below it either, where
# Kubernetes (1.31 and newer) and the node's runtime can do that.
_READ_ONLY = {"readOnly": True, "recursiveReadOnly": "IfPossible"}

_VARIABLE = re.compile(r"\$\([^)]*\)")

_HOST_TYPES = ("", "Directory", "File")
_MAKING_TYPES = ("DirectoryOrCreate", "FileOrCreate", "Socket", "CharDevice", "BlockDevice")
# Places in the container that are the kernel's or the operator's, with all below them ...
_TREES = (
    "/dev",
    "/proc",
    "/sys",
    "/run/secrets/kubernetes.io",
    "/var/run/secrets/kubernetes.io",
    "/var/run/nvidia-container-devices",
    "/run/nvidia-container-devices",
)
# ... and folders of the image without which no engine starts.
_IMAGE = (
    *("/", "/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr", "/usr/bin", "/usr/lib"),
    *("/usr/local", "/usr/local/bin", "/usr/local/lib"),
)

Items = Sequence[Mapping[str, Any]]


def place(path: str) -> str:
    """A path in a container as the kubelet understands it."""
    return posixpath.normpath("/" + path.lstrip("/"))


def is_at(path: str, tree: str) -> bool:
    """Whether a place is this one, or below it."""
    return path == tree or path.startswith(f"{tree.rstrip('/')}/")


def mounted(mounts: Items, path: str) -> bool:
    """Whether something is mounted exactly there."""
    return any(place(mount.get("mountPath", "")) == path for mount in mounts)


def mount(item: Mapping[str, Any], volumes: Items) -> dict[str, Any]:
    """A mount as it is rendered, the operator's own too: what is the node's is not written."""
    hosts = {volume.get("name") for volume in volumes if "hostPath" in volume}
    return {**item, **(_READ_ONLY if item.get("name") in hosts else {})}


def problems(
    volumes: Items, mounts: Items, kinds: Iterable[str], where: str, mounts_at: str
) -> Iterator[errors.Problem]:
    """All that is wrong with the volumes and their mounts."""
    known = sorted(kinds)
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        at = f"{where}[{index}]"
        name = volume.get("name", "")
        if not syntax.is_dns_label(name):
            yield syntax.wrong(f"{at}.name", name, syntax.DNS_LABEL)
        elif name in seen:
            expected = "a name that no other volume has"
            yield syntax.wrong(f"{at}.name", name, expected, "choose another name")
        seen.add(name)
        yield from _source(volume, known, at)
        yield from _own_name(volume, mounts, at)
    yield from _mounts(volumes, mounts, mounts_at)


def unused(volumes: Items, mounts: Items, variables: Items, where: str) -> Iterator[errors.Problem]:
    """Volumes that nothing mounts, and no variable is read from."""
    used = {CACHE_VOLUME, SHM_VOLUME, *(mount.get("name") for mount in mounts)}
    for variable in variables:
        used.add(variable.get("valueFrom", {}).get("fileKeyRef", {}).get("volumeName"))
    for index, volume in enumerate(volumes):
        if volume.get("name") not in used:
            yield errors.POD_VOLUME_UNUSED(
                f"{where}[{index}]",
                name=errors.shown(volume.get("name")),
                advice="add it to the volumeMounts of the container engine, or remove it",
            )


# --- volumes


def _source(volume: Mapping[str, Any], kinds: list[str], at: str) -> Iterator[errors.Problem]:
    sources = [kind for kind in kinds if kind in volume]
    if len(sources) != 1:
        yield errors.POD_TEMPLATE(
            at,
            found=f"volume {errors.shown(volume.get('name'))} with {len(sources)} sources",
            expected="one source",
            advice=f"write one of {', '.join(kinds)}",
        )
    for kind in sources:
        check = _SOURCES.get(kind)
        if check is not None:
            yield from check(volume[kind], f"{at}.{kind}")


def _own_name(volume: Mapping[str, Any], mounts: Items, at: str) -> Iterator[errors.Problem]:
    """Names of the operator's volumes: one is not to be had, the other is for caches."""
    name = volume.get("name")
    if name == SHM_VOLUME:
        yield errors.POD_TEMPLATE(
            f"{at}.name", found=name, expected="another name", advice=SHM_ADVICE
        )
    elif name == CACHE_VOLUME and not mounted(mounts, CACHE_DIR) and not _is_writable(volume):
        yield errors.POD_TEMPLATE(
            at,
            found=f"volume {CACHE_VOLUME}, which engines cannot write to,",
            expected=f"{', '.join(_WRITABLE)} for the volume that is mounted at {CACHE_DIR}",
            advice="choose another name, or another kind of volume",
        )


def _is_writable(volume: Mapping[str, Any]) -> bool:
    claim = volume.get("persistentVolumeClaim", {})
    return any(kind in volume for kind in _WRITABLE) and not claim.get("readOnly")


def _empty(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    medium = found.get("medium", "")
    if medium not in ("", "Memory", "HugePages") and not medium.startswith("HugePages-"):
        yield syntax.not_one_of(f"{at}.medium", medium, ("Memory", "HugePages"))


def _claim(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    yield from syntax.object_name(found, "claimName", at, "a PersistentVolumeClaim")


def _image(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    policy, known = found.get("pullPolicy", ""), ("Always", "Never", "IfNotPresent")
    if policy and policy not in known:
        yield syntax.not_one_of(f"{at}.pullPolicy", policy, known)
    if not found.get("reference"):
        yield syntax.missing(f"{at}.reference", "the name of an image")


def _config_map(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    yield from _files(found, "name", "a ConfigMap", at)


def _secret(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    yield from _files(found, "secretName", "a Secret", at)


def _files(found: Mapping[str, Any], name: str, kind: str, at: str) -> Iterator[errors.Problem]:
    yield from syntax.object_name(found, name, at, kind)
    yield from _mode(found, "defaultMode", at)
    for index, item in enumerate(found.get("items", ())):
        path = f"{at}.items[{index}]"
        yield from _mode(item, "mode", path)
        if not item.get("key"):
            yield syntax.missing(f"{path}.key", "a key")
        file = item.get("path", "")
        if not file or file.startswith("..") or not _descends(file):
            yield syntax.wrong(f"{path}.path", file, 'a relative path without ".."')


def _mode(found: Mapping[str, Any], name: str, at: str) -> Iterator[errors.Problem]:
    if not 0 <= found.get(name, 0) <= 0o777:
        yield syntax.wrong(f"{at}.{name}", found[name], "0 to 0777 (511)")


def _descends(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _host(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    path, kind = found.get("path", ""), found.get("type", "")
    if kind not in (*_HOST_TYPES, *_MAKING_TYPES):
        yield syntax.not_one_of(f"{at}.type", kind, _HOST_TYPES[1:])
    elif kind not in _HOST_TYPES:
        yield errors.POD_TEMPLATE(
            f"{at}.type",
            found=f"type {kind}",
            expected="Directory or File",
            advice="remove it: an engine reads folders of the node, and makes none",
        )
    if not path.startswith("/") or ".." in path.split("/"):
        yield syntax.wrong(f"{at}.path", path, 'an absolute path without ".."')
        return
    yield from _folder(path, f"{at}.path")


def _folder(path: str, at: str) -> Iterator[errors.Problem]:
    reason = host_folders.refused(place(path))
    if reason:
        yield errors.POD_TEMPLATE(
            at,
            found=f"the node's folder {errors.shown(path)}",
            expected="folders with models or data",
            advice=reason,
        )


_ACCESS = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


def _ephemeral(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    template = found.get("volumeClaimTemplate")
    if template is None:
        yield syntax.missing(f"{at}.volumeClaimTemplate", "the claim")
        return
    at = f"{at}.volumeClaimTemplate"
    for name in sorted(filter(template.get("metadata", {}).get, template.get("metadata", {}))):
        yield _not_of_a_claim(f"{at}.metadata", name, _ACTED_UPON)
    yield from _claim_spec(template.get("spec", {}), f"{at}.spec")


# Provisioners, drivers and backups act upon labels and annotations of claims with rights of their
# own: they copy or share a volume of another namespace, take a folder's path from there, or read a
# Secret.  What they understand cannot be listed, and the claim is the pod's: whose it is stands
# there.  Of all volumes that there are, that of a claim of the user's own is had by its name.
_MADE = "the size, modes and class of a volume that is made for the pod, and what it is copied from"
_ACTED_UPON = "remove it: what acts upon it in the cluster has other rights than a pool gives"
_OTHERS = "remove it; a volume that there is is had by persistentVolumeClaim, if its claim is yours"
_ELSEWHERE = "remove it: what is copied has to be in the pool's own namespace"


def _not_of_a_claim(at: str, name: str, advice: str) -> errors.Problem:
    found = errors.shown(name)
    return errors.POD_TEMPLATE(f"{at}.{found}", found=found, expected=_MADE, advice=advice)


def _claim_spec(spec: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    modes = spec.get("accessModes", [])
    if not modes:
        yield syntax.missing(f"{at}.accessModes", "at least one mode, such as ReadWriteOnce")
    for index, mode in enumerate(modes):
        if mode not in _ACCESS:
            yield syntax.not_one_of(f"{at}.accessModes[{index}]", mode, _ACCESS)
    if "ReadWriteOncePod" in modes and {*modes} != {"ReadWriteOncePod"}:
        yield syntax.wrong(f"{at}.accessModes", modes, "ReadWriteOncePod alone")
    storage = spec.get("resources", {}).get("requests", {}).get("storage")
    if storage is None:
        yield syntax.missing(f"{at}.resources.requests.storage", "its size, such as 100Gi")
    elif not syntax.quantity(storage):
        yield syntax.wrong(f"{at}.resources.requests.storage", storage, "more than 0")
    for name in ("selector", "volumeName"):
        if spec.get(name):
            yield _not_of_a_claim(at, name, _OTHERS)
    if spec.get("storageClassName") == "":  # it is bound to volumes that there are, and makes none
        yield _not_of_a_claim(at, "storageClassName", _OTHERS)
    for name in ("storageClassName", "volumeAttributesClassName"):
        if spec.get(name) and not syntax.is_subdomain(spec[name]):
            yield syntax.wrong(f"{at}.{name}", spec[name], syntax.SUBDOMAIN)
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        expected = "Filesystem, which can be mounted"
        yield syntax.wrong(f"{at}.volumeMode", spec["volumeMode"], expected)
    for name in ("dataSource", "dataSourceRef"):
        if name in spec:
            yield from _data_source(spec[name], f"{at}.{name}")
    one, other = (
        [spec[name].get(part) for part in ("apiGroup", "kind", "name")] if name in spec else None
        for name in ("dataSource", "dataSourceRef")
    )
    if one is not None and other is not None and one != other:
        expected = "the same as dataSourceRef"
        yield syntax.wrong(f"{at}.dataSource", spec["dataSource"], expected, "remove dataSource")


def _data_source(found: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    if not found.get("kind"):
        yield syntax.missing(f"{at}.kind", "the kind of what is copied")
    yield from syntax.object_name(found, "name", at, "what is copied")
    if found.get("namespace"):
        yield _not_of_a_claim(at, "namespace", _ELSEWHERE)
    group = found.get("apiGroup", "")
    if not group and found.get("kind", "") not in ("", "PersistentVolumeClaim"):
        expected = "the group of that kind"
        yield syntax.wrong(f"{at}.apiGroup", "nothing", expected, "write apiGroup")
    elif group and not syntax.is_subdomain(group):
        yield syntax.wrong(f"{at}.apiGroup", group, syntax.SUBDOMAIN)


_SOURCES = {
    "configMap": _config_map,
    "emptyDir": _empty,
    "ephemeral": _ephemeral,
    "hostPath": _host,
    "image": _image,
    "persistentVolumeClaim": _claim,
    "secret": _secret,
}


# --- mounts


def _own(mounts: Items) -> set[str]:
    """The operator's volumes that nothing takes the place of."""
    places = ((SHM_VOLUME, SHM_DIR), (CACHE_VOLUME, CACHE_DIR))
    return {name for name, path in places if not mounted(mounts, path)}


def folders(volumes: Items, mounts: Items) -> set[str]:
    """Names of the volumes that are an emptyDir, as one without a source is."""
    own = _own(mounts) - {volume.get("name") for volume in volumes}
    given = (volume for volume in volumes if "emptyDir" in volume or volume.keys() == {"name"})
    return own | {volume.get("name", "") for volume in given}


def _mounts(volumes: Items, mounts: Items, where: str) -> Iterator[errors.Problem]:
    there = {volume.get("name", ""): volume for volume in volumes}
    own = _own(mounts)
    seen: set[str] = set()
    for index, item in enumerate(mounts):
        at = f"{where}[{index}]"
        name, path = item.get("name", ""), item.get("mountPath", "")
        if name not in there and name not in own:
            known = ", ".join(sorted({*there, *own})) or "none"
            expected = f"a volume that there is: {errors.shown(known)}"
            yield syntax.wrong(f"{at}.name", name, expected, "add it to volumes, or correct it")
        if not path:
            yield syntax.missing(f"{at}.mountPath", "a path in the container")
            continue
        if place(path) in seen:
            expected = "a path at which nothing else is mounted"
            yield syntax.wrong(f"{at}.mountPath", path, expected, "choose another path")
        seen.add(place(path))
        yield from _parts(item, there.get(name, {}), at)
        yield from _target(item, there.get(name, {}), at)


def _parts(item: Mapping[str, Any], volume: Mapping[str, Any], at: str) -> Iterator[errors.Problem]:
    for name in ("subPath", "subPathExpr"):
        if not item.get(name):
            continue
        if not _descends(item[name]):
            yield syntax.wrong(f"{at}.{name}", item[name], 'a relative path without ".."')
        elif "hostPath" in volume:
            # What a variable says is somebody's name; a path that needs more of it is refused.
            below = _VARIABLE.sub("x", item[name]) if name == "subPathExpr" else item[name]
            path = posixpath.join(volume["hostPath"].get("path", ""), below)
            yield from _folder(path, f"{at}.{name}")
    if item.get("subPath") and item.get("subPathExpr"):
        expected = "one of subPath and subPathExpr"
        yield syntax.wrong(f"{at}.subPathExpr", item["subPathExpr"], expected, "remove one")


def _target(
    item: Mapping[str, Any], volume: Mapping[str, Any], at: str
) -> Iterator[errors.Problem]:
    path = place(item["mountPath"])
    if path == SHM_DIR:
        yield from _shared_memory(item, volume, f"{at}.mountPath")
    elif path in _IMAGE or any(is_at(path, tree) for tree in _TREES):
        yield errors.POD_TEMPLATE(
            f"{at}.mountPath",
            found=f"a mount at {errors.shown(item['mountPath'])}",
            expected="paths that neither the image nor the kernel needs",
            advice="choose a path of its own, such as /models",
        )


def _shared_memory(
    item: Mapping[str, Any], volume: Mapping[str, Any], at: str
) -> Iterator[errors.Problem]:
    """What takes the place of the operator's /dev/shm has to be memory that can be written."""
    empty = volume.get("emptyDir")
    is_memory = empty is None or empty.get("medium") == "Memory"
    if volume and not (is_memory and _is_writable(volume) and not item.get("readOnly")):
        yield errors.POD_TEMPLATE(
            at,
            found=f"volume {errors.shown(volume.get('name'))} at {SHM_DIR}",
            expected="an emptyDir with medium: Memory, or a claim, that engines may write to",
            advice="write emptyDir: {medium: Memory, sizeLimit: 64Gi} or such",
        )
