"""Rules between security groups, in stacks that do not depend on each other both ways."""

from __future__ import annotations

from collections.abc import Iterable

from aws_cdk import aws_ec2 as ec2


def open_port(
    target: ec2.IConnectable, callers: Iterable[ec2.ISecurityGroup], description: str, *, by_callers_stack: bool
) -> None:
    """Open the default port of a target to callers.

    ``target.connections.allow_default_port_from`` makes the rule in the target's stack, which then depends on the
    callers'; from their side it would warn of every caller that may reach everything as it is.

    :param by_callers_stack: Whether the rule is made in the stack of a caller, which depends on the target's.
    """
    port = target.connections.default_port
    assert port is not None
    for caller in callers:
        for group in target.connections.security_groups:
            group.add_ingress_rule(caller, port, description, by_callers_stack)
            caller.add_egress_rule(group, port, description, True)  # nothing, where it may reach everything
