"""Things of the CDK and of this library, right, wrong and odd, to be passed where others belong."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from aws_cdk import aws_ssm as ssm
from library_helpers import Parts, cloud_api, make_parts, new_app

from cdk_prefect_ecs import (
    CapacityKind,
    CapacityWeight,
    ExecutionMonitoring,
    FlowCapacity,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    FlowVolume,
    JobTrust,
    Lazarus,
    PrefectApi,
    PrefectExecutionLayer,
    PrefectServer,
    ServerDatabase,
    SpotPolicy,
    WorkerService,
    WorkPool,
    WorkQueue,
)


@dataclass(frozen=True)
class Of:
    """Something of the world that the arguments are for, by its name."""

    name: str

    def __repr__(self) -> str:
        return self.name


class World:
    """One app with one stack, and what is in it once it has been asked for."""

    def __init__(self) -> None:
        self.app = new_app()
        self.stack = cdk.Stack(self.app, "Test", env=cdk.Environment(region="us-east-1"))

    def resolve(self, value: Any) -> Any:
        """A value with what it refers to."""
        if isinstance(value, Of):
            return self.get(value.name)
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        return value

    def get(self, name: str) -> Any:
        return SIMPLE[name]() if name in SIMPLE else getattr(self, name)

    def paths(self) -> list[str]:
        """Every construct of the app."""
        return [child.node.path for child in self.app.node.find_all()]

    @cached_property
    def number_token(self) -> float:
        parameter = cdk.CfnParameter(self.stack, "Number", type="Number", default=120)
        return float(parameter.value_as_number)

    @cached_property
    def token_seconds(self) -> cdk.Duration:
        return cdk.Duration.seconds(self.number_token)

    @cached_property
    def token_hours(self) -> cdk.Duration:
        return cdk.Duration.hours(self.number_token)

    @cached_property
    def token_size(self) -> cdk.Size:
        return cdk.Size.gibibytes(self.number_token)

    @cached_property
    def vpc(self) -> ec2.IVpc:
        return self._vpc("Imported", private=True)

    @cached_property
    def public_vpc(self) -> ec2.IVpc:
        return self._vpc("Public", private=False)

    def _vpc(self, construct_id: str, *, private: bool) -> ec2.IVpc:
        more: dict[str, Any] = {}
        if private:
            more["private_subnet_ids"] = ["subnet-0123456789abcdef2", "subnet-0123456789abcdef3"]
        return ec2.Vpc.from_vpc_attributes(
            self.stack,
            construct_id,
            vpc_id="vpc-0123456789abcdef0",
            availability_zones=["us-east-1a", "us-east-1b"],
            public_subnet_ids=["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
            **more,
        )

    @cached_property
    def parts(self) -> Parts:
        return make_parts(self.stack, vpc=self.vpc)

    @cached_property
    def new_network(self) -> FlowNetwork:
        return FlowNetwork(self.stack, "NewNetwork", mode="endpoints")

    @cached_property
    def public_network(self) -> FlowNetwork:
        return FlowNetwork(self.stack, "PublicNetwork", vpc=self.public_vpc)

    network = property(lambda self: self.parts.network)
    cluster = property(lambda self: self.parts.cluster)
    storage = property(lambda self: self.parts.storage)
    log_group = property(lambda self: self.parts.log_group)
    execution_role = property(lambda self: self.parts.execution_role)
    worker_role = property(lambda self: self.parts.worker_role)
    flow_role = property(lambda self: self.parts.flow_role)

    @cached_property
    def pool(self) -> WorkPool:
        return self.parts.pool(work_pool_name="ready")

    @cached_property
    def layer(self) -> PrefectExecutionLayer:
        return PrefectExecutionLayer(
            self.stack, "Layer", work_pool_name="layer", api=cloud_api(), network=self.network, cluster=self.cluster
        )

    @cached_property
    def lazarus(self) -> Lazarus:
        pool = self.parts.pool("Guarded", work_pool_name="guarded")
        return Lazarus(
            self.stack,
            "ReadyLazarus",
            cluster=self.cluster,
            api=self.parts.api,
            work_pool=pool,
            log_group=self.log_group,
        )

    @cached_property
    def monitoring(self) -> ExecutionMonitoring:
        return ExecutionMonitoring(self.stack, "ReadyMonitoring", layer=self.layer)

    @cached_property
    def worker(self) -> WorkerService:
        return self.parts.worker(self.pool, "ReadyWorker")

    @cached_property
    def topic(self) -> sns.ITopic:
        return sns.Topic.from_topic_arn(self.stack, "Topic", "arn:aws:sns:us-east-1:123456789012:on-call")

    @cached_property
    def database(self) -> ServerDatabase:
        return ServerDatabase(self.stack, "ReadyDatabase", network=self.network)

    @cached_property
    def prefect_server(self) -> PrefectServer:
        return PrefectServer(
            self.stack, "ReadyServer", network=self.network, database=self.database, cluster=self.cluster
        )

    @cached_property
    def plain_cluster(self) -> FlowCluster:
        return FlowCluster(self.stack, "PlainCluster", vpc=self.vpc, spot=False)

    @cached_property
    def cdk_cluster(self) -> ecs.ICluster:
        return ecs.Cluster.from_cluster_attributes(
            self.stack, "CdkCluster", cluster_name="mine", vpc=self.vpc, security_groups=[]
        )

    @cached_property
    def imported_cluster(self) -> FlowCluster:
        return FlowCluster.from_cluster(self.stack, "ImportedCluster", cluster=self.cdk_cluster)

    @cached_property
    def external(self) -> FlowCapacity:
        return self.cluster.add_external_capacity("Cellar").capacity  # type: ignore[no-any-return]

    @cached_property
    def gpu(self) -> FlowCapacity:
        return self.cluster.add_auto_scaling_capacity(  # type: ignore[no-any-return]
            "Gpu", network=self.network, instance_types=[ec2.InstanceType("g5.xlarge")], spot=True
        ).capacity

    @cached_property
    def arm(self) -> FlowCapacity:
        return self.cluster.add_managed_instances_capacity(  # type: ignore[no-any-return]
            "Arm", network=self.network, cpu_architecture="ARM64"
        ).capacity

    @cached_property
    def secret(self) -> secretsmanager.ISecret:
        arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
        return secretsmanager.Secret.from_secret_complete_arn(self.stack, "Secret", arn)

    @cached_property
    def ecs_secret(self) -> ecs.Secret:
        return ecs.Secret.from_secrets_manager(self.secret, "password")

    @cached_property
    def ssm_secret(self) -> ecs.Secret:
        parameter = ssm.StringParameter.from_secure_string_parameter_attributes(
            self.stack, "Parameter", parameter_name="/db/password"
        )
        return ecs.Secret.from_ssm_parameter(parameter)

    @cached_property
    def key(self) -> kms.IKey:
        return kms.Key.from_key_arn(
            self.stack,
            "Key",
            "arn:aws:kms:us-east-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef",
        )

    @cached_property
    def bucket(self) -> s3.IBucket:
        return s3.Bucket.from_bucket_name(self.stack, "Bucket", "mine")

    @cached_property
    def imported_role(self) -> iam.IRole:
        return iam.Role.from_role_arn(self.stack, "ImportedRole", "arn:aws:iam::123456789012:role/mine")

    @cached_property
    def oidc_provider(self) -> iam.IOpenIdConnectProvider:
        return self._provider("GitHubProvider", "token.actions.githubusercontent.com")

    @cached_property
    def other_oidc_provider(self) -> iam.IOpenIdConnectProvider:
        return self._provider("GitLabProvider", "gitlab.com")

    def _provider(self, construct_id: str, name: str) -> iam.IOpenIdConnectProvider:
        arn = f"arn:aws:iam::123456789012:oidc-provider/{name}"
        return iam.OpenIdConnectProvider.from_open_id_connect_provider_arn(self.stack, construct_id, arn)

    @cached_property
    def imported_logs(self) -> logs.ILogGroup:
        return logs.LogGroup.from_log_group_name(self.stack, "ImportedLogs", "/mine")

    @cached_property
    def imported_group(self) -> ec2.ISecurityGroup:
        return ec2.SecurityGroup.from_security_group_id(self.stack, "ImportedGroup", "sg-0123456789abcdef0")

    @cached_property
    def repository(self) -> ecr.IRepository:
        return ecr.Repository.from_repository_name(self.stack, "Repository", "flows")

    @cached_property
    def volume(self) -> FlowVolume:
        files = efs.FileSystem.from_file_system_attributes(
            self.stack, "Files", file_system_id="fs-0123456789abcdef0", security_group=self.imported_group
        )
        point = efs.AccessPoint.from_access_point_attributes(
            self.stack, "Point", access_point_id="fsap-0123456789abcdef0", file_system=files
        )
        return FlowVolume(point, "/data")

    @cached_property
    def private_api(self) -> PrefectApi:
        return PrefectApi.self_hosted("https://prefect.internal/api", vpc=self.vpc)

    @cached_property
    def secret_api(self) -> PrefectApi:
        return PrefectApi.self_hosted(
            "https://prefect.example.com/api", auth_string=PrefectApi.secrets_manager(self.secret, field="auth")
        )

    @cached_property
    def ecr_image(self) -> FlowImage:
        return FlowImage.from_ecr_repository(self.repository, "1.0", writable_paths=["/tmp"])  # noqa: S108

    @cached_property
    def credential_image(self) -> FlowImage:
        return FlowImage.from_registry("ghcr.io/acme/flows:1", credentials=self.secret)

    @cached_property
    def other_stack_vpc(self) -> ec2.IVpc:
        return ec2.Vpc(cdk.Stack(self.app, "Other", env=cdk.Environment(region="us-east-1")), "Vpc")


#: What needs no stack.
SIMPLE: dict[str, Callable[[], Any]] = {
    "api": cloud_api,
    "server": lambda: PrefectApi.self_hosted("http://prefect.example.com:4200/api"),
    "api_key": lambda: PrefectApi.ssm_secure_string("/prefect/api-key"),
    "no_time": lambda: cdk.Duration.seconds(0),
    "odd_millis": lambda: cdk.Duration.millis(90_500),
    "one_minute": lambda: cdk.Duration.minutes(1),
    "two_hours": lambda: cdk.Duration.hours(2),
    "half_a_day": lambda: cdk.Duration.days(0.5),
    "thirteen_hours": lambda: cdk.Duration.hours(13),
    "two_days": lambda: cdk.Duration.days(2),
    "ages": lambda: cdk.Duration.days(4_000_000_000),
    "no_size": lambda: cdk.Size.gibibytes(0),
    "some_gib": lambda: cdk.Size.gibibytes(64),
    "odd_mib": lambda: cdk.Size.mebibytes(60_001),
    "huge_size": lambda: cdk.Size.tebibytes(500),
    "string_token": lambda: cdk.Token.as_string({"Ref": "AWS::StackId"}),
    "list_token": lambda: cdk.Token.as_list({"Ref": "AWS::NotificationARNs"}),
    "type_arm": lambda: ec2.InstanceType("t4g.micro"),
    "type_x86": lambda: ec2.InstanceType("m7i.large"),
    "type_gpu": lambda: ec2.InstanceType("g5.xlarge"),
    "type_amd_gpu": lambda: ec2.InstanceType("g4ad.xlarge"),
    "type_mac": lambda: ec2.InstanceType("mac2-m2.metal"),
    "type_none": lambda: ec2.InstanceType("foo"),
    "type_token": lambda: ec2.InstanceType(cdk.Token.as_string({"Ref": "AWS::StackName"})),
    "select_group": lambda: ec2.SubnetSelection(subnet_group_name="nope"),
    "select_two_ways": lambda: ec2.SubnetSelection(
        subnet_group_name="nope", subnet_type=ec2.SubnetType.PUBLIC, one_per_az=True
    ),
    "select_isolated": lambda: ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
    "select_public": lambda: ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
    "select_no_zone": lambda: ec2.SubnetSelection(availability_zones=["nowhere"]),
    "select_no_subnets": lambda: ec2.SubnetSelection(subnets=[]),
    "select_nothing": ec2.SubnetSelection,
    "machine_image": lambda: ec2.MachineImage.latest_amazon_linux2023(),
    "snapshot": lambda: cdk.RemovalPolicy.SNAPSHOT,
    "destroy": lambda: cdk.RemovalPolicy.DESTROY,
    "retain_on_update": lambda: cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    "retention": lambda: logs.RetentionDays.ONE_DAY,
    "infinite": lambda: logs.RetentionDays.INFINITE,
    "insights": lambda: ecs.ContainerInsights.DISABLED,
    "on_demand": lambda: SpotPolicy.ON_DEMAND,
    "spot": lambda: SpotPolicy.SPOT,
    "shares": lambda: SpotPolicy.weights(spot=3, on_demand=1),
    "no_policy": lambda: SpotPolicy("none", 0, 0),
    "negative_policy": lambda: SpotPolicy("negative", -1, 5),
    "unknown_capacity": lambda: FlowCapacity("Unknown", CapacityKind.AUTO_SCALING, "nobodys"),
    "hand_made_capacity": lambda: FlowCapacity("Hand", CapacityKind.EXTERNAL, cpu_architecture="ARM64", has_gpu=True),
    "weights": lambda: [CapacityWeight("FARGATE", 1, 1), CapacityWeight("FARGATE_SPOT", 4)],
    "two_bases": lambda: [CapacityWeight("FARGATE", 1, 1), CapacityWeight("FARGATE_SPOT", 4, 2)],
    "image": lambda: FlowImage.from_registry("ghcr.io/acme/flows:1", writable_paths=["/tmp", "/home/flow"]),  # noqa: S108
    "arm_image": lambda: FlowImage.from_registry("ghcr.io/acme/flows:1", cpu_architecture="ARM64"),
    "token_image": lambda: FlowImage.from_registry(cdk.Token.as_string({"Ref": "AWS::StackName"})),
    "queues": lambda: [WorkQueue("urgent", 1, 5), WorkQueue("default", 2)],
    "same_queues": lambda: [WorkQueue("urgent", 1), WorkQueue("urgent", 2)],
    "deployments": lambda: JobTrust.github("acme/etl", environment="prod"),
    "pull_requests": lambda: JobTrust.github("acme/etl", pull_requests=True),
    "gitlab_jobs": lambda: JobTrust(
        "https://gitlab.com", "sts.amazonaws.com", "project_path:acme/etl:ref_type:branch:ref:x"
    ),
    "requirements": lambda: ec2.InstanceRequirementsConfig(
        v_cpu_count_min=1, memory_min=cdk.Size.gibibytes(1), accelerator_count_min=1
    ),
}

#: What is in the stack.
MADE = [name for name, value in vars(World).items() if isinstance(value, (property, cached_property))]
EVERYTHING = [Of(name) for name in [*SIMPLE, *MADE]]
