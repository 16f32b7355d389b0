"""How a finding of the policy checks is accepted: at its own resource, by its own id, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aws_cdk as cdk
from constructs import IConstruct


def accept(scope: IConstruct, findings: Mapping[str, str]) -> None:
    """Accept findings at one resource.

    :param scope: The resource, or the construct whose resource it is.
    :param findings: Reasons by what they are about. A finding is rule and detail as the pack prints them, such as
        ``AwsSolutions-IAM5[Resource::*]``. A reason says why it is as it should be, in sentences: docs/findings.md
        shows it.
    """
    target = scope.node.default_child or scope
    acknowledged = [cdk.Acknowledgment(id=finding, reason=reason) for finding, reason in findings.items()]
    cdk.Validations.of(target).acknowledge(*acknowledged)


def resources(scope: IConstruct, resource_type: str) -> Sequence[IConstruct]:
    """Every resource of a type, in one call: to visit each construct from Python takes a second."""
    return cdk.Mixins.of(scope, cdk.ConstructSelector.resources_of_type(resource_type)).selected_constructs
