"""What MiniStack's CloudFormation drops from AWS::IAM::Role: its permissions boundary, which its IAM enforces."""

from embedded.emulator.cloudformation.handlers import checked, extend
from embedded.emulator.inner import Json, iam


def install() -> None:
    extend("AWS::IAM::Role", _permissions_boundary)


def _permissions_boundary(name: str, properties: Json) -> Json:
    boundary = properties.get("PermissionsBoundary")
    if boundary:
        request = {"RoleName": [name], "PermissionsBoundary": [str(boundary)]}
        checked(iam._put_role_permissions_boundary(request), "PutRolePermissionsBoundary")
    else:
        iam._roles[name]["PermissionsBoundary"] = None
    return {}
