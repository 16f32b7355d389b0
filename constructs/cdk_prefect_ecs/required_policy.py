"""What a role that somebody else made has to be allowed."""

from __future__ import annotations

from collections.abc import Sequence

import jsii
from aws_cdk import aws_iam as iam
from constructs import Construct, IConstruct

from cdk_prefect_ecs.arguments import checked


@jsii.implements(iam.IPrincipal)
class RequiredPolicy(Construct):
    """Keep record of what a role needs that was passed to a construct of this library. Creates nothing.

    An imported role gets what it lacks in a policy of its own, unless it is imported with ``mutable=False``: then
    nothing is added, and whoever looks after the role adds it, from :meth:`of`. The constructs that are given a role
    make one of these.

    :param role: The role.
    """

    role: iam.IRole
    """The role."""

    def __init__(self, scope: Construct, construct_id: str, *, role: iam.IRole) -> None:
        super().__init__(scope, construct_id)
        self.role = role
        self._statements: list[iam.PolicyStatement] = []

    @staticmethod
    @checked
    def of(scope: IConstruct) -> dict[str, iam.PolicyDocument]:
        """What each role that was passed to the constructs of a scope has to be allowed, by the ARN of the role.

        Roles that the app makes with ``iam.Role`` are not in it: their policies are in the template. Nor is what the
        app grants by itself, such as ``bucket.grant_read(layer.flow_role)``. Resolve it to read it::

            for arn, document in RequiredPolicy.of(stack).items():
                print(arn, json.dumps(stack.resolve(document), indent=2))

        Bucket, cluster and whatever else has no name until it is deployed are references there.
        """
        found: dict[str, list[iam.PolicyStatement]] = {}
        for construct in scope.node.find_all():
            if isinstance(construct, RequiredPolicy):
                found.setdefault(construct.role.role_arn, []).extend(construct._statements)
        return {arn: iam.PolicyDocument(statements=statements) for arn, statements in found.items()}

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """This: what is granted to it is written down."""
        return self

    @property
    def assume_role_action(self) -> str:
        """As the role's."""
        return self.role.assume_role_action

    @property
    def policy_fragment(self) -> iam.PrincipalPolicyFragment:
        """As the role's."""
        return self.role.policy_fragment

    @property
    def principal_account(self) -> str | None:
        """As the role's: a resource in another account has to let the role in by itself."""
        return self.role.principal_account

    def add_to_principal_policy(self, statement: iam.PolicyStatement) -> iam.AddToPrincipalPolicyResult:
        """Write a statement down."""
        self._statements.append(statement)
        return iam.AddToPrincipalPolicyResult(statement_added=True, policy_dependable=self.role)

    def add_to_policy(self, statement: iam.PolicyStatement) -> bool:
        """Write a statement down."""
        return self.add_to_principal_policy(statement).statement_added


def records(scope: Construct, role: iam.IRole) -> Sequence[iam.IGrantable]:
    """What keeps record of a role that was passed to a construct; nothing for one that the app makes itself."""
    if isinstance(role, iam.Role):
        return ()
    kept = [child for child in scope.node.children if isinstance(child, RequiredPolicy)]
    found = next((child for child in kept if child.role is role), None)
    return (found or RequiredPolicy(scope, f"RequiredPolicy{len(kept) or ''}", role=role),)


def grantees(scope: Construct, role: iam.IRole) -> Sequence[iam.IGrantable]:
    """To whom a construct grants what a role needs: the role, and what keeps record of it."""
    return (role, *records(scope, role))


def as_it_is(scope: Construct, role: iam.IRole, construct_id: str = "ExecutionRole") -> iam.IRole:
    """A role, closed to the CDK's own grants: it would widen an execution role with its own idea of reading a secret,
    and that of instances with every log group of the account."""
    if isinstance(role, iam.Role):
        return role.without_policy_updates()
    return iam.Role.from_role_arn(scope, construct_id, role.role_arn, mutable=False)
