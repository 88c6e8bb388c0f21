"""Keys, certificates, tokens and kubeconfig files of one plane, made without any program."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import ipaddress
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sglang_operator.testing import errors

VALID_DAYS = 30
SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
SERVER_ADDRESSES = ("127.0.0.1", "10.96.0.1", "10.210.0.1")  # the last where nodes are real

# user name → groups.  KWOK stands in for every kubelet, hence its rights.
USERS: Mapping[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "kwok": ("system:masters",),
    "system:coredns": (),
    "system:kube-proxy": (),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Credentials:
    """Where one plane's secrets lie."""

    ca: Path
    ca_key: Path
    server_cert: Path
    server_key: Path
    kubelet_client_cert: Path  # by which the API server is known to kubelets
    kubelet_client_key: Path
    account_key: Path
    account_public_key: Path
    token_file: Path
    tokens: Mapping[str, str]


def create(folder: Path) -> Credentials:
    """Write a certificate authority, a serving certificate, the ServiceAccount key and tokens."""
    folder.mkdir(mode=0o700)
    made = Credentials(
        ca=folder / "ca.crt",
        ca_key=folder / "ca.key",
        server_cert=folder / "server.crt",
        server_key=folder / "server.key",
        kubelet_client_cert=folder / "kubelet-client.crt",
        kubelet_client_key=folder / "kubelet-client.key",
        account_key=folder / "service-account.key",
        account_public_key=folder / "service-account.pub",
        token_file=folder / "tokens.csv",
        tokens={user: secrets.token_urlsafe(24) for user in USERS},
    )
    ca_key, server_key, account_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca_name = _name("sglang-operator test control plane")
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key)
    server = _certificate(
        _name("kube-apiserver"),
        ca_name,
        server_key.public_key(),
        ca_key,
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
    )
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.ca_key.write_bytes(_pem(ca_key))
    made.server_cert.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    made.server_key.write_bytes(_pem(server_key))
    made.account_key.write_bytes(_pem(account_key))
    made.account_public_key.write_bytes(
        account_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    made.token_file.write_text(token_lines(made.tokens))
    client = client_certificate(made, "kube-apiserver-kubelet-client", ["system:masters"])
    for file, content in zip(
        (made.kubelet_client_cert, made.kubelet_client_key), client, strict=True
    ):
        file.write_bytes(content)
    return made


def token_lines(tokens: Mapping[str, str]) -> str:
    """The API server's static token file: token, user, uid and, quoted, the groups."""
    lines = []
    for user, token in tokens.items():
        groups = ",".join(USERS[user])
        lines.append(f"{token},{user},{user}" + (f',"{groups}"' if groups else "") + "\n")
    return "".join(lines)


def client_certificate(
    secrets: Credentials, user: str, groups: Sequence[str] = ()
) -> tuple[bytes, bytes]:
    """A certificate, and its key, by which the API server takes a client for this user (PEM)."""
    issuer = x509.load_pem_x509_certificate(secrets.ca.read_bytes())
    signer = serialization.load_pem_private_key(secrets.ca_key.read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        + [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    )
    made = _certificate(
        subject, issuer.subject, key.public_key(), signer, usage=ExtendedKeyUsageOID.CLIENT_AUTH
    )
    return made.public_bytes(serialization.Encoding.PEM), _pem(key)


def write_kubeconfig(
    path: Path,
    *,
    url: str,
    ca: Path,
    namespace: str,
    token: str = "",
    client: tuple[bytes, bytes] | None = None,
) -> Path:
    """Write a kubeconfig that holds all it needs, the authority's certificate included.

    The user is known by a token, or by a certificate and its key (PEM).
    """
    user = {"token": token}
    if client is not None:
        fields = ("client-certificate-data", "client-key-data")
        user = {
            field: base64.b64encode(data).decode()
            for field, data in zip(fields, client, strict=True)
        }
    authority = base64.b64encode(ca.read_bytes()).decode()
    cluster = {"server": url, "certificate-authority-data": authority}
    context = {"cluster": "test", "user": "test", "namespace": namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": context}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1) + "\n")
    return path


def read_token(kubeconfig: Path) -> str:
    """The bearer token in a kubeconfig that this module wrote; raises KitError."""
    try:
        token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    except (OSError, ValueError, LookupError) as error:
        raise errors.KitError(f"{kubeconfig} is no kubeconfig of this kit: {error}") from error
    return str(token)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    usage: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    """Sign a key; without a usage it is an authority's own."""
    is_ca = usage is None
    now = datetime.datetime.now(datetime.UTC)
    # A strict verifier (Python 3.13 and later) also asks for the key identifiers and usages.
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if usage == ExtendedKeyUsageOID.SERVER_AUTH:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in SERVER_NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in SERVER_ADDRESSES]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
