"""The policies as Kubernetes objects, and as text that is always the same."""

import yaml

from generators.policies import expressions, lease, objects, words
from generators.policies.objects import Json
from sglang_operator.api import names
from sglang_operator.engine import schema

VERSIONS = tuple(map(str, schema.KNOWN))
_HEADER = """\
# What SGLang {version} would not start with is refused by the API server: keys of strategy_config
# that are no arguments of this version, and those that the operator sets itself.
# Made by `make policies` from the operator's argument schemas; do not edit.
"""
_KUSTOMIZATION = """\
# Optional: what the operator would refuse for the names of arguments, the API server refuses, one
# policy for each SGLang version; and that a Lease of weights goes while something is under way.
# kubectl apply --server-side -k manifests/policies
# Made by `make policies`; do not edit.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
{resources}
"""


def files() -> dict[str, str]:
    """Every file of the folder, by its name."""
    made = {file_name(version): _document(version) for version in VERSIONS}
    made[lease.FILE] = lease.HEADER + _yaml([lease.policy(), objects.binding(lease.NAME)])
    resources = "\n".join(f"  - {name}" for name in made)
    return {**made, "kustomization.yaml": _KUSTOMIZATION.format(resources=resources)}


def file_name(version: str) -> str:
    """The file of one version's policy."""
    return f"sglang-{version}.yaml"


def policy_name(version: str) -> str:
    """The name of one version's policy, and of its binding."""
    return f"sglang-operator-arguments-{version}"


def _document(version: str) -> str:
    both = [policy(version), objects.binding(policy_name(version))]
    return _HEADER.format(version=version) + _yaml(both)


def policy(version: str) -> Json:
    """One version's policy.

    It fails open.  It only says earlier what the operator says anyway, within a second and before
    any pod exists; so an expression that cannot be evaluated, such as one that costs too much on
    an object with thousands of keys, must not keep a pool from being made.
    """
    known = words.names(version)
    assert all(map(expressions.is_name, known.similar))
    conditions = {
        # An object that an upgrade made invalid can still be labelled, and deleted.
        "spec-changed": "request.operation == 'CREATE' || object.spec != oldObject.spec",
        "version": expressions.is_version(version),
    }
    return objects.policy(
        policy_name(version),
        matchConstraints={"resourceRules": [_RULE]},
        matchConditions=_named(conditions),
        variables=_named(expressions.variables(known)),
        validations=expressions.validations(known),
    )


_RULE = {
    "apiGroups": [names.GROUP],
    "apiVersions": [names.VERSION],
    "operations": ["CREATE", "UPDATE"],
    "resources": [names.PLURAL],
}


def _named(found: dict[str, str]) -> list[Json]:
    return [{"name": name, "expression": expression} for name, expression in found.items()]


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines as they are."""


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _string)


def _yaml(objects: list[Json]) -> str:
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
