"""What the task definitions that CDK makes have in common."""

from __future__ import annotations

from aws_cdk import aws_ecs as ecs

from cdk_prefect_ecs.image import FlowImage


def runtime_platform(cpu_architecture: str) -> ecs.RuntimePlatform:
    """Linux on this architecture, ``X86_64`` or ``ARM64``."""
    return ecs.RuntimePlatform(
        cpu_architecture=ecs.CpuArchitecture.ARM64 if cpu_architecture == "ARM64" else ecs.CpuArchitecture.X86_64,
        operating_system_family=ecs.OperatingSystemFamily.LINUX,
    )


def mount_writable_paths(
    task_definition: ecs.TaskDefinition, container: ecs.ContainerDefinition, image: FlowImage
) -> None:
    """Give a container whose root is read-only what its image has to write to, as volumes that go with the task."""
    for name, path in image.writable_volumes.items():
        task_definition.add_volume(name=name)
        container.add_mount_points(ecs.MountPoint(source_volume=name, container_path=path, read_only=False))
