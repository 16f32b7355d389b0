"""The one door to MiniStack: its modules, as ``Any``, because they carry no types.

MiniStack (MIT license) does nearly all the work. Everything that this package touches in
it by a private name is written down in ``contract.py``.
"""

from typing import Any

import ministack.app as _app
from ministack.core import arn as _arn
from ministack.core import concurrency as _concurrency
from ministack.core import iam_actions as _iam_actions
from ministack.core import iam_evaluator as _iam_evaluator
from ministack.core import responses as _responses
from ministack.core import router as _router
from ministack.services import autoscaling as _autoscaling
from ministack.services import cloudwatch as _cloudwatch
from ministack.services import cloudwatch_logs as _logs
from ministack.services import ec2 as _ec2
from ministack.services import ecr as _ecr
from ministack.services import ecs as _ecs
from ministack.services import eventbridge as _eventbridge
from ministack.services import iam as _iam
from ministack.services import kms as _kms
from ministack.services import lambda_svc as _lambda_svc
from ministack.services import rds as _rds
from ministack.services import s3 as _s3
from ministack.services import secretsmanager as _secretsmanager
from ministack.services import servicediscovery as _servicediscovery
from ministack.services import sqs as _sqs
from ministack.services import ssm as _ssm
from ministack.services import sts as _sts
from ministack.services.cloudformation import provisioners as _provisioners
from ministack.services.cloudformation import stacks as _stacks

app: Any = _app
arn: Any = _arn
autoscaling: Any = _autoscaling
cloudwatch: Any = _cloudwatch
concurrency: Any = _concurrency
iam_actions: Any = _iam_actions
iam_evaluator: Any = _iam_evaluator
responses: Any = _responses
router: Any = _router
logs: Any = _logs
ec2: Any = _ec2
ecr: Any = _ecr
ecs: Any = _ecs
eventbridge: Any = _eventbridge
iam: Any = _iam
kms: Any = _kms
lambda_svc: Any = _lambda_svc
rds: Any = _rds
s3: Any = _s3
secretsmanager: Any = _secretsmanager
sqs: Any = _sqs
servicediscovery: Any = _servicediscovery
ssm: Any = _ssm
sts: Any = _sts
provisioners: Any = _provisioners
stacks: Any = _stacks

Json = dict[str, Any]
Response = tuple[int, dict[str, str], bytes | str]
"""Status, headers and body, as MiniStack's handlers return them."""


def account_and_region() -> tuple[str, str]:
    """The account and region that this request, or this task's thread, acts in."""
    return str(responses.get_account_id()), str(responses.get_region())


def arn_of(service: str, resource: str) -> str:
    account, region = account_and_region()
    return f"arn:aws:{service}:{region}:{account}:{resource}"


def reply(data: Json) -> Response:
    answer: Response = responses.json_response(data)
    return answer


def refuse(code: str, message: str) -> Response:
    answer: Response = responses.error_response_json(code, message, 400)
    return answer
