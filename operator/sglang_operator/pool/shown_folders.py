"""The folders of nodes that engines may see, where whoever installs the operator names them."""

from collections.abc import Collection, Iterator

from sglang_operator.api import errors, host_folders
from sglang_operator.api.pod_template import FIELD
from sglang_operator.api.pod_volumes import place
from sglang_operator.pool.model import Pool, Refused

_MOST_NAMED = 5


def problems(pool: Pool, folders: Collection[str]) -> Iterator[errors.Problem]:
    """Folders of nodes that are none of these, where there are any.

    One below a named folder is none of them: whoever may write there can make of it a link to any
    folder of the node.  Kubelet follows no links out of a volume for ``subPath``.
    """
    for index, volume in enumerate(pool.template.volumes if folders else ()):
        path = volume.get("hostPath", {}).get("path")
        if path is not None and place(path) not in folders:
            yield errors.POD_TEMPLATE(
                f"{FIELD}.spec.volumes[{index}].hostPath.path",
                found=f"the node's folder {errors.shown(path)}",
                expected=f"those that the operator was told ({host_folders.FLAG}): "
                f"{_named(folders)}",
                advice="mount one of these, and name what is below it in the mount's subPath",
            )


def _named(folders: Collection[str]) -> str:
    more = f" and {len(folders) - _MOST_NAMED} more" if len(folders) > _MOST_NAMED else ""
    return ", ".join(map(errors.shown, sorted(folders)[:_MOST_NAMED])) + more


def allowing(pool: Pool, folders: Collection[str]) -> Pool | Refused:
    """The pool as an operator takes it that shows these; none named: those whose names say so."""
    refused = tuple(problems(pool, folders))
    return Refused(owner=pool.owner, problems=refused) if refused else pool
