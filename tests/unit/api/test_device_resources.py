"""Which resources are GPUs, and which are the node."""

import pytest

from sglang_operator.api import device_resources


@pytest.mark.parametrize(
    "name",
    [
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-1g.10gb",
        "nvidia.com/mig-1g.10gb.me",
        "nvidia.com/mig-3g.71gb.shared",
        "amd.com/gpu",
        "amd.com/cpx_nps4",
        "gpu.intel.com/xe",
        "habana.ai/gaudi",
        "huawei.com/Ascend910",
        "deviceclass.resource.kubernetes.io/gpu.nvidia.com",
    ],
)
def test_gpus_pass(name):
    assert device_resources.is_gpu(name)
    assert not device_resources.gives_the_node(name)
    assert not list(device_resources.problems(name, ()))


@pytest.mark.parametrize(
    "name",
    [
        "smarter-devices/fuse",
        "smarter-devices/nvidia0",
        "devices.kubevirt.io/kvm",
        "devices.kubevirt.io/vhost-net",
        "github.com/fuse",
        "squat.ai/video",
        "example.com/vfio",
        "example.com/dev_mem",
        "example.com/nbd0",
        "deviceclass.resource.kubernetes.io/vfio.gpu.nvidia.com",
        "deviceclass.resource.kubernetes.io/x",
        "deviceclass.resource.kubernetes.io/gpu.nvidia.com.mine",
        "vfio.io/x",
        "kubevirt.io/anything",
        "akri.sh/debug-echo",
        "fuse.example.com/device",
        "my.io/fuse-2",
        "example.com/Loop-Control",
        "example.com/kmsg_rw",
        "example.com/sda1",
        "example.com/nvme0n1",
        "example.com/dm-0",
        "example.com/ttyUSB0",
        "example.com/usb",
        "example.com/msr",
    ],
)
def test_the_node_passes_nowhere_unless_it_is_allowed(name):
    (problem,) = device_resources.problems(name, ())
    assert problem.field == "spec.placement.resourceName"
    assert f"--allow-resource={name}" in problem.message
    (problem,) = device_resources.problems("nvidia.com/gpu", [("field", name)])
    assert problem.field == "field"
    assert not list(device_resources.problems(name, [("field", name)], {name}))


@pytest.mark.parametrize(
    "name",
    [
        "rdma/hca_shared_devices_a",
        "vpc.amazonaws.com/efa",
        "nvidia.com/mlnxnics",
        "openshift.io/sriov",
        "example.com/memory-cards",
        "example.com/mem-cards",
        "intel.com/sgx",
        "sgx.intel.com/enclave",
        "xilinx.com/fpga-u250",
        "nvidia.com/hostdev",
        "mellanox.com/cx7_rdma",
        "example.com/nvme",
        "example.com/tapes",
    ],
)
def test_other_devices_pass_beside_gpus_and_not_in_their_place(name):
    assert not list(device_resources.problems("nvidia.com/gpu", [("field", name)]))
    assert list(device_resources.problems(name, ()))
