"""``sglang-operator``: flags to settings, then the process."""

import argparse
import asyncio
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from sglang_operator import __version__
from sglang_operator.api import (
    device_resources,
    host_folders,
    names,
    pod_container,
    pod_volumes,
    syntax,
)
from sglang_operator.controller import logs, process
from sglang_operator.controller.settings import Settings
from sglang_operator.engine import arguments as engine_arguments
from sglang_operator.scheduling import gangs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sglang-operator", description="Runs pools of SGLang engines for RL trainers."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "-n",
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="serve this namespace only; may be repeated (default: the whole cluster)",
    )
    parser.add_argument(
        "--no-nodes", action="store_true", help="do not watch nodes, even where it is allowed"
    )
    parser.add_argument(
        "--no-engine-requests",
        action="store_true",
        help="send engines no requests: no Versioned gate opens, no hang is detected, and what "
        "engines really run with is not recorded",
    )
    parser.add_argument(
        device_resources.FLAG,
        action="append",
        default=[],
        type=_resource,
        metavar="NAME",
        help="a resource that engines may ask for though it is not known to count GPUs, or gives "
        "access to its node; may be repeated",
    )
    parser.add_argument(
        host_folders.FLAG,
        action="append",
        default=[],
        type=_folder,
        metavar="PATH",
        help="a folder of nodes that engines may be shown, as it stands and whole; once one is "
        "named, no other is shown; may be repeated",
    )
    parser.add_argument(
        gangs.FLAG,
        action="append",
        default=[],
        choices=[each.name for each in gangs.GROUPED],
        help="let pools choose this gang, whose scheduler reads objects of its own: these are made "
        "and watched, for which the operator needs the rights; may be repeated",
    )
    parser.add_argument(
        "--lease-namespace",
        default=os.environ.get("POD_NAMESPACE", ""),
        metavar="NAME",
        help="elect one writer among the replicas by a Lease in this namespace "
        "(default: $POD_NAMESPACE; without either there is no election)",
    )
    parser.add_argument(
        "--lease-name",
        type=_lease_name,
        default=os.environ.get("LEASE_NAME") or names.LEASE_NAME,
        metavar="NAME",
        help="the name of that Lease: replicas have one name, several operators in one namespace "
        f"one each (default: $LEASE_NAME; without it {names.LEASE_NAME})",
    )
    parser.add_argument(
        "--pod-address",
        default=os.environ.get("POD_IP", ""),
        metavar="ADDRESS",
        help="an address as pods have it first in this cluster: engines listen on all addresses of "
        "its family (default: $POD_IP; without either it is IPv4)",
    )
    parser.add_argument(
        "--kubeconfig", type=Path, help="default: KUBECONFIG, else the pod's own credentials"
    )
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument(
        "--health-address", metavar="HOST:PORT", help="serve /healthz and /readyz here"
    )
    parser.add_argument(
        "--metrics-address", metavar="HOST:PORT", help="serve /metrics for Prometheus here"
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    parser.add_argument(
        "--log-format",
        default=logs.TEXT,
        choices=[logs.TEXT, logs.JSON],
        help="json: one object a line, with the pool that it is about",
    )
    return parser


def _resource(text: str) -> str:
    if not pod_container.is_counted(text):
        expected = f"found {text!r}, expected a resource that counts devices, as nodes have it"
        raise argparse.ArgumentTypeError(expected)
    return text


def _folder(text: str) -> str:
    path = pod_volumes.place(text)
    if not text.startswith("/") or ".." in text.split("/") or host_folders.refused(path):
        reason = host_folders.refused(path) or 'an absolute path without ".."'
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a folder for data: {reason}")
    return path


def _lease_name(text: str) -> str:
    if not syntax.is_subdomain(text):
        expected = f"found {text!r}, expected {syntax.SUBDOMAIN}, as names of Leases are"
        raise argparse.ArgumentTypeError(expected)
    return text


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The settings that these flags ask for."""
    return Settings(
        namespaces=tuple(arguments.namespace),
        watch_nodes=not arguments.no_nodes,
        engine_host=engine_arguments.any_address(arguments.pod_address),
        allowed_resources=tuple(arguments.allow_resource),
        host_folders=tuple(arguments.host_folder),
        gangs=tuple(arguments.gang),
        ask_engines=not arguments.no_engine_requests,
        kubeconfig=arguments.kubeconfig,
        context=arguments.context,
        health_address=arguments.health_address,
        metrics_address=arguments.metrics_address,
        # A restarted container is another candidate: what its predecessor sent may still arrive.
        identity=f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        lease_namespace=arguments.lease_namespace,
        lease_name=arguments.lease_name,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the operator; the exit code."""
    arguments = _parser().parse_args(argv)
    logs.setup(arguments.log_level, arguments.log_format)
    return asyncio.run(process.serve(settings_from(arguments)))


if __name__ == "__main__":
    sys.exit(main())
