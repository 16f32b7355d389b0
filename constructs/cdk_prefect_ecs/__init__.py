"""AWS CDK constructs that run Prefect 3 on Amazon ECS, with flow runs on Fargate Spot."""

from cdk_prefect_ecs.api import ApiSecret, PrefectApi
from cdk_prefect_ecs.capacity import CapacityKind, CapacityWeight, FlowCapacity, SpotPolicy
from cdk_prefect_ecs.cluster import FlowCluster
from cdk_prefect_ecs.dask import DaskAccess
from cdk_prefect_ecs.database import ServerDatabase
from cdk_prefect_ecs.events import TaskEvents
from cdk_prefect_ecs.execution_layer import LayerPool, PrefectExecutionLayer
from cdk_prefect_ecs.image import FlowImage, FlowRepository
from cdk_prefect_ecs.job_trust import JobTrust
from cdk_prefect_ecs.lazarus import Lazarus
from cdk_prefect_ecs.machines import AutoScalingMachines, ExternalMachines, ManagedMachines
from cdk_prefect_ecs.monitoring import ExecutionMonitoring
from cdk_prefect_ecs.network import FlowNetwork
from cdk_prefect_ecs.pipeline import DeployRole
from cdk_prefect_ecs.queues import WorkQueue
from cdk_prefect_ecs.required_policy import RequiredPolicy
from cdk_prefect_ecs.role_path import RolePath
from cdk_prefect_ecs.roles import ExecutionRole, FlowRole, WorkerRole
from cdk_prefect_ecs.server import PrefectServer
from cdk_prefect_ecs.storage import FlowStorage
from cdk_prefect_ecs.volumes import FlowVolume
from cdk_prefect_ecs.work_pool import WorkPool
from cdk_prefect_ecs.worker_host import WorkerHost
from cdk_prefect_ecs.worker_service import WorkerService

__all__ = [
    "ApiSecret",
    "AutoScalingMachines",
    "CapacityKind",
    "CapacityWeight",
    "DaskAccess",
    "DeployRole",
    "ExecutionMonitoring",
    "ExecutionRole",
    "ExternalMachines",
    "FlowCapacity",
    "FlowCluster",
    "FlowImage",
    "FlowNetwork",
    "FlowRepository",
    "FlowRole",
    "FlowStorage",
    "FlowVolume",
    "JobTrust",
    "LayerPool",
    "Lazarus",
    "ManagedMachines",
    "PrefectApi",
    "PrefectExecutionLayer",
    "PrefectServer",
    "RequiredPolicy",
    "RolePath",
    "ServerDatabase",
    "SpotPolicy",
    "TaskEvents",
    "WorkPool",
    "WorkQueue",
    "WorkerHost",
    "WorkerRole",
    "WorkerService",
]
