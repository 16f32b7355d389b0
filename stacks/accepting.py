"""How a finding of the policy checks is accepted: at its own resource, by its own id, with its reason."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from constructs import IConstruct


def accept(scope: IConstruct, finding: str, reason: str) -> None:
    """Accept one finding.

    :param scope: The resource, or the construct whose resource it is.
    :param finding: Rule and detail as the pack prints them, such as ``AwsSolutions-IAM5[Resource::*]``.
    :param reason: Why it is as it should be, in sentences: docs/findings.md shows it.
    """
    target = scope.node.default_child or scope
    cdk.Validations.of(target).acknowledge(cdk.Acknowledgment(id=finding, reason=reason))


def resources(scope: IConstruct, resource_type: str) -> Sequence[IConstruct]:
    """Every resource of a type, in one call: to visit each construct from Python takes a second."""
    return cdk.Mixins.of(scope, cdk.ConstructSelector.resources_of_type(resource_type)).selected_constructs
