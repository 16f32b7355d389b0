from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk.assertions import Template
from library_helpers import (
    allow,
    assert_refused,
    canonical,
    imported_vpc,
    in_order,
    make_parts,
    new_stack,
    only,
    plain,
    resource,
    statements,
)

from cdk_prefect_ecs import (
    CapacityKind,
    CapacityWeight,
    FlowCapacity,
    FlowCluster,
    FlowNetwork,
    RequiredPolicy,
    SpotPolicy,
)
from cdk_prefect_ecs.capacity import default_spot_policy

ASSOCIATIONS = "AWS::ECS::ClusterCapacityProviderAssociations"


@pytest.fixture(scope="module")
def template() -> Template:
    stack = new_stack()
    FlowCluster(stack, "Cluster", vpc=imported_vpc(stack))
    return Template.from_stack(stack)


def test_default_offers_spot_beside_on_demand(template: Template) -> None:
    assert plain(only(template, ASSOCIATIONS)) == {
        "Cluster": "<Cluster>",
        "CapacityProviders": ["FARGATE", "FARGATE_SPOT"],
        "DefaultCapacityProviderStrategy": [
            {"CapacityProvider": "FARGATE", "Base": 1, "Weight": 2},
            {"CapacityProvider": "FARGATE_SPOT", "Weight": 3},
        ],
    }


def test_default_has_container_insights_and_no_name(template: Template) -> None:
    assert only(template, "AWS::ECS::Cluster") == {
        "ClusterSettings": [{"Name": "containerInsights", "Value": "enabled"}]
    }


def test_default_makes_nothing_else(template: Template) -> None:
    assert len(template.to_json()["Resources"]) == 2


def test_everything_set() -> None:
    stack = new_stack()
    cluster = FlowCluster(
        stack,
        "Cluster",
        vpc=imported_vpc(stack),
        default_strategy=[CapacityWeight("FARGATE_SPOT", weight=5)],
        container_insights=ecs.ContainerInsights.ENHANCED,
    )
    template = Template.from_stack(stack)
    assert only(template, ASSOCIATIONS)["DefaultCapacityProviderStrategy"] == [
        {"CapacityProvider": "FARGATE_SPOT", "Weight": 5}
    ]
    assert only(template, "AWS::ECS::Cluster")["ClusterSettings"][0]["Value"] == "enhanced"
    assert cluster.capacity_providers == ("FARGATE", "FARGATE_SPOT")
    assert plain(stack.resolve([cluster.cluster_name, cluster.cluster_arn])) == [
        "<Cluster>",
        "<Cluster.Arn>",
    ]


def test_without_spot_it_has_no_capacity_providers() -> None:
    stack = new_stack()
    cluster = FlowCluster(stack, "Cluster", vpc=imported_vpc(stack), spot=False)
    template = Template.from_stack(stack)
    assert cluster.capacity_providers == ()
    template.resource_count_is(ASSOCIATIONS, 0)
    assert "CapacityProviders" not in only(template, "AWS::ECS::Cluster")


def test_refuses_a_strategy_that_ecs_would_refuse() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    for strategy, words in (
        ([], ("at least one item",)),
        ([CapacityWeight("FARGATE_SPOTS", 1)], ("'FARGATE_SPOTS'", "FARGATE, FARGATE_SPOT")),
        ([CapacityWeight("FARGATE", 1001)], ("0 to 1000", "1001")),
    ):
        assert_refused(
            stack,
            lambda strategy=strategy: FlowCluster(stack, "Cluster", vpc=vpc, default_strategy=strategy),  # type: ignore[misc]
            *words,
        )


def test_refuses_a_strategy_without_capacity_providers() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    assert_refused(
        stack,
        lambda: FlowCluster(stack, "Cluster", vpc=vpc, spot=False, default_strategy=[CapacityWeight("FARGATE", 1)]),
        "spot=False",
        "leave out default_strategy",
    )


def test_two_in_one_stack() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    FlowCluster(stack, "One", vpc=vpc)
    FlowCluster(stack, "Two", vpc=vpc, spot=False)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::ECS::Cluster", 2)
    template.resource_count_is(ASSOCIATIONS, 1)


# Other machines


def types(*names: str) -> list[ec2.InstanceType]:
    return [ec2.InstanceType(name) for name in names]


def a_cluster(*, private: bool = True, **kwargs: Any) -> tuple[cdk.Stack, FlowCluster, FlowNetwork]:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack, private=private))
    return stack, FlowCluster(stack, "Cluster", vpc=network.vpc, **kwargs), network


@pytest.fixture(scope="module")
def gpu() -> Template:
    stack, cluster, network = a_cluster(private=False)
    gpu = cluster.add_auto_scaling_capacity(
        "Gpu",
        network=network,
        instance_types=types("g5.xlarge", "g4dn.xlarge"),
        spot=True,
        max_instances=4,
        disk=cdk.Size.gibibytes(200),
    )
    assert (gpu.capacity.kind, gpu.capacity.cpu_architecture, gpu.capacity.has_gpu) == (
        CapacityKind.AUTO_SCALING,
        "X86_64",
        True,
    )
    assert cluster.capacity_providers == ("FARGATE", "FARGATE_SPOT", gpu.capacity.on_demand, gpu.capacity.spot)
    assert cluster.fargate.capacity_providers == ("FARGATE", "FARGATE_SPOT")
    return Template.from_stack(stack)


@pytest.mark.parametrize(("group", "on_demand"), [("OnDemand", 100), ("Spot", 0)])
def test_one_group_for_each_way_to_buy(gpu: Template, group: str, on_demand: int) -> None:
    properties = plain(resource(gpu, f"ClusterGpu{group}ASG")["Properties"])
    assert (properties["MinSize"], properties["MaxSize"], properties["NewInstancesProtectedFromScaleIn"]) == (
        "0",
        "4",
        True,
    )
    assert properties["VPCZoneIdentifier"] == ["subnet-public-1", "subnet-public-2"]
    policy = properties["MixedInstancesPolicy"]
    assert policy["InstancesDistribution"]["OnDemandPercentageAboveBaseCapacity"] == on_demand
    assert [item["InstanceType"] for item in policy["LaunchTemplate"]["Overrides"]] == ["g5.xlarge", "g4dn.xlarge"]
    provider = plain(resource(gpu, f"ClusterGpu{group}Provider")["Properties"])
    assert provider["AutoScalingGroupProvider"] == {
        "AutoScalingGroupArn": f"<ClusterGpu{group}ASG>",
        "ManagedDraining": "ENABLED",
        "ManagedScaling": {"Status": "ENABLED", "TargetCapacity": 100},
        "ManagedTerminationProtection": "ENABLED",
    }


def test_providers_are_associated_and_the_default_stays_fargate(gpu: Template) -> None:
    association = plain(only(gpu, ASSOCIATIONS))
    assert association["CapacityProviders"] == [
        "FARGATE",
        "FARGATE_SPOT",
        "<ClusterGpuOnDemandProvider>",
        "<ClusterGpuSpotProvider>",
    ]
    assert {item["CapacityProvider"] for item in association["DefaultCapacityProviderStrategy"]} == {
        "FARGATE",
        "FARGATE_SPOT",
    }


def test_instances_are_closed_and_encrypted(gpu: Template) -> None:
    data = plain(only(gpu, "AWS::EC2::LaunchTemplate")["LaunchTemplateData"])
    assert data["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    (disk,) = data["BlockDeviceMappings"]
    assert (disk["Ebs"]["VolumeSize"], disk["Ebs"]["Encrypted"], disk["Ebs"]["VolumeType"]) == (200, True, "gp3")
    (interface,) = data["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is True
    assert interface["Groups"] == ["<NetworkSecurityGroup.GroupId>"]
    assert "KeyName" not in data
    user_data = data["UserData"]["Fn::Base64"]
    for line in (
        "ECS_CLUSTER=<Cluster>",
        "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true",
        "ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE=true",
    ):
        assert f"echo {line} >> /etc/ecs/ecs.config" in user_data
    gpu.resource_count_is("AWS::EC2::SecurityGroupIngress", 0)


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["g5.xlarge"], "amazon-linux-2023/gpu/recommended"),
        (["m7g.large", "t4g.medium"], "amazon-linux-2023/arm64/recommended"),
        (["m7i.large"], "amazon-linux-2023/recommended"),
    ],
)
def test_the_image_goes_with_the_instances(names: list[str], image: str) -> None:
    stack, cluster, network = a_cluster()
    machines = cluster.add_auto_scaling_capacity("Machines", network=network, instance_types=types(*names))
    assert (machines.on_demand_group is not None, machines.spot_group) == (True, None)
    template = Template.from_stack(stack)
    parameters = [item["Default"] for item in template.to_json()["Parameters"].values()]
    assert f"/aws/service/ecs/optimized-ami/{image}/image_id" in parameters
    data = only(template, "AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    assert "NetworkInterfaces" not in data  # no public address in private subnets


def test_gpu_arm_is_refused_where_there_is_no_image() -> None:
    stack, cluster, network = a_cluster()
    assert_refused(
        stack,
        lambda: cluster.add_auto_scaling_capacity("Gpu", network=network, instance_types=types("g5g.xlarge")),
        "g5g.xlarge",
        "no ECS-optimized image",
    )


def test_role_of_the_instances(gpu: Template) -> None:
    found = statements(gpu, "ClusterGpuRole")
    assert found == in_order(
        [
            allow("ecs:DiscoverPollEndpoint", "*"),
            allow(
                [
                    "ecs:DeregisterContainerInstance",
                    "ecs:RegisterContainerInstance",
                    "ecs:SubmitAttachmentStateChanges",
                    "ecs:SubmitContainerStateChange",
                    "ecs:SubmitTaskStateChange",
                ],
                "<Cluster.Arn>",
            ),
            allow(
                ["ecs:Poll", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState"],
                "arn:<AWS::Partition>:ecs:<AWS::Region>:<AWS::AccountId>:container-instance/<Cluster>/*",
                {"ArnEquals": {"ecs:cluster": "<Cluster.Arn>"}},
            ),
        ]
    )


def test_managed_instances() -> None:
    stack, cluster, network = a_cluster()
    managed = cluster.add_managed_instances_capacity("Managed", network=network, spot=True)
    assert (managed.capacity.kind, managed.capacity.has_gpu) == (CapacityKind.MANAGED_INSTANCES, False)
    assert cluster.capacity_providers[2:] == managed.capacity.capacity_providers
    template = Template.from_stack(stack)
    for provider, purchase in (("OnDemand", "ON_DEMAND"), ("Spot", "SPOT")):
        properties = plain(resource(template, f"ClusterManaged{provider}Provider")["Properties"])
        assert properties["ClusterName"] == "<Cluster>"
        launch = properties["ManagedInstancesProvider"]["InstanceLaunchTemplate"]
        assert launch["CapacityOptionType"] == purchase
        assert launch["NetworkConfiguration"] == {
            "SecurityGroups": ["<NetworkSecurityGroup.GroupId>"],
            "Subnets": ["subnet-private-1", "subnet-private-2"],
        }


def test_managed_instances_with_everything_set() -> None:
    stack, cluster, network = a_cluster()
    managed = cluster.add_managed_instances_capacity(
        "Managed",
        network=network,
        on_demand=False,
        spot=True,
        instance_requirements=ec2.InstanceRequirementsConfig(
            v_cpu_count_min=4, memory_min=cdk.Size.gibibytes(16), accelerator_count_min=1
        ),
        cpu_architecture="ARM64",
        has_gpu=True,
        disk=cdk.Size.gibibytes(200),
    )
    capacity = managed.capacity
    assert (capacity.on_demand, capacity.cpu_architecture, capacity.has_gpu) == (None, "ARM64", True)
    assert default_spot_policy(capacity) == SpotPolicy.SPOT
    template = Template.from_stack(stack)
    provider = plain(only(template, "AWS::ECS::CapacityProvider"))["ManagedInstancesProvider"]
    launch = provider["InstanceLaunchTemplate"]
    assert launch["CapacityOptionType"] == "SPOT"
    assert launch["InstanceRequirements"] == {
        "VCpuCount": {"Min": 4},
        "MemoryMiB": {"Min": 16384},
        "AcceleratorCount": {"Min": 1},
    }
    assert launch["StorageConfiguration"] == {"StorageSizeGiB": 200}
    assert provider["PropagateTags"] == "CAPACITY_PROVIDER"
    infrastructure = plain(resource(template, "ClusterManagedSpotProviderSpotProviderRole")["Properties"])
    assert [arn.rpartition("/")[2] for arn in infrastructure["ManagedPolicyArns"]] == [
        "AmazonECSInfrastructureRolePolicyForManagedInstances"
    ]
    # AWS lets that role hand instances a role of this name only.
    instances = resource(template, "ClusterManagedSpotProviderInstanceRole")["Properties"]
    assert instances["RoleName"].startswith("ecsInstanceRole")
    assert len(instances["RoleName"]) <= 64


def test_managed_instances_on_both_ways_share_the_roles_that_are_given() -> None:
    stack, cluster, network = a_cluster()
    infrastructure, instances = (
        iam.Role.from_role_arn(stack, name, f"arn:aws:iam::123456789012:role/team/{name}", mutable=False)
        for name in ("infrastructure", "instances")
    )
    cluster.add_managed_instances_capacity(
        "Managed", network=network, spot=True, infrastructure_role=infrastructure, instance_role=instances
    )
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::IAM::Role", 0)
    assert only(template, "AWS::IAM::InstanceProfile")["Roles"] == ["instances"]
    for provider in ("OnDemand", "Spot"):
        found = plain(resource(template, f"ClusterManaged{provider}Provider")["Properties"]["ManagedInstancesProvider"])
        assert found["InfrastructureRoleArn"] == infrastructure.role_arn
        assert found["InstanceLaunchTemplate"]["Ec2InstanceProfileArn"] == "<ClusterManagedInstanceProfile.Arn>"
    required = {arn: stack.resolve(document) for arn, document in RequiredPolicy.of(stack).items()}
    assert set(required) == {infrastructure.role_arn}
    (statement,) = required[infrastructure.role_arn]["Statement"]
    assert canonical(statement) == allow(
        "iam:PassRole", instances.role_arn, {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    )


def test_one_role_of_managed_instances_may_be_given_and_the_other_made() -> None:
    stack, cluster, network = a_cluster()
    instances = iam.Role(stack, "Mine", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    cluster.add_managed_instances_capacity("Managed", network=network, instance_role=instances)
    template = Template.from_stack(stack)
    condition = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    infrastructure = "ClusterManagedOnDemandProviderOnDemandProviderRole"
    managed = "AmazonECSInfrastructureRolePolicyForManagedInstances"
    assert statements(template, infrastructure, managed) == [allow("iam:PassRole", "<Mine.Arn>", condition)]
    assert RequiredPolicy.of(stack) == {}


def test_a_role_of_the_app_for_instances_gets_what_the_agent_calls_and_nothing_of_the_cdks() -> None:
    own_stack, own_cluster, own_network = a_cluster()
    own_cluster.add_auto_scaling_capacity("Machines", network=own_network, instance_types=types("m7i.large"))
    stack, cluster, network = a_cluster()
    mine = iam.Role(stack, "Mine", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
    machines = cluster.add_auto_scaling_capacity(
        "Machines", network=network, instance_types=types("m7i.large"), role=mine
    )
    assert machines.role is mine
    own, template = Template.from_stack(own_stack), Template.from_stack(stack)
    assert statements(template, "Mine") == statements(own, "ClusterMachinesRole")
    template.resource_count_is("AWS::IAM::Role", 1)


def test_machines_of_ones_own_with_a_role_of_ones_own() -> None:
    stack, cluster, _ = a_cluster()
    role = iam.Role.from_role_arn(stack, "Given", "arn:aws:iam::123456789012:role/team/anywhere")
    own = cluster.add_external_capacity("Own", registration_role=role)
    assert own.registration_role is role
    Template.from_stack(stack).resource_count_is("AWS::IAM::Role", 0)
    assert " --iam-role team/anywhere --registration-limit 1 " in str(plain(stack.resolve(own.activation_command)))


def test_instances_on_spot_only() -> None:
    stack, cluster, network = a_cluster()
    machines = cluster.add_auto_scaling_capacity(
        "Cheap", network=network, instance_types=types("m7i.large", "m6i.large"), on_demand=False, spot=True
    )
    assert machines.on_demand_group is None
    assert machines.capacity.capacity_providers == (machines.capacity.spot,)
    assert default_spot_policy(machines.capacity) == SpotPolicy.SPOT
    group = only(Template.from_stack(stack), "AWS::AutoScaling::AutoScalingGroup")
    distribution = group["MixedInstancesPolicy"]["InstancesDistribution"]
    assert distribution["OnDemandPercentageAboveBaseCapacity"] == 0
    assert distribution["SpotAllocationStrategy"] == "price-capacity-optimized"


def test_machines_of_ones_own() -> None:
    stack, cluster, _ = a_cluster()
    own = cluster.add_external_capacity("Own", has_gpu=True)
    assert own.capacity == FlowCapacity("Own", CapacityKind.EXTERNAL, cpu_architecture="X86_64", has_gpu=True)
    assert cluster.capacity_providers == ("FARGATE", "FARGATE_SPOT")
    template = Template.from_stack(stack)
    role = plain(resource(template, "ClusterOwnRole")["Properties"])
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "ssm.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "<AWS::AccountId>"}}
    assert [arn.rpartition("/")[2] for arn in role["ManagedPolicyArns"]] == [
        "AmazonSSMManagedInstanceCore",
        "AmazonEC2ContainerServiceforEC2Role",
    ]
    activation, registration = plain(stack.resolve([own.activation_command, own.registration_command]))
    role_with_path = {"Fn::Select": [1, {"Fn::Split": [":role/", "<ClusterOwnRole.Arn>"]}]}
    assert activation.startswith(f"aws ssm create-activation --iam-role {role_with_path} --registration-limit 1 ")
    assert "--region <AWS::Region> --cluster <Cluster> " in registration
    assert registration.endswith('--activation-id "$ACTIVATION_ID" --activation-code "$ACTIVATION_CODE" --enable-gpu')


def test_refuses_machines_that_cannot_be() -> None:
    stack, cluster, network = a_cluster()
    for kwargs, words in (
        ({"instance_types": []}, ("at least one instance type", "got none")),
        ({"instance_types": types("m7i.large", "m7g.large")}, ("all of one architecture",)),
        (
            {"instance_types": types("m7i.large"), "on_demand": False},
            ("'Bad' needs on_demand=True, spot=True or both",),
        ),
        ({"instance_types": types("m7i.large"), "max_instances": 0}, ("max_instances must be 1 to 5000",)),
        ({"instance_types": types("m7i.large"), "disk": cdk.Size.gibibytes(8)}, ("at least 30 GiB", "got 8 GiB")),
    ):
        assert_refused(
            stack,
            lambda kwargs=kwargs: cluster.add_auto_scaling_capacity("Bad", network=network, **kwargs),  # type: ignore[misc]
            *words,
        )
    assert_refused(
        stack,
        lambda: cluster.add_managed_instances_capacity("Bad", network=network, has_gpu=True),
        "has_gpu needs instance_requirements",
    )
    assert_refused(
        stack, lambda: cluster.add_external_capacity("Bad", cpu_architecture="arm"), "X86_64 or ARM64; got 'arm'"
    )


def test_refuses_instances_that_reach_no_ecs() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", mode="endpoints")
    cluster = FlowCluster(stack, "Cluster", vpc=network.vpc)
    assert_refused(
        stack,
        lambda: cluster.add_managed_instances_capacity("Managed", network=network),
        "capacity 'Managed': the ECS agent has no way to ECS in network mode 'endpoints'",
    )


def test_refuses_a_twenty_first_provider() -> None:
    stack, cluster, network = a_cluster()
    for number in range(9):
        cluster.add_auto_scaling_capacity(f"M{number}", network=network, instance_types=types("m7i.large"), spot=True)
    assert len(cluster.capacity_providers) == 20
    assert_refused(
        stack,
        lambda: cluster.add_managed_instances_capacity("More", network=network),
        "a cluster has at most 20 capacity providers; this would be number 21",
    )


def test_an_existing_cluster() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    existing = ecs.Cluster.from_cluster_attributes(stack, "Existing", cluster_name="flows", vpc=vpc)
    cluster = FlowCluster.from_cluster(
        stack, "Cluster", cluster=existing, capacity_providers=("FARGATE", "FARGATE_SPOT", "gpu")
    )
    parts = make_parts(stack, vpc=vpc, cluster=cluster)
    gpu = FlowCapacity("gpu", CapacityKind.AUTO_SCALING, on_demand="gpu", cpu_architecture="X86_64", has_gpu=True)
    pool = parts.pool(capacity=gpu, gpus=2)
    parts.worker(pool)
    assert pool.spot_policy == SpotPolicy.ON_DEMAND
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::ECS::Cluster", 0)
    template.resource_count_is(ASSOCIATIONS, 0)
    assert plain(only(template, "AWS::ECS::Service"))["Cluster"] == "flows"
    assert_refused(
        stack,
        lambda: cluster.add_auto_scaling_capacity("More", network=parts.network, instance_types=types("m7i.large")),
        "'More' cannot be added to an existing cluster from here",
        "from_cluster(capacity_providers=",
    )
    missing = FlowCapacity("other", CapacityKind.AUTO_SCALING, on_demand="other")
    assert_refused(
        stack,
        lambda: parts.pool("Other", work_pool_name="other", capacity=missing),
        "capacity 'other' is not one of this cluster",
    )


@pytest.mark.parametrize(
    ("providers", "words"),
    [
        ([f"p{number}" for number in range(21)], "at most 20 capacity providers"),
        (["FARGATE", "FARGATE"], "may appear once; got FARGATE, FARGATE"),
        (["FARGATE_SPOT"], "FARGATE_SPOT without FARGATE"),
    ],
)
def test_refuses_providers_of_an_existing_cluster(providers: list[str], words: str) -> None:
    stack = new_stack()
    existing = ecs.Cluster.from_cluster_attributes(stack, "Existing", cluster_name="flows", vpc=imported_vpc(stack))
    assert_refused(
        stack,
        lambda: FlowCluster.from_cluster(stack, "Cluster", cluster=existing, capacity_providers=providers),
        words,
    )
