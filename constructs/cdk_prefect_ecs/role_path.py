"""One path for every role of an app."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
import jsii
from constructs import Construct, IConstruct

from cdk_prefect_ecs.arguments import checked
from cdk_prefect_ecs.settings import check_role_path

_WITH_PATH: Final = ("AWS::IAM::Role", "AWS::IAM::InstanceProfile")


class RolePath:
    """Put every role of a scope below one path, such as ``/data-platform/``: what an organisation asks for that lets a
    team create roles there and nowhere else. The CDK has this for permissions boundaries,
    ``iam.PermissionsBoundary.of(scope).apply(…)``, and for paths it has not::

        RolePath.of(stage).apply("/data-platform/")

    It holds for roles and instance profiles that the CDK makes by itself too, such as those of its custom resources,
    and for what is added to the scope later.
    """

    def __init__(self, scope: Construct) -> None:
        """Use :meth:`of`."""
        self._scope = scope

    @staticmethod
    @checked
    def of(scope: Construct) -> RolePath:
        """The path of the roles in a scope.

        :param scope: A construct, a stack or a stage. Of an app with stages in it, each stage takes a path of its own.
        """
        return RolePath(scope)

    @checked
    def apply(self, path: str) -> None:
        """Set the path when the app is synthesised. IAM cannot move a role: where a deployed role gets another path, it
        is replaced, and one with a name of its own has to be renamed or removed first.

        :param path: The path; it begins and ends with a slash.
        :raises ValueError: Not a path of IAM; a scope that has a path already.
        """
        check_role_path(path)
        if self._scope.node.try_find_child("RolePath") is not None:
            raise ValueError(f"{self._scope.node.path or 'the app'} has a role path already; apply one only")
        # An aspect of a child without children is visited once. One of the scope would be visited for each of its
        # constructs, and that takes a second and more from Python.
        cdk.Aspects.of(Construct(self._scope, "RolePath")).add(_SetPath(self._scope, path))


@jsii.implements(cdk.IAspect)
class _SetPath:
    def __init__(self, scope: Construct, path: str) -> None:
        self._scope = scope
        self._path = path

    def visit(self, node: IConstruct) -> None:
        stage = self._scope if isinstance(self._scope, cdk.Stage) else cdk.Stage.of(self._scope)
        for resource_type in _WITH_PATH:
            of_type = cdk.ConstructSelector.resources_of_type(resource_type)
            for resource in cdk.Mixins.of(self._scope, of_type).selected_constructs:
                # A stage is synthesised before what is around it: this would be too late.
                if cdk.Stage.of(resource) is not stage:
                    raise ValueError(
                        f"RolePath of {self._scope.node.path or 'the app'} does not reach {resource.node.path}, which "
                        "is in a stage; use RolePath.of(the stage)"
                    )
                assert isinstance(resource, cdk.CfnResource)
                resource.add_property_override("Path", self._path)
