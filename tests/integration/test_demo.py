"""``make demo``, as somebody sees it who runs it for the first time, in a pipe."""

import os
import shlex
import signal
import subprocess
import sys
import urllib.request

from sglang_operator.testing.pytest_plugin import require_real_node

DEMO = [sys.executable, "-m", "sglang_operator.testing", "demo"]


def _take_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_demo_ends_when_the_pool_is_ready():
    shown = subprocess.run([*DEMO, "--once", "--kwok"], capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert any("READY 12/12" in line for line in lines)
    assert any(line.startswith("SYNCED 0/12: the gate is closed") for line in lines)
    grid = [line for line in lines if "gpu-node-" in line]
    assert len(grid) == 3
    assert all("·" not in line for line in grid)  # all 24 GPUs are in use


def test_the_demo_on_real_nodes_lets_engines_be_talked_to_until_it_is_told_to_end():
    require_real_node()
    shown = _until_ctrl_c([])
    assert any("12 containers answer HTTP" in line for line in shown)
    assert any("READY 12/12" in line for line in shown)
    assert any(line.split()[:3] == ["actor-infer", "12/12", "12/12"] for line in shown)
    (answer,) = (line for line in shown if line.startswith("the Service answers"))
    assert '"weight_version": "step-1"' in answer
    (by_hand,) = (line for line in shown if line.startswith("curl says"))
    assert '"weight_version": "step-1"' in by_hand


def test_the_demo_stays_up_until_it_is_told_to_end():
    _until_ctrl_c(["--kwok"])


def _until_ctrl_c(arguments):
    """Run the demo until it has told what to type, then end it; what it showed, and curl said."""
    demo = subprocess.Popen(
        [*DEMO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Whatever runs the tests in the background ignores Ctrl-C, and its children would too.
        preexec_fn=_take_ctrl_c,
    )
    assert demo.stdout is not None
    try:
        shown = []
        for line in demo.stdout:
            shown.append(line)
            if "export KUBECONFIG=" in line:
                kubeconfig = line.strip().removeprefix("export KUBECONFIG=")
            elif line.lstrip().startswith("curl "):
                shown.append(f"curl says {_curl(line)}")
            elif line.lstrip().startswith("tail -f "):  # the last of it
                break
        assert os.path.exists(kubeconfig)  # noqa: PTH110
        assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
        assert not os.path.exists(kubeconfig)  # noqa: PTH110
        return shown
    finally:
        demo.kill()
        demo.stdout.close()
        demo.wait()


def _curl(command):
    """What the command would print, also on a machine without curl."""
    _, url, _, header, _, body = shlex.split(command, comments=True)
    name, _, value = header.partition(": ")
    request = urllib.request.Request(url, body.encode(), {name: value})
    with urllib.request.urlopen(request, timeout=30) as said:
        return said.read().decode()
