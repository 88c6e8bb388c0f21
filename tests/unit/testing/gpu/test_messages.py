"""The messages to kubelet, byte by byte as its own definition has them."""

import pytest

from sglang_operator.testing.gpu import allocation

pytest.importorskip("google.protobuf", reason="the kit's extra gpu is not installed")
pytest.importorskip("grpc", reason="the kit's extra gpu is not installed")


def test_a_registration_has_kubelet_s_field_numbers():
    from sglang_operator.testing.gpu import messages

    request = messages.RegisterRequest(version="v1beta1", endpoint="a.sock", resource_name="x/y")
    assert request.SerializeToString() == b"\x0a\x07v1beta1\x12\x06a.sock\x1a\x03x/y"


def test_devices_are_told_with_their_health():
    from sglang_operator.testing.gpu import messages

    said = messages.ListAndWatchResponse(devices=[{"ID": "GPU-a", "health": "Healthy"}])
    assert said.SerializeToString() == b"\x0a\x10\x0a\x05GPU-a\x12\x07Healthy"


def test_what_newer_kubelets_add_is_passed_over():
    from sglang_operator.testing.gpu import messages

    one = b"\x0a\x05GPU-a"  # devices_ids
    request = messages.AllocateRequest.FromString(b"\x0a\x0b" + one + b"\x7a\x02??")
    assert [list(each.devices_ids) for each in request.container_requests] == [["GPU-a"]]


def test_an_answer_to_allocate_survives_the_way():
    from sglang_operator.testing.gpu import messages, plugin

    answer = allocation.Answer(
        nodes=[("/dev/nvidia3", "/dev/nvidia3")],
        mounts=[allocation.Mount(host="/h", inside="/i", read_only=False)],
        variables={"NVIDIA_VISIBLE_DEVICES": "GPU-a"},
    )
    sent = messages.AllocateResponse(container_responses=[plugin.encoded(answer)])
    content = sent.SerializeToString()
    # envs 1 {key 1, value 2}, mounts 2 {container 1, host 2}, devices 3 {container, host, rights 3}
    assert b"\x0a\x1f\x0a\x16NVIDIA_VISIBLE_DEVICES\x12\x05GPU-a" in content
    assert b"\x12\x08\x0a\x02/i\x12\x02/h" in content
    assert b"\x1a\x20\x0a\x0c/dev/nvidia3\x12\x0c/dev/nvidia3\x1a\x02rw" in content
    (got,) = messages.AllocateResponse.FromString(content).container_responses
    assert dict(got.envs) == {"NVIDIA_VISIBLE_DEVICES": "GPU-a"}
