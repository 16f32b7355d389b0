"""Whether a policy allows a request: asked of @cloud-copilot/iam-simulate, which knows every operator of conditions.

It also refuses questions that AWS would never ask: an action that does not exist, a resource of a type that the action
does not have, a condition key that does not go with it. So a test cannot be right about a request that is wrong.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.permissions.policies import ACCOUNT, Statement

_SCRIPT: Final = Path(__file__).with_name("evaluate.mjs")
#: A key is out of reach of IAM unless its own policy says this, as that of the CDK's ``Key`` does.
_LEFT_TO_IAM: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ],
}


class WrongQuestionError(Exception):
    """AWS asks IAM no such thing; the message says why."""


@dataclass(frozen=True)
class Request:
    """What AWS asks IAM about one call.

    :param context: The condition keys that come with it.
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, hash=False)


def allowed(questions: Sequence[tuple[Sequence[Statement], Request]]) -> list[bool]:
    """Whether the statements allow the request, for each question; all of them are asked at once.

    :raises WrongQuestionError: A request that AWS does not make.
    """
    policies: dict[str, int] = {}
    asked: list[dict[str, Any]] = []
    for statements, request in questions:
        policy = json.dumps([statement.document() for statement in statements])
        asked.append(
            {
                "policy": policies.setdefault(policy, len(policies)),
                "principal": f"arn:aws:sts::{ACCOUNT}:assumed-role/Role/session",
                "action": request.action,
                "resource": request.resource,
                "context": dict(request.context),
                "resourcePolicy": _LEFT_TO_IAM if request.action.startswith("kms:") else None,
            }
        )
    given = {"account": ACCOUNT, "policies": [json.loads(policy) for policy in policies], "questions": asked}
    done = subprocess.run(["node", str(_SCRIPT)], input=json.dumps(given), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"@cloud-copilot/iam-simulate failed (is node_modules set up? make does it): {done.stderr}")
    answers = json.loads(done.stdout)
    for (_, request), answer in zip(questions, answers, strict=True):
        if answer["errors"] or answer["ignored"]:
            wrong = answer["errors"] or f"condition keys that do not go with it: {', '.join(answer['ignored'])}"
            raise WrongQuestionError(f"{request}: {wrong}")
    return [answer["result"] == "Allowed" for answer in answers]
