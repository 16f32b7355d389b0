"""Secrets that the ECS agent puts into a task's environment, and what its role needs for it."""

from __future__ import annotations

from typing import Final

import jsii
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam

#: What the agent calls. Source: "Amazon ECS task execution IAM role", Amazon ECS Developer Guide.
_AGENT_ACTIONS: Final = frozenset({"kms:Decrypt", "secretsmanager:GetSecretValue", "ssm:GetParameters"})


def grant_injection(secret: ecs.Secret, grantee: iam.IGrantable) -> iam.Grant:
    """Grant the ECS agent reading a secret. ``secret.grant_read`` by itself would also grant describing it and, of a
    parameter, reading every earlier value."""
    return secret.grant_read(_Agent(grantee.grant_principal))


@jsii.implements(iam.IPrincipal)
class _Agent:
    """A principal that takes of a grant only what the agent calls."""

    def __init__(self, principal: iam.IPrincipal) -> None:
        self._principal = principal

    @property
    def grant_principal(self) -> iam.IPrincipal:
        return self

    @property
    def assume_role_action(self) -> str:
        return self._principal.assume_role_action

    @property
    def policy_fragment(self) -> iam.PrincipalPolicyFragment:
        return self._principal.policy_fragment

    @property
    def principal_account(self) -> str | None:
        return self._principal.principal_account

    def add_to_principal_policy(self, statement: iam.PolicyStatement) -> iam.AddToPrincipalPolicyResult:
        needed = [action for action in statement.actions if action in _AGENT_ACTIONS]
        return self._principal.add_to_principal_policy(statement.copy(actions=needed))
