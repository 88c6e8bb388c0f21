"""``weights``: who somebody is on the Lease.

Command by command: ../client/test_cli.py.
"""

import getpass
import os

from sglang_operator.cli import weights


def test_a_containers_user_without_a_name_goes_by_its_number(monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert weights.holder().startswith(f"kubectl-sglang_{os.getuid()}@")


def test_a_user_with_a_name_goes_by_it(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "me")
    assert weights.holder().startswith("kubectl-sglang_me@")
