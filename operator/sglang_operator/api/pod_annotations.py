"""Labels and annotations that engine pods may not have: by them others give a pod what its spec
does not say.

Three kinds of programs read a pod's labels and annotations and act with rights of their own, which
a user has not.  A node's runtime adds devices, mounts and other profiles (``_OF_NODES``).  What
injects containers into pods makes them by what is written there: of any image, as root, with mounts
of the node, or it changes the engine's own command and environment; and others hand out identities,
tokens, addresses and networks, or take a pod out of a policy (``_INJECTORS``).  Agents of
monitoring ask whom they are told to, with what is theirs (``agent_annotations``).

Of an injector, new keys come with each version, and some moved from annotations to labels, so what
is known to leave rights as they are is allowed and all else of their domains is not, as a label or
as an annotation: whether and how traffic is redirected, logs, requests of CPU and memory, and that
nothing is injected at all.  Any other label or annotation is somebody's own word.
Further networks by Multus and GKE, which RDMA needs, are allowed: whose they are is theirs to say;
and so is what mounts a bucket for a claim that the pod has (GKE's gcsfuse, Fluid).
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sglang_operator.api import agent_annotations, errors
from sglang_operator.api.patterns import Pattern

_OF_NODES = Pattern(
    r"(container\.apparmor\.security\.beta\.kubernetes\.io"
    r"|((container\.)?seccomp\.)?security\.alpha\.kubernetes\.io"
    r"|([^/]+\.)?(cdi\.k8s\.io|nri\.io|noderesource\.dev|containerd\.io|cri-?o\.io|devices\.gke\.io)"
    r"|kubernetes\.io/config\.|scheduler\.alpha\.kubernetes\.io/(tolerations|critical-pod)|io\.kubernetes\.cri"
    r"|(io\.(containerd|katacontainers|podman|crun)|run\.oci|org\.(systemd|criu)|dev\.gvisor)[./]"
    # Which devices a pod was given: schedulers write it there, and agents of nodes believe it.
    r"|([^/]+\.)?(4pd|elasticgpu)\.io/|ALIYUN_COM_|scheduler\.framework\.gpushare|gas-"
    r"|tencent\.com/(predicate|gpu|vcuda)|huawei\.com/(Ascend|npu|kltDev)|ascend\.kubectl\."
    r"|([^/]+\.)?volcano\.sh/([^/]*vgpu|devices|gpu-index|predicate|bind)"
    r"|scheduling\.koordinator\.sh/(device-allocated|resource-status)"
    r"|(?:predicate-time|cambricon|run\.ai/reserve)"
    # On virtual nodes, which are containers of a cloud: as whom and in which network they run.
    r"|microsoft\.containerinstance\.)",
    re.ASCII | re.IGNORECASE,
)
# Injectors write values into YAML templates: whatever could end a value there is none.
_PLAIN = Pattern(r"[\w.,:;/*+@=% -]{0,1024}", re.ASCII)
_NO = Pattern(r"(?i:false|no|off|disabled)")
# Of Istio's settings of a proxy, written as a map, those that say when it starts and ends.
_PROXY_CONFIG = Pattern(
    r"\s*+\{?+(?:[\s,]*+\"?+(?:holdApplicationUntilProxyStarts|concurrency|drainDuration"
    r"|terminationDrainDuration|parentShutdownDuration)\"?+ ?:[ \t]*+\"?+[\w.]{1,32}+\"?+)*+"
    r"\s*+\}?+\s*+",
    re.ASCII,
)


class _Injector(NamedTuple):
    """What of a domain is allowed: keys, those of labels alone, and those whose value says no."""

    keys: str = ""  # a pattern
    denials: str = ""
    labels: str = ""


_INJECTORS = {
    "istio.io": _Injector(
        keys=r"(traffic\.sidecar|readiness\.status\.sidecar|status\.sidecar|prometheus|networking"
        r"|galley)\.istio\.io/.+"
        r"|sidecar\.istio\.io/(inject|nativeSidecar|rewriteAppHTTPProbers|extraStatTags"
        r"|proxy(CPU|Memory)(Limit)?|(agentL|componentL|l)ogLevel|statsInclusion(Pre|Suf)fixes)"
        r"|ambient\.istio\.io/(bypass-inbound-capture|dns-capture)"
        r"|istio\.io/reroute-virtual-interfaces",
        # Which of the control planes injects, and names by which it is shown.
        labels=r"istio\.io/(rev|dataplane-mode|use-waypoint(-namespace)?)|service\.istio\.io/.+"
        r"|security\.istio\.io/tlsMode",
    ),
    "linkerd.io": _Injector(
        keys=r"linkerd\.io/inject|config\.alpha\.linkerd\.io/proxy-wait-before-exit-seconds"
        r"|config\.linkerd\.io/(skip-(in|out)bound-ports|skip-subnets|opaque-ports|proxy-await"
        r"|proxy-(cpu|memory|ephemeral-storage)-(request|limit)|proxy-log-(level|format)"
        r"|default-inbound-policy|pod-inbound-ports|shutdown-grace-period"
        r"|proxy-(in|out)bound-[a-z-]*timeout)",
    ),
    "kuma.io": _Injector(
        keys=r"kuma\.io/(sidecar-injection|envoy-log-level|sidecar-drain-time|virtual-probes"
        r"|wait-for-dataplane-ready|direct-access-services)"
        r"|traffic\.kuma\.io/(ex|in)clude-(in|out)bound-[a-z-]+|prometheus\.metrics\.kuma\.io/.+",
    ),
    "consul.hashicorp.com": _Injector(
        keys=r"consul\.hashicorp\.com/(transparent-proxy-exclude-[a-z-]+"
        r"|sidecar-proxy-(cpu|memory)-(request|limit))",
        denials=r"consul\.hashicorp\.com/(connect-inject|transparent-proxy)",
    ),
    "openservicemesh.io": _Injector(
        keys=r"openservicemesh\.io/(sidecar-injection|metrics"
        r"|(in|out)bound-(port|ip-range)-(ex|in)clusion-list)",
    ),
    "appmesh.k8s.aws": _Injector(denials=r"appmesh\.k8s\.aws/sidecarInjectorWebhook"),
    # They act for the pod's service account, of which an engine has no token.
    "akeyless": _Injector(denials=r"akeyless/enabled"),
    "delinea.com": _Injector(),
    "keeper.security": _Injector(denials=r"keeper\.security/inject"),
    "secrets.k8s.aws": _Injector(denials=r"secrets\.k8s\.aws/sidecarInjectorWebhook"),
    "thycotic.com": _Injector(),
    "vault.hashicorp.com": _Injector(denials=r"vault\.hashicorp\.com/agent-inject"),
    "openbao.org": _Injector(denials=r"openbao\.org/agent-inject"),
    "banzaicloud.io": _Injector(denials=r"vault\.security\.banzaicloud\.io/mutate"),
    "bank-vaults.io": _Injector(),
    "conjur.org": _Injector(denials=r"conjur\.org/inject"),
    "1password.io": _Injector(),
    "infisical.com": _Injector(),
    "dapr.io": _Injector(denials=r"dapr\.io/enabled"),
    # They change the engine: its command, its environment, what Python loads.
    "opentelemetry.io": _Injector(
        denials=r"(instrumentation|sidecar)\.opentelemetry\.io/inject(-[a-z]+)?"
    ),
    "admission.datadoghq.com": _Injector(denials=r"admission\.datadoghq\.com/enabled"),
    "agent.datadoghq.com": _Injector(),
    "cloudwatch.aws.amazon.com": _Injector(),
    "co.elastic.apm": _Injector(),
    "contrastsecurity.com": _Injector(),
    "dynatrace.com": _Injector(denials=r"[a-z-]+\.dynatrace\.com/inject"),
    "newrelic.com": _Injector(),
    "odigos.io": _Injector(),
    "instana-autotrace": _Injector(denials="instana-autotrace"),
    "lumigo.auto-trace": _Injector(denials=r"lumigo\.auto-trace"),
    "telegraf.influxdata.com": _Injector(),
    "agent.signalfx.com": _Injector(),  # an agent with Secrets of its own
    "jaegertracing.io": _Injector(denials=r"sidecar\.jaegertracing\.io/inject"),
    "k8tz.io": _Injector(denials=r"k8tz\.io/inject"),
    "sidecar-injector.morven.me": _Injector(),
    "injector.tumblr.com": _Injector(),
    "expediagroup.com": _Injector(),
    "greymatter.io": _Injector(),
    "nsm.nginx.com": _Injector(denials=r"injector\.nsm\.nginx\.com/auto-inject"),
    "networkservicemesh.io": _Injector(),
    # Backups run commands in pods, and a restore puts containers before those of the pod; which
    # volumes they copy is a pod's own word.
    "velero.io": _Injector(
        keys=r"backup\.velero\.io/backup-volumes(-excludes)?"
        r"|velero\.io/(exclude-from-backup|(backup|restore|schedule)-name)",
    ),
    "ark.heptio.com": _Injector(),  # Velero's name of before
    "k8up.io": _Injector(denials=r"k8up\.io/backup"),
    "k8up.syn.tools": _Injector(),
    # They say as whom a pod is known to a cloud, under which constraints it was taken, and which
    # devices and addresses it was given: what other programs write there, and node agents believe.
    "aadpodidbinding": _Injector(),
    "iam.amazonaws.com": _Injector(),
    "iam.gke.io": _Injector(),
    "pod-identity.alibabacloud.com": _Injector(),
    "spiffe.io": _Injector(denials=r"spiffe\.io/spire-managed-identity"),
    "spire-workload": _Injector(),
    "vpc.amazonaws.com": _Injector(),
    "openshift.io": _Injector(keys=r"app\.openshift\.io/.+"),  # how it is drawn
    "ovn.org": _Injector(),
    "azure.workload.identity": _Injector(
        denials=r"azure\.workload\.identity/(use|inject-proxy-sidecar)"
    ),
    # By them a pod is taken out of what is enforced upon all.
    "admission.stackrox.io": _Injector(),
    "kubearmor-policy": _Injector(),
    # They say which network a pod is in and under which address it is known there, that of another
    # too, and what it may send in the name of others.
    "ovn.kubernetes.io": _Injector(keys=r"ovn\.kubernetes\.io/((in|e)gress_rate|priority)"),
    "projectcalico.org": _Injector(keys=r"qos\.projectcalico\.org/.+"),
    "ipam.cilium.io": _Injector(),
    "cni.cilium.io": _Injector(),
    "ipam.antrea.io": _Injector(),
    "spidernet.io": _Injector(),
    "v1.multus-cni.io": _Injector(),
    "danm.k8s.io": _Injector(),
    "k8s.aliyun.com": _Injector(keys=r"k8s\.aliyun\.com/(in|e)gress-bandwidth"),
    "cloud.tencent.com": _Injector(),
    "huaweicloud.com": _Injector(),
    "hami.io": _Injector(keys=r"hami\.io/(node|gpu)-scheduler-policy"),
}
_PATTERNS = {
    domain: tuple(Pattern(each or r"(?!)") for each in injector)
    for domain, injector in _INJECTORS.items()
}
_LONGEST_KEY = 253 + 1 + 63  # that Kubernetes takes

_EXPECTED = "{} that leave a pod's rights as they are"
_OF_NODE = "remove it: the node would give the engine what its pod does not ask for"
_OF_INJECTOR = (
    "remove it: what acts upon it in the cluster has other rights than a pool gives; who runs that "
    "may set it for the namespace"
)
_OF_AGENT = (
    "ask for metrics and logs of this pod alone, without variables, secrets, tokens or files of "
    "the agent; who runs it may configure it for engines"
)
_OF_VALUE = "write a plain value: it is put into the pod that Kubernetes gets as it stands"


def problems(
    labels: Mapping[str, str], annotations: Mapping[str, str], where: str
) -> Iterator[errors.Problem]:
    """Labels and annotations by which a pod would get more than it asks for."""
    for kind, written in (("labels", labels), ("annotations", annotations)):
        for key, value in sorted(written.items()):
            advice = _advice(key, value, kind) if len(key) <= _LONGEST_KEY else ""
            if advice:
                yield _refused(f"{where}.{kind}.{key}", key, kind, advice)


def _refused(path: str, key: str, kind: str, advice: str) -> errors.Problem:
    return errors.POD_TEMPLATE(path, found=key, expected=_EXPECTED.format(kind), advice=advice)


def _advice(key: str, value: str, kind: str) -> str:
    """What to do about a label or an annotation; nothing if it is allowed."""
    if _OF_NODES.match(key):
        return _OF_NODE
    if kind == "annotations" and agent_annotations.asks_for_more(key, value):
        return _OF_AGENT
    domain = _domain(key)
    if not domain:
        return ""
    if key == "proxy.istio.io/config":
        is_known = len(value) <= 1024 and _PROXY_CONFIG.fullmatch(value)
        return "" if is_known else _OF_INJECTOR
    keys, denials, labels = _PATTERNS[domain]
    if denials.fullmatch(key):
        return "" if _NO.fullmatch(value) else _OF_INJECTOR
    if not keys.fullmatch(key) and not (kind == "labels" and labels.fullmatch(key)):
        return _OF_INJECTOR
    return "" if _PLAIN.fullmatch(value) else _OF_VALUE


def _domain(key: str) -> str:
    """The injector's domain that this key is of, if it is of one."""
    prefix = key.lower().partition("/")[0]  # some are keys themselves
    while prefix:
        if prefix in _PATTERNS:
            return prefix
        prefix = prefix.partition(".")[2]
    return ""
