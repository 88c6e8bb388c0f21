"""The messages of kubelet's device plugin API, v1beta1, as protobuf classes.

Only what the plugin says and reads is described; what else kubelet knows (NUMA nodes, CDI devices)
is optional.  Field numbers are those of k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "v1beta1"
VERSION = "v1beta1"
REGISTRATION = f"{PACKAGE}.Registration"
PLUGIN = f"{PACKAGE}.DevicePlugin"

# message -> its fields: name, number, type; "*" is a list of them, "{}" texts by text.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Empty": (),
    "DevicePluginOptions": (),
    "RegisterRequest": (
        ("version", 1, "string"),
        ("endpoint", 2, "string"),
        ("resource_name", 3, "string"),
    ),
    "Device": (("ID", 1, "string"), ("health", 2, "string")),
    "ListAndWatchResponse": (("devices", 1, "Device*"),),
    "ContainerAllocateRequest": (("devices_ids", 1, "string*"),),
    "AllocateRequest": (("container_requests", 1, "ContainerAllocateRequest*"),),
    "Mount": (
        ("container_path", 1, "string"),
        ("host_path", 2, "string"),
        ("read_only", 3, "bool"),
    ),
    "DeviceSpec": (
        ("container_path", 1, "string"),
        ("host_path", 2, "string"),
        ("permissions", 3, "string"),
    ),
    "ContainerAllocateResponse": (
        ("envs", 1, "{}"),
        ("mounts", 2, "Mount*"),
        ("devices", 3, "DeviceSpec*"),
    ),
    "AllocateResponse": (("container_responses", 1, "ContainerAllocateResponse*"),),
}
_SCALARS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="sglang-operator-testkit/deviceplugin.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            _add(message, field, number, kind)
    return file


def _add(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    many = kind.endswith(("*", "{}"))
    field.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
    kind = kind.removesuffix("*")
    if kind == "{}":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "string")
        _add(entry, "value", 2, "string")
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()  # of our own: others may have the API's too
    file = pool.Add(_file()) or pool.FindFileByName(_file().name)
    return {
        name: message_factory.GetMessageClass(file.message_types_by_name[name])
        for name in _MESSAGES
    }


_BY_NAME = _classes()
Empty = _BY_NAME["Empty"]
DevicePluginOptions = _BY_NAME["DevicePluginOptions"]
RegisterRequest = _BY_NAME["RegisterRequest"]
ListAndWatchResponse = _BY_NAME["ListAndWatchResponse"]
AllocateRequest = _BY_NAME["AllocateRequest"]
AllocateResponse = _BY_NAME["AllocateResponse"]
