"""Whoever installs the operator names the folders of nodes that engines are shown."""

import msgspec
import pytest

from sglang_operator.controller import judging
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.pool.resolve import Pool, Refused
from tests.builders import OWNER, guide_spec


def judged(path, *folders, sub_path=""):
    mount = {"name": "m", "mountPath": "/m"} | ({"subPath": sub_path} if sub_path else {})
    template = {
        "volumes": [{"name": "m", "hostPath": {"path": path}}],
        "containers": [{"name": "engine", "volumeMounts": [mount]}],
    }
    spec = guide_spec(podTemplate={"spec": template})
    record = CustomResource(metadata=Meta(name="a"), written=msgspec.Raw(msgspec.json.encode(spec)))
    return judging.judge(OWNER, record, None, folders=folders)


@pytest.mark.parametrize(
    "path", ["/mnt/nfs/alice/qwen", "/mnt/models/qwen", "/mnt", "/home/alice/models", "/mnt/model"]
)
def test_a_name_in_a_folder_to_which_users_write_is_none_that_was_named(path):
    """The node follows links: below a share it may be one to /etc."""
    refused = judged(path, "/mnt/models", "/mnt/nfs")
    assert isinstance(refused, Refused)
    (problem,) = refused.errors
    assert problem.field == "spec.podTemplate.spec.volumes[0].hostPath.path"
    if path != "/mnt":
        assert "(--host-folder): /mnt/models, /mnt/nfs" in problem.message
        assert "subPath" in problem.message


@pytest.mark.parametrize("path", ["/mnt/models", "/mnt/models/", "//mnt/./models"])
def test_a_folder_that_was_named_is_shown_and_what_is_below_it_by_sub_path(path):
    assert isinstance(judged(path, "/mnt/models", sub_path="qwen"), Pool)


def test_where_none_is_named_names_say_what_is_shown():
    assert isinstance(judged("/mnt/nfs/team/qwen"), Pool)
