import re

import pytest

from cdk_prefect_ecs.secret_references import check_secret_arn, check_secret_field

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prefect-AbCdEf"


@pytest.mark.parametrize(
    "arn", [ARN, ARN.replace("aws:", "aws-us-gov:", 1), ARN.replace("prefect-", "team/prefect_@=+.key-prod-")]
)
def test_complete_arn_of_a_secret(arn: str) -> None:
    check_secret_arn(arn)


@pytest.mark.parametrize(
    "arn",
    ["", "prefect", ARN.removesuffix("-AbCdEf"), f"{ARN}:field::", f"{ARN}\n", ARN.replace("secretsmanager", "ssm")],
)
def test_other_arns_are_refused(arn: str) -> None:
    with pytest.raises(ValueError, match="complete ARN, which ends in six random characters") as error:
        check_secret_arn(arn)
    assert repr(arn) in str(error.value)


def test_field() -> None:
    check_secret_field("api key")
    for field in ("", "a:b"):
        with pytest.raises(ValueError, match=re.escape(f"field {field!r} is not one that ECS can take")):
            check_secret_field(field)
