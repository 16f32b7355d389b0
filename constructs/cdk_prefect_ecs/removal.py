"""What becomes of data when its construct leaves the stack."""

from __future__ import annotations

import aws_cdk as cdk


def check_removal_policy(
    removal_policy: cdk.RemovalPolicy, *, auto_delete: bool, auto_delete_name: str, what: str
) -> None:
    """Check how data is removed: it takes two keys to lose it.

    :param auto_delete: Whether the data is deleted so that its holder can be.
    :param auto_delete_name: Name of that parameter.
    :param what: What would be lost, for the message.
    :raises ValueError: Deletion of the data without DESTROY, or a snapshot, which there is none of.
    """
    if auto_delete and removal_policy != cdk.RemovalPolicy.DESTROY:
        raise ValueError(
            f"{auto_delete_name} needs removal_policy DESTROY; got {removal_policy.name}: "
            f"set both to lose the {what} with the stack, or neither to keep them"
        )
    if removal_policy == cdk.RemovalPolicy.SNAPSHOT:
        raise ValueError(
            "removal_policy must be RETAIN, DESTROY or RETAIN_ON_UPDATE_OR_DELETE, as AWS makes no snapshot of it; got "
            "SNAPSHOT"
        )
