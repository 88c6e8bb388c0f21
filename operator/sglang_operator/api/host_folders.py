"""Which folders of a node an engine may read.

A node has the Secrets, tokens and data of all its pods in folders whose names differ from one
system to the next (``/var/lib/kubelet`` is also ``/mnt/stateful_partition/var/lib/kubelet``,
``/local/…``, ``/sysroot/…``), so what is refused cannot be listed.  What is allowed can: folders
whose names say that data and models are kept there.  For any other, whoever runs the cluster can
make a PersistentVolume, and the pool names its claim.

Names are all that is known of a folder before the node has it, and a node follows links: who may
write to a share or a home can make of a name in it a link to ``/etc``, which a container that runs
as root then reads.  Where users may write to what nodes have mounted, whoever installs the operator
names the folders that engines are shown (``FLAG``, ``pool.shown_folders``).

A folder that is shown is shown whole, so one of a person, wherever homes are kept, is shown only
from a name on that says so, and of what a hub's client keeps only its downloads, not the token
beside them; and a path may be that of a file, or of a socket, to which a mount that is read-only
lets everybody write.
"""

import itertools
import re

from sglang_operator.api.patterns import Pattern

FLAG = "--host-folder"

_WORDS = (
    r"(ai|bucket|cache|ceph|cephfs|checkpoint|ckpt|cpfs|data|dataset|disk|efs|fileset|fsx|gcs|gpfs|gpu"
    r"|hf|hub|huggingface|juicefs|jfs|llm|local_?ssd|lustre|ml|model|modelscope|mount|nas|nfs|nvme|oss"
    r"|parallel|pfs|pvc|raid|repo|s3|scratch|share|shared|ssd|storage|store|tos|vol|volume|weight"
    r"|weka|work|workspace)s?"
)
# What clients of hubs call the folder in which they keep their downloads, and beside these a token.
_CLIENTS_WORDS = r"(huggingface|hf|modelscope)s?"
_OWN_WORDS = r"(model|weight|checkpoint|ckpt|llm)s?"
_MODELS_WORDS = rf"({_OWN_WORDS}|{_CLIENTS_WORDS})"


def _named_for(words: str) -> Pattern:
    """A name that is one of these words, or has one before or after a dash, a dot or a digit."""
    return Pattern(rf"([a-z0-9]+[-_.])?{words}([-_.0-9][-_.a-z0-9]*)?", re.ASCII)


_DATA, _MODELS = _named_for(_WORDS), _named_for(_MODELS_WORDS)
# What people call the folders in which they have models and data, beside all else that is theirs.
_PERSONAL = Pattern(
    rf"{_named_for(rf'({_OWN_WORDS}|(data|dataset)s?|corpus|corpora)').pattern}"
    # Qwen2.5-7B-Instruct, and families of models that are known by their names.
    r"|[a-z0-9][a-z0-9._]*-([a-z0-9._]+-)*[0-9]+(\.[0-9]+)?b([-_.].*)?"
    r"|(meta-)?(qwen|qwq|llama|deepseek|glm|mistral|mixtral|gemma|phi|internlm|kimi|minimax|gpt-oss)"
    r"([-_.0-9].*)?",
    re.ASCII,
)
# Below these each folder is a person's home; it may be on whatever is mounted.
_HOMES = Pattern(
    r"([a-z0-9]+[-_.]?)?(home|user)(s|[-_.]?(area|data|dir|directorie|drive|folder|home|space)s?)?"
    r"([-_.0-9].*)?"
    r"|(people|person(al|s)|profile|student|staff|faculty|member|employee|account)s?([-_.0-9].*)?",
    re.ASCII,
)
# Below these everything is somebody's data, apart from what systems keep there (_NODES_OWN).
_MOUNTS = ("mnt", "media", "srv")
# Below these only folders that are named for models.
_SYSTEM = (
    *(("opt",), ("var",), ("var", "lib"), ("var", "data"), ("usr", "share")),
    *(("usr", "local"), ("usr", "local", "share"), ("tmp",), ("var", "tmp")),
)
_CACHES = ".cache"  # where a person's downloads from Hugging Face are, beside those of other tools
_CACHE = Pattern(
    rf"{_named_for(_OWN_WORDS).pattern}|torch(_extensions)?|triton|flashinfer|sglang|deep_?gemm",
    re.ASCII,
)
_CLIENT = _named_for(_CLIENTS_WORDS)
# Of a client's folder what holds nothing but downloads; "modules" is code, "xet" has logs.
_DOWNLOADS = ("hub", "models", "datasets")
# Files by whose names somebody gets in somewhere, sockets, and settings, in which passwords stand.
_FILES = Pattern(
    r"(.*[-_.])?(id_(rsa|dsa|ecdsa|ed25519)([-_.].*)?|kubeconfig.*|authorized_keys.*|known_hosts.*"
    r"|g?shadow-?|sudoers|htpasswd|netrc|pgpass|git-credentials"
    r"|(token|stored_tokens|passwd|password|passphrase|secrets?|credentials?|vault[-_]pass)(\.[a-z]+)?"
    r"|(gcloud|sa|service[-_]?account([-_]?key)?|application_default_credentials)\.json)"
    r"|.*\.(sock|socket|pem|key|p12|pfx|jks|keystore|keytab|ppk|kdbx|ovpn|gpg|asc|crt|cer"
    r"|conf|cnf|cfg|ini|env|envrc|ya?ml|toml|properties|kubeconfig|tfstate|tfvars|sqlite3?|sql|sh"
    r"|service)",
    re.ASCII | re.DOTALL,
)
# Folders of the node's own, under whatever they are mounted: by their very names, and by those that
# whoever moves a node's data to a large disk makes of them.
_NODES_OWN = Pattern(
    r"buildkit|run|runc|crun|cri|systemd|libvirt|snapd?|sockets?|cni|calico|cilium|flannel|lib"
    r"|stateful_partition|aks|kind|host(fs|root)?|(node|image|container)fs"
    r"|overlay2?|rootfs|sysroot|ostree|etc|proc|sys|boot|var|root|pki|ssl|secrets?|credentials?"
    r"|lost\+found|csi([-_.].*)?|.*provisioner.*|hostpath([-_.].*)?"
    r"|(.*[-_.])?(containerd|docker|crio|cri-o|etcd|kube|k8s|k3s|k3d|k0s|rke2|rancher|minikube|microk8s"
    r"|openshift|longhorn|openebs|topolvm|nerdctl|podman|bottlerocket).*"
    r"|(.*[-_.])?(containers?|paas|pods?|rke|rook|lxc|lxd|cce|tke|eks|gke|kata|gvisor|firecracker"
    r"|enroot|mesos)([-_.0-9].*)?",
    re.ASCII,
)
# What keeps passwords, keys and tokens of others, by its name.
_VAULTS = Pattern(
    r"([a-z0-9]+[-_.])?(pillars?|salt(stack)?|puppet(labs)?|chef|ansible|terraform|vault|consul"
    r"|nomad|jenkins|gitlab|actions-runner|argocd|harbor|keycloak|(open)?ldap|samba|sshd?|gpg|gnupg"
    r"|gcloud|kerberos|krb5|munge|wireguard|openvpn|tailscale|letsencrypt|certs|keys|postgres(ql)?"
    r"|pgdata|mysql|mariadb|mongo(db)?|redis|airflow|jupyterhub|slurm|velero)"
    r"([-_.]?(agent|backup|config|core|ctld?|data|db|home|root|runner|server|storage)s?|[-_.0-9]+)?",
    re.ASCII,
)
# Each folder in these is a volume that a provisioner gives to some pod ...
_PROVISIONED = Pattern(
    r"([a-z0-9]+[-_.])?(disk|volume)s|([a-z0-9]+[-_.]?)?pvs?|pvcs"
    r"|pvc?[-_.](data|disk|store|storage|volume)s?"
    r"|(local|persistent|dynamic)[-_]?(storage|volumes?|disks?)",
    re.ASCII,
)
# ... and so are these, which it names after the volume.
_OF_A_CLAIM = Pattern(
    r"pv[-_.]?[0-9]+|(.*[-_.])?pvc?-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}.*", re.ASCII
)
_LOCAL_SSD = Pattern(r"(local-?)?(ssd|nvme|raid)[-_.0-9]*", re.ASCII)

_ADVICE = (
    "use a folder such as /mnt/models, /data/models or /models, or a claim of a PersistentVolume "
    "that whoever runs the cluster makes of this one"
)
_CLAIM_ADVICE = (
    "volumes of pods are kept there, whose claims say who may read them; name a claim of yours in "
    f"persistentVolumeClaim, or {_ADVICE}"
)
_HOMES_ADVICE = (
    "folders of people hold their keys: of them those named for models or data are shown, such as "
    "/home/NAME/models or /root/.cache/huggingface/hub; use one of these, or a folder of its own"
)
_CLIENT_ADVICE = (
    'a token is kept there, beside what was downloaded; write the path of its folder "hub" '
    "instead, and mount that where the engine looks for it, which in images that run as root is "
    "/root/.cache/{}/hub"
)
_FILES_ADVICE = "it is named as a key, a socket or a file of settings; use the folder of a model"


def refused(path: str) -> str:
    """Why a folder, by its absolute path without "..", is not shown to engines; "" if it is."""
    parts = [part for part in path.lower().split("/") if part]
    if not parts:
        return "it is the whole node; name the folder with the models"
    if _FILES.fullmatch(parts[-1]):
        return _FILES_ADVICE
    if any(map(_OF_A_CLAIM.fullmatch, parts)):
        return _CLAIM_ADVICE
    inside = _inside_a_home(parts)
    if inside is not None and parts[0] in ("root", "home"):
        return _of_a_person(parts[1:], inside)
    shown = {_CACHES} if inside else set[str]()
    own = [part for part in parts if _is_nodes_own(part) or part.startswith(".")]
    own = [part for part in own if part not in shown]
    if _is_named_for_models(parts):
        return (
            "" if not [part for part in own if part not in ("var", "lib")] else _not_shown(own[-1])
        )
    if own:
        return _not_shown(own[0])
    if parts[0] not in _MOUNTS and not _DATA.fullmatch(parts[0]):
        return f"only folders for data are shown to engines; {_ADVICE}"
    if inside is not None:
        return _of_a_person(parts, inside)
    if _is_provisioned(parts):
        return _CLAIM_ADVICE
    # Nodes with one large disk have their kubelet and runtime on it, beside the data.
    return "" if _is_below_a_disk(parts) else f"it may hold the node's own folders; {_ADVICE}"


def _is_nodes_own(part: str) -> bool:
    is_own = _NODES_OWN.fullmatch(part) or _VAULTS.fullmatch(part)
    return is_own is not None and not _MODELS.fullmatch(part)


def _is_below_a_disk(parts: list[str]) -> bool:
    """Whether the node's own folders would show by their names, were this among them."""
    if parts[0] not in _MOUNTS:
        return len(parts) > 1
    # Whatever else is mounted there may be such a disk.
    return len(parts) > 2 or (len(parts) > 1 and _DATA.fullmatch(parts[1]) is not None)


def _is_provisioned(parts: list[str]) -> bool:
    """Whether it is a volume of some pod, or a folder of these: all but what says it is none."""
    for at, part in enumerate(parts):
        inner = "".join(parts[at + 1 : at + 2])
        # What is mounted below /mnt/disks is a disk of some pod, whatever it is called.
        is_models = (at != 1 or parts[0] not in _MOUNTS) and _MODELS.fullmatch(inner)
        if _PROVISIONED.fullmatch(part) and not (is_models or _LOCAL_SSD.fullmatch(inner)):
            return True
    return False


def _is_named_for_models(parts: list[str]) -> bool:
    """Whether the first name below a folder of the system is one for models."""
    return any(
        tuple(parts[: len(tree)]) == tree
        and len(parts) > len(tree)
        and _MODELS.fullmatch(parts[len(tree)])
        for tree in ((), *_SYSTEM)
    )


def _not_shown(part: str) -> str:
    if _VAULTS.fullmatch(part) is not None:
        return f'"{part}" is a name of what keeps keys and passwords; {_ADVICE}'
    return f'"{part}" is a name of the node\'s own folders; {_ADVICE}'


def _inside_a_home(parts: list[str]) -> list[str] | None:
    """What of a path is a person's own; None if it is of nobody."""
    if parts[0] == "root":
        return parts[1:]
    homes = [_HOMES.fullmatch(part) is not None and not _MODELS.fullmatch(part) for part in parts]
    if not any(homes):
        return None
    first = homes.index(True)
    last = first + sum(1 for _ in itertools.takewhile(bool, homes[first:]))  # users/home/NAME
    return parts[last + 1 :]


def _of_a_person(parts: list[str], inside: list[str]) -> str:
    hidden = [part for part in inside if part.startswith(".")]
    if any(map(_is_nodes_own, parts)) or hidden not in ([], [_CACHES]):
        return _HOMES_ADVICE
    kept = inside[inside.index(_CACHES) + 1 :][:2] if hidden else inside
    named, names = (_CACHE, kept[:1]) if hidden else (_PERSONAL, kept)
    if any(map(named.fullmatch, names)):
        return ""
    clients = [at for at, name in enumerate(names) if _CLIENT.fullmatch(name)]
    if not clients:
        return _HOMES_ADVICE
    if any("".join(kept[at + 1 : at + 2]) in _DOWNLOADS for at in clients):
        return ""
    is_other = "modelscope" in names[clients[0]]
    return _CLIENT_ADVICE.format("modelscope" if is_other else "huggingface")
