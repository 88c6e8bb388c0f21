"""``helm test``: the definition is served, and an operator of this release holds its Lease.

Run in a pod with the operator's image and ServiceAccount; arguments are the namespace whose pools
are asked for, or nothing for all.
"""

import datetime
import json
import os
import pathlib
import ssl
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
WAIT_SECONDS = 30.0  # for the first replica to take the Lease
FRESH_SECONDS = 60.0


def get(path):
    """What the API server answers; raises urllib.error.URLError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    request = urllib.request.Request(f"https://{host}:{port}{path}", headers=headers)
    context = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return json.load(answer)


def wrong(lease_namespace, lease, pools_namespace):
    """What is wrong, or an empty text."""
    scope = f"namespaces/{pools_namespace}/" if pools_namespace else ""
    try:
        get(f"/apis/sglang-operator.dev/v1alpha1/{scope}sglanginferences?limit=1")
    except urllib.error.URLError as error:
        return f"pools cannot be listed: {error}; is the resource definition there?"
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{lease_namespace}/leases"
    try:
        spec = get(f"{leases}/{lease}").get("spec", {})
    except urllib.error.URLError as error:
        return f"the Lease {lease} in {lease_namespace} cannot be read: {error}"
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not holder:
        return f"nobody holds the Lease {lease}: no replica of the operator is at work"
    age = time.time() - datetime.datetime.fromisoformat(renewed).timestamp()
    if age > FRESH_SECONDS:
        return f"{holder} has not renewed the Lease {lease} for {age:.0f} s"
    print(f"{holder} holds the Lease, renewed {max(0, age):.0f} s ago; pools are served")
    return ""


def main():
    """0, or 1 with a reason."""
    end = time.monotonic() + WAIT_SECONDS
    pools = sys.argv[1] if len(sys.argv) > 1 else ""
    lease = os.environ["LEASE_NAME"]
    while reason := wrong(os.environ["POD_NAMESPACE"], lease, pools):
        if time.monotonic() > end:
            print(reason, file=sys.stderr)
            return 1
        time.sleep(1)
    return 0


sys.exit(main())
