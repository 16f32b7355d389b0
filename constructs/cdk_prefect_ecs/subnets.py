"""Subnets of a VPC that somebody else made."""

from __future__ import annotations

from aws_cdk import aws_ec2 as ec2


def select_subnets(vpc: ec2.IVpc, selection: ec2.SubnetSelection) -> ec2.SelectedSubnets:
    """The subnets of a VPC that a selection means.

    :raises ValueError: The CDK cannot make sense of it: no such group, or two ways to select at once.
    """
    try:
        return vpc.select_subnets(
            subnets=selection.subnets,
            subnet_type=selection.subnet_type,
            subnet_group_name=selection.subnet_group_name,
            availability_zones=selection.availability_zones,
            subnet_filters=selection.subnet_filters,
            one_per_az=selection.one_per_az,
        )
    except RuntimeError as error:  # all that jsii raises for an error of the CDK
        raise ValueError(f"vpc_subnets selects nothing that this VPC has: {str(error).partition(chr(10))[0]}") from None
