"""Rules for references to secrets that are stored elsewhere. Pure rules: imports no CDK."""

from __future__ import annotations

import re
from typing import Final

# Sources: CreateSecret, AWS Secrets Manager API Reference; "What's in a Secrets Manager secret?", AWS Secrets Manager
# User Guide, for the six characters.
_SECRET_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@-]{1,512}-[A-Za-z0-9]{6}", re.ASCII
)


def check_secret_arn(arn: str) -> None:
    """Check the ARN of a secret in Secrets Manager.

    :raises ValueError: Not a complete one.
    """
    if not _SECRET_ARN.fullmatch(arn):
        raise ValueError(
            "a secret is named by its complete ARN, which ends in six random characters, such as "
            f"arn:aws:secretsmanager:eu-west-1:123456789012:secret:prefect-AbCdEf; got {arn!r}. Field, version and "
            "stage are no part of it"
        )


def check_secret_field(field: str) -> None:
    """Check the name of a field in a JSON secret.

    :raises ValueError: Empty, or with a colon, which ECS takes for the end of it.
    """
    if not field or ":" in field:
        raise ValueError(
            f"field {field!r} is not one that ECS can take out of a secret: give the name of a field without a colon, "
            "or leave it out for the whole secret"
        )
