"""Sessions of IAM roles, and what such a session may do."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedded.emulator.inner import account_and_region, app, iam, iam_actions, iam_evaluator, sts

TASKS_SERVICE = "ecs-tasks.amazonaws.com"


@dataclass(frozen=True)
class RoleSession:
    """Temporary credentials of a role, valid until the emulator ends."""

    access_key: str
    secret_key: str
    token: str

    def environment(self) -> dict[str, str]:
        # AWS hands these out by a local HTTP endpoint and renews them; here they do not expire.
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.token,
        }


def assume(role_arn: str, session_name: str) -> RoleSession:
    """A new session of the role, as the ECS agent would get one for a task."""
    account = role_arn.split(":")[4]
    role_name = role_arn.rsplit("/", 1)[-1]
    session = RoleSession(f"ASIA{secrets.token_hex(8).upper()}", secrets.token_hex(20), secrets.token_hex(64))
    sts.register_session(
        session.access_key,
        {
            "Arn": f"arn:aws:sts::{account}:assumed-role/{role_name}/{session_name}",
            "UserId": f"{role_name}:{session_name}",
            "AccountId": account,
            "SecretAccessKey": session.secret_key,
            "SessionToken": session.token,
        },
    )
    return session


def denial(session: RoleSession, action: str, resource: str, conditions: Mapping[str, str] | None = None) -> str | None:
    """AWS's sentence why this session may not do that, or None when it may (or when IAM is not enforced)."""
    if not app.AUTH:
        return None
    account, region = account_and_region()
    principal = iam_evaluator.resolve_principal(session.access_key, account)
    if isinstance(principal, iam_evaluator.AuthError):
        return str(principal.message)
    context = iam_evaluator.EvalContext(
        principal_arn=principal.arn,
        principal_type=principal.type,
        principal_account=principal.account,
        action=action,
        resource_arn=resource,
        region=region,
        secure_transport=True,
        service_context={key.lower(): value for key, value in (conditions or {}).items()},
        principal_keys=principal.keys,
    )
    result = iam_evaluator.evaluate(context, principal.policies, *principal.limits)
    service = action.split(":", 1)[0]
    policy = iam_evaluator._resource_policy(service, resource)
    if policy is not None:
        result = iam_evaluator.combine_resource_policy(
            result, context, *policy, required=service == "kms", limits=principal.limits
        )
    if result.decision == "Allow":
        return None
    return str(iam_actions.identity_denial_message(action, principal.arn, resource, result.decision == "Deny"))


def trusts_tasks(role_arn: str, source_arn: str) -> bool:
    """Whether ECS tasks may assume the role: its trust policy names their service, and its conditions hold."""
    account, region = account_and_region()
    role = iam._roles.get_scoped(account, None, role_arn.rsplit("/", 1)[-1])
    if role is None:
        return False
    if not app.AUTH:
        return True
    document: Any = role.get("AssumeRolePolicyDocument") or {}
    if isinstance(document, str):
        document = json.loads(document)
    statements = document.get("Statement", [])
    # MiniStack lets the account's root through for any service principal, so the service is matched here.
    relevant = [s for s in ([statements] if isinstance(statements, dict) else statements) if _names_tasks(s)]
    context = iam_evaluator.EvalContext(
        principal_arn=f"arn:aws:iam::{account}:root",
        principal_type="Root",
        principal_account=account,
        action="sts:AssumeRole",
        resource_arn="*",
        region=region,
        service_context={"aws:sourceaccount": account, "aws:sourcearn": source_arn},
    )
    return bool(iam_evaluator.evaluate_trust_policy({"Statement": relevant}, context.principal_arn, context))


def _names_tasks(statement: dict[str, Any]) -> bool:
    principal = statement.get("Principal")
    if principal == "*":
        return True
    services = principal.get("Service", []) if isinstance(principal, dict) else []
    return TASKS_SERVICE in ([services] if isinstance(services, str) else services)
