"""From a client's method to the operations that it calls, and from an operation to the IAM actions that it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

import botocore.session
from botocore import xform_name
from botocore.exceptions import UnknownServiceError

from tools.permissions.reference import UnknownActionError, actions_documented_as, find_action

#: Methods that boto3 adds to the client of S3: the modules of s3transfer whose calls they make.
TRANSFERS: Final[Mapping[str, tuple[str, ...]]] = {
    "upload_file": ("s3transfer.upload", "s3transfer.tasks"),
    "upload_fileobj": ("s3transfer.upload", "s3transfer.tasks"),
    "download_file": ("s3transfer.download",),
    "download_fileobj": ("s3transfer.download",),
}

#: Operations of S3 that have no action of their own, and that the Service Authorization Reference does not name.
#: Source: "Required permissions for Amazon S3 API operations", Amazon S3 User Guide.
_ACTIONS_OF_S3: Final = {
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}

_SESSION: Final = botocore.session.get_session()


@cache
def methods(service: str) -> Mapping[str, str]:
    """The methods of a service's client, each with the operation that it calls; transfers of S3 with none.

    :raises ValueError: botocore knows no such service.
    """
    try:
        model = _SESSION.get_service_model(service)
    except UnknownServiceError as error:
        raise ValueError(f"a client of {service!r}, which is no service that botocore knows") from error
    found = {xform_name(operation): operation for operation in model.operation_names}
    return {**found, **dict.fromkeys(TRANSFERS, "")} if service == "s3" else found


@cache
def paginators(service: str) -> Mapping[str, tuple[str, ...]]:
    """The paginators of a service, each with the method that it calls."""
    if service not in _SESSION.get_available_services():
        return {}
    model = _SESSION.get_component("data_loader").load_service_model(service, "paginators-1")
    return {xform_name(name): (xform_name(name),) for name in model["pagination"]}


@cache
def waiters(service: str) -> Mapping[str, tuple[str, ...]]:
    """The waiters of a service, each with the method that it calls."""
    try:
        model = _SESSION.get_waiter_model(service)
    except Exception:  # a service without waiters has no such file
        return {}
    return {xform_name(name): (xform_name(model.get_waiter(name).operation),) for name in model.waiter_names}


@cache
def operations(service: str, method: str) -> frozenset[str]:
    """The operations that a method of a client calls: one, or those of a transfer."""
    if service == "s3" and method in TRANSFERS:
        from tools.permissions.source_calls import modules, source_calls

        calls = source_calls(modules(TRANSFERS[method], within=()), services=("s3",))
        return frozenset(methods("s3")[call.method] for call in calls)
    return frozenset({methods(service)[method]})


@cache
def action(service: str, operation: str) -> str:
    """The IAM action that an operation takes, from the Service Authorization Reference.

    Most are called as the operation is; of some it says only which operation they are documented at.

    :raises UnknownActionError: The reference knows none, or several.
    """
    prefix = str(_SESSION.get_service_model(service).signing_name)
    if prefix == "s3" and operation in _ACTIONS_OF_S3:
        return find_action(_ACTIONS_OF_S3[operation]).name
    try:
        return find_action(f"{prefix}:{operation}").name
    except UnknownActionError:
        documented = actions_documented_as(prefix, operation)
        if len(documented) == 1:
            return documented[0]
        raise UnknownActionError(
            f"no action for {prefix}:{operation} in the Service Authorization Reference; it names {documented}"
        ) from None


def actions(service: str, method: str) -> frozenset[str]:
    """The IAM actions that a method of a client takes."""
    return frozenset(action(service, operation) for operation in operations(service, method))


_AWS_CLI: Final = re.compile(r"\baws ([a-z0-9-]+) ([a-z0-9-]+)")
#: Commands of the AWS CLI that are none of the API's: the method of boto3 that does the same.
_CLI_COMMANDS: Final = {("s3", "cp"): "download_file"}


def cli_calls(script: str) -> set[tuple[str, str]]:
    """The calls of the AWS CLI in a shell script, as service and method of its client.

    :raises ValueError: A command that is neither an operation nor known here.
    """
    found = set()
    for service, command in _AWS_CLI.findall(script):
        method = _CLI_COMMANDS.get((service, command), command.replace("-", "_"))
        if method not in methods(service):
            raise ValueError(f"aws {service} {command} is no operation; say in operations.py what it calls")
        found.add((service, method))
    return found
