"""Container images from folders, without a registry: OCI archives, streamed into containerd."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import platform
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sglang_operator.testing import errors

# Without a host that has a dot, containerd takes a name for one of docker.io.
NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?(/[a-z0-9._-]+)+:[A-Za-z0-9._-]+")
DEFAULT_HOST = "docker.io"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OCI = "application/vnd.oci.image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A part of an image's file system: an uncompressed tar file and its SHA-256."""

    file: Path
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """A container image; ``name`` as a pod gives it, with its tag.

    ``user`` is ``UID`` or ``UID:GID``; an empty one means root.
    """

    name: str
    layers: Sequence[Layer]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    user: str = ""
    working_dir: str = "/"


def full_name(name: str) -> str:
    """The name as containerd knows it, such as ``docker.io/lmsysorg/sglang:v0.5.7``.

    Raises KitError when the name has no tag, or is ``latest``'s, which kubelet always pulls.
    """
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"{DEFAULT_HOST}/library/{name}"
    elif "." not in first and ":" not in first:
        name = f"{DEFAULT_HOST}/{name}"
    if NAME.fullmatch(name) is None or name.endswith(":latest"):
        raise errors.KitError(
            f"image {name!r}: a name with a tag other than latest is needed, "
            "such as kit.invalid/sglang:v0.5.7"
        )
    return name


def write_layer(root: Path, target: Path) -> Layer:
    """Pack a folder into ``target`` as a layer; who owned what, and when, is left out."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for entry in sorted(root.iterdir()):
            archive.add(entry, arcname=entry.name, filter=_anonymous)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(file=target, digest=f"sha256:{digest}")


def write_archive(images: Sequence[Image], stream: IO[bytes]) -> None:
    """Write an OCI archive of some images, which may share layers, to a stream."""
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        manifests, written = [], set()
        for image in images:
            for name, content in _blobs(image):
                if name not in written:
                    written.add(name)
                    _add(archive, name, content)
            manifests.append(_descriptor(image))
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
        _add(archive, "index.json", _json(index))


def _blobs(image: Image) -> Iterator[tuple[str, bytes | Path]]:
    for layer in image.layers:
        yield _blob(layer.digest), layer.file
    for content in (_config(image), _manifest(image)):
        yield _blob(_digest(content)), content


def _config(image: Image) -> bytes:
    env = {"PATH": SEARCH_PATH, **image.env}
    config = {
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "WorkingDir": image.working_dir,
        "User": image.user,
    }
    diffs = [layer.digest for layer in image.layers]
    return _json(
        {
            **_platform(),
            "config": {key: value for key, value in config.items() if value},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
    )


def _manifest(image: Image) -> bytes:
    config = _config(image)
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _described(f"{OCI}.config.v1+json", _digest(config), len(config)),
            "layers": [
                _described(f"{OCI}.layer.v1.tar", layer.digest, layer.file.stat().st_size)
                for layer in image.layers
            ],
        }
    )


def _descriptor(image: Image) -> dict[str, Any]:
    manifest, name = _manifest(image), full_name(image.name)
    return {
        **_described(f"{OCI}.manifest.v1+json", _digest(manifest), len(manifest)),
        "platform": _platform(),
        "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
        },
    }


def _described(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _platform() -> dict[str, str]:
    machine = platform.machine()
    return {"architecture": ARCHITECTURES.get(machine, machine), "os": "linux"}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    else:
        entry.size = content.stat().st_size
        with content.open("rb") as file:
            archive.addfile(entry, file)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry
