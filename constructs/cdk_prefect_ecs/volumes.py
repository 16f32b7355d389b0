"""File systems in the containers of flow runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam

from cdk_prefect_ecs.arguments import checked, checked_fields
from cdk_prefect_ecs.job_template import EfsMount
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.settings import check_container_path


@checked_fields
@dataclass(frozen=True)
class FlowVolume:
    """An EFS access point that flow runs see as a folder: encrypted on its way, and with the flow role's rights.

    :param access_point: The access point; its user and root folder are those of the flow runs.
    :param container_path: Where flow runs find it, such as ``/data``.
    :param read_only: Whether they may only read. Default: False.
    """

    access_point: efs.IAccessPoint
    container_path: str
    read_only: bool = False

    def mount(self) -> EfsMount:
        """What the job template needs of it."""
        return EfsMount(
            file_system_id=self.access_point.file_system.file_system_id,
            access_point_id=self.access_point.access_point_id,
            container_path=self.container_path,
            read_only=self.read_only,
        )

    def grant(self, flow_role: iam.IGrantable, network: FlowNetwork) -> iam.Grant:
        """Let flow runs mount it, through this access point alone, and reach it over the network."""
        file_system = self.access_point.file_system
        file_system.connections.allow_default_port_from(network, "Prefect flow runs")
        return iam.Grant.add_to_principal(
            grantee=flow_role,
            actions=[
                "elasticfilesystem:ClientMount",
                *([] if self.read_only else ["elasticfilesystem:ClientWrite"]),
            ],
            resource_arns=[file_system.file_system_arn],
            conditions={"StringEquals": {"elasticfilesystem:AccessPointArn": self.access_point.access_point_arn}},
        )


@checked
def check_volumes(volumes: Sequence[FlowVolume], writable_paths: Sequence[str] = ()) -> None:
    """Check the volumes of one work pool.

    :param writable_paths: Where its image gets an empty volume.
    :raises ValueError: A path that is not absolute, is the root, is given twice, or is one of the image's.
    """
    paths = [volume.container_path for volume in volumes]
    for path in paths:
        check_container_path("container_path", path.removesuffix("/"))
    if len({path.rstrip("/") for path in paths}) < len(paths):
        raise ValueError(f"each volume has a container_path of its own; got {', '.join(paths)}")
    if taken := sorted({path.rstrip("/") for path in paths} & set(writable_paths)):
        raise ValueError(f"container_path {taken[0]} is one of the image's writable_paths; mount the volume elsewhere")
