"""Mode `endpoints`: exactly the endpoints that are needed. The need is derived from what the roles may call and from
what the functions do call, so a new grant without its endpoint, or an endpoint without a grant, is seen here."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm
from aws_cdk.assertions import Annotations, Match, Template
from constructs import Construct
from library_helpers import (
    ACCOUNT_ID,
    API_KEY_PARAMETER,
    WORKSPACE_ID,
    assert_refused,
    cloud_api,
    imported_vpc,
    make_parts,
    new_app,
    new_stack,
    plain,
    statements,
)

from cdk_prefect_ecs import ApiSecret, FlowImage, FlowNetwork, FlowVolume, PrefectApi, PrefectExecutionLayer
from cdk_prefect_ecs.network_modes import NetworkMode
from cdk_prefect_ecs.network_reach import (
    ServiceCall,
    check_host_reach,
    endpoint_zones,
    flow_secret_calls,
    lazarus_calls,
    registry_on_the_internet,
    secret_calls,
    task_calls,
    worker_calls,
)

HERE = cdk.Environment(region="us-east-1")
FUNCTIONS = Path(__file__).parents[3] / "constructs" / "cdk_prefect_ecs" / "functions"

#: Endpoints that calls of a service's actions go through. A prefix that is not here fails: think about it.
ENDPOINTS: Mapping[str, set[str]] = {
    "ecr": {"ecr.api", "ecr.dkr"},
    "ecs": {"ecs"},
    "elasticfilesystem": set(),  # a mount is no call of the API: it goes to the mount targets in the VPC
    "iam": set(),  # iam:PassRole is no call
    "kms": set(),  # SSM and Secrets Manager call it, in the caller's name
    "logs": {"logs"},
    "s3": {"s3"},
    "secretsmanager": {"secretsmanager"},
    "sqs": {"sqs"},
    "ssm": {"ssm"},
    "ssmmessages": {"ssmmessages"},
}
#: What Lambda does with a function's role, from outside the VPC: write the log, poll the queue, fill the dead-letter
#: queue, make the network interfaces.
BY_LAMBDA = re.compile(r"logs:(CreateLogStream|PutLogEvents)|sqs:.*|ec2:.*")

#: Where secrets are kept, and the endpoints of that name.
SECRET_SERVICES = ("ssm", "secretsmanager")
TASK_ROLES = ("PrefectExecutionRole", "PrefectWorkerRole", "PrefectFlowRole")


def in_ecr(scope: Construct) -> FlowImage:
    return FlowImage.from_ecr_repository(ecr.Repository.from_repository_name(scope, "Repository", "flows"), "1.0")


def new_network(mode: NetworkMode = "endpoints", scope: Construct | None = None) -> FlowNetwork:
    return FlowNetwork(scope or new_stack(env=HERE), "Network", mode=mode)


def new_layer(network: FlowNetwork, scope: Construct | None = None, **settings: Any) -> PrefectExecutionLayer:
    """A layer in this network, with a server of one's own in the same VPC unless the settings say otherwise."""
    stack = scope or cdk.Stack.of(network)
    secret = settings.pop("secret", PrefectApi.ssm_secure_string(API_KEY_PARAMETER))
    given: dict[str, Any] = {
        "work_pool_name": "etl",
        "network": network,
    }
    if "api" not in settings:
        given["api"] = PrefectApi.self_hosted("https://prefect.internal/api", auth_string=secret, vpc=network.vpc)
    if "image" not in settings:
        given["image"] = in_ecr(stack)
    return PrefectExecutionLayer(stack, "Prefect", **(given | settings))


def endpoints(template: Template) -> set[str]:
    found = template.find_resources("AWS::EC2::VPCEndpoint").values()
    names = [
        re.sub(r"^com\.amazonaws\.[^.]+\.", "", plain(endpoint["Properties"]["ServiceName"])) for endpoint in found
    ]
    assert len(set(names)) == len(names)
    return set(names)


def called(template: Template, *roles: str, by_lambda: bool = False) -> set[str]:
    """The endpoints that calls of these roles go through."""
    actions = {
        action
        for role in roles
        for statement in statements(template, role)
        for action in statement["Action"]
        if not (by_lambda and BY_LAMBDA.fullmatch(action))
    }
    assert actions
    return {endpoint for action in actions for endpoint in ENDPOINTS[action.partition(":")[0]]}


def sync_role(template: Template) -> str:
    (role,) = [
        re.sub(r"[0-9A-F]{8}$", "", key)
        for key in template.find_resources("AWS::IAM::Role")
        if key.startswith("WorkPoolSync")
    ]
    return role


def secret_in_secrets_manager(scope: Construct) -> ApiSecret:
    return PrefectApi.secrets_manager(
        secretsmanager.Secret.from_secret_complete_arn(
            scope, "Secret", "arn:aws:secretsmanager:us-east-1:123456789012:secret:key-AbCdEf"
        )
    )


# Exactly what is needed


@pytest.mark.parametrize(
    ("secret", "enable_execute_command", "functions_inside"),
    [
        ("ssm", False, False),
        ("ssm", True, True),
        ("secretsmanager", True, False),
        ("secretsmanager", False, True),
        (None, False, False),
        (None, True, True),
    ],
)
def test_endpoints_are_those_that_the_roles_call(
    secret: str | None, enable_execute_command: bool, functions_inside: bool
) -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    auth_string = {
        "ssm": lambda: PrefectApi.ssm_secure_string(API_KEY_PARAMETER),
        "secretsmanager": lambda: secret_in_secrets_manager(stack),
        None: lambda: None,
    }[secret]()
    new_layer(
        network,
        api=PrefectApi.self_hosted(
            "https://prefect.internal/api",
            auth_string=auth_string,
            vpc=network.vpc if functions_inside else imported_vpc(stack),
        ),
        enable_execute_command=enable_execute_command,
    )
    template = Template.from_stack(stack)
    needed = called(template, *TASK_ROLES)
    if functions_inside:
        needed |= called(template, "PrefectLazarusRole", by_lambda=True)
        if secret:
            needed |= called(template, sync_role(template), by_lambda=True)
    assert endpoints(template) == needed
    assert ("ssmmessages" in needed, "ssm" in needed, "secretsmanager" in needed) == (
        enable_execute_command,
        secret == "ssm",
        secret == "secretsmanager",
    )


def test_without_lazarus_and_its_own_registry_fewer_are_needed() -> None:
    network = new_network()
    new_layer(network, image=FlowImage.from_registry("registry.internal:5000/flows:1"), lazarus=False, secret=None)
    template = Template.from_stack(cdk.Stack.of(network))
    assert endpoints(template) == called(template, *TASK_ROLES) == {"s3", "logs", "ecs", "sqs"}


def test_a_registry_that_asks_for_a_credential() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    credentials = secretsmanager.Secret.from_secret_complete_arn(
        stack, "Registry", "arn:aws:secretsmanager:us-east-1:123456789012:secret:registry-AbCdEf"
    )
    new_layer(network, image=FlowImage.from_registry("registry.internal:5000/flows:1", credentials=credentials))
    template = Template.from_stack(stack)
    assert endpoints(template) == called(template, *TASK_ROLES) == {"s3", "logs", "ecs", "sqs", "ssm", "secretsmanager"}


def flow_secret(scope: Construct, service: str, *, own_key: bool) -> ecs.Secret:
    key = kms.Key(scope, f"{service}Key") if own_key else None
    if service == "ssm":
        return ecs.Secret.from_ssm_parameter(
            ssm.StringParameter.from_secure_string_parameter_attributes(
                scope, "Password", parameter_name="/db/password", encryption_key=key
            )
        )
    return ecs.Secret.from_secrets_manager(secretsmanager.Secret(scope, "Database", encryption_key=key), "password")


def decrypts(template: Template, role: str) -> set[str]:
    """The services whose secrets this role may have decrypted with a key of one's own: with SSM the role is told so,
    with Secrets Manager the key."""
    own = {action for statement in statements(template, role) for action in statement["Action"]}
    of_keys = [
        plain(statement)
        for key in template.find_resources("AWS::KMS::Key").values()
        for statement in key["Properties"]["KeyPolicy"]["Statement"]
    ]
    via = {
        statement["Condition"]["StringEquals"]["kms:ViaService"].partition(".")[0]
        for statement in of_keys
        if statement["Principal"] == {"AWS": f"<{role}.Arn>"} and statement["Action"] == "kms:Decrypt"
        if "Condition" in statement
    }
    return via | ({"ssm"} if "kms:Decrypt" in own else set())


@pytest.mark.parametrize("own_key", [False, True])
@pytest.mark.parametrize("services", [{"ssm"}, {"secretsmanager"}, {"ssm", "secretsmanager"}])
def test_secrets_of_flow_runs_need_the_service_that_keeps_them(services: set[str], own_key: bool) -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    secrets = {service.upper(): flow_secret(stack, service, own_key=own_key) for service in services}
    new_layer(network, secret=None, flow_secrets=secrets)
    template = Template.from_stack(stack)
    assert endpoints(template) == called(template, *TASK_ROLES)
    assert endpoints(template) == services | {"s3", "ecr.api", "ecr.dkr", "logs", "ecs", "sqs"}
    assert decrypts(template, "PrefectExecutionRole") == (services if own_key else set())


@pytest.mark.parametrize(
    ("api_secret", "reasons"),
    [
        (None, {"ssm": "A secret of flow runs is an SSM parameter"}),
        ("ssm", {"ssm": "The credential of the Prefect API is an SSM parameter"}),
        (
            "secretsmanager",
            {
                "ssm": "A secret of flow runs is an SSM parameter",
                "secretsmanager": "A credential is in Secrets Manager",
            },
        ),
    ],
)
def test_an_endpoint_for_secrets_is_shared_and_says_what_came_first(
    api_secret: str | None, reasons: dict[str, str]
) -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    secret = {
        "ssm": lambda: PrefectApi.ssm_secure_string(API_KEY_PARAMETER),
        "secretsmanager": lambda: secret_in_secrets_manager(stack),
        None: lambda: None,
    }[api_secret]()
    new_layer(network, secret=secret, flow_secrets={"PASSWORD": flow_secret(stack, "ssm", own_key=False)})
    found = Template.from_stack(stack).find_resources("AWS::EC2::VPCEndpoint").values()
    tags = {
        endpoint["Properties"]["ServiceName"].rpartition(".")[2]: endpoint["Properties"]["Tags"]
        for endpoint in found
        if endpoint["Properties"]["ServiceName"] in [f"com.amazonaws.us-east-1.{name}" for name in SECRET_SERVICES]
    }
    assert {service: [tag["Value"] for tag in tags[service] if tag["Key"] == "Reason"] for service in tags} == {
        service: [reason] for service, reason in reasons.items()
    }


def test_a_secret_of_a_further_pool_is_reached_too() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    layer = new_layer(network)
    layer.add_work_pool("ml", flow_secrets={"PASSWORD": flow_secret(stack, "secretsmanager", own_key=False)})
    template = Template.from_stack(stack)
    assert endpoints(template) == called(template, *TASK_ROLES)
    assert "secretsmanager" in endpoints(template)


@pytest.mark.parametrize("service", SECRET_SERVICES)
def test_a_secret_is_reached_where_its_rights_are_not_ours_to_give(service: str) -> None:
    parts = make_parts(api=PrefectApi.self_hosted("https://prefect.internal/api"))
    network = FlowNetwork(parts.stack, "Closed", mode="endpoints")
    role = iam.Role.from_role_arn(parts.stack, "Given", "arn:aws:iam::123456789012:role/agent", mutable=False)
    secret = flow_secret(parts.stack, service, own_key=True)
    parts.pool(network=network, image=in_ecr(parts.stack), execution_role=role, secrets={"PASSWORD": secret})
    assert service in endpoints(Template.from_stack(parts.stack))


def test_secrets_need_no_endpoint_where_there_is_a_way_out() -> None:
    network = new_network("nat")
    stack = cdk.Stack.of(network)
    new_layer(network, image=None, flow_secrets={"PASSWORD": flow_secret(stack, "secretsmanager", own_key=True)})
    assert endpoints(Template.from_stack(stack)) == {"s3"}


def test_file_systems_need_no_endpoint_but_mount_targets_and_the_vpcs_dns() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    files = efs.FileSystem(stack, "Files", vpc=network.vpc, encrypted=True, kms_key=kms.Key(stack, "Key"))
    layer = new_layer(network, flow_volumes=[FlowVolume(files.add_access_point("Data"), "/data")])
    template = Template.from_stack(stack)
    assert endpoints(template) == called(template, *TASK_ROLES)
    mounts = {a for s in statements(template, "PrefectFlowRole") for a in s["Action"] if "elasticfilesystem" in a}
    assert mounts == {"elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"}
    # One mount target in each subnet that flow runs are placed in, and their names are in the DNS of the VPC.
    targets = template.find_resources("AWS::EFS::MountTarget").values()
    pool = layer.work_pool.job_template["variables"]["properties"]["network_configuration"]["default"]
    assert [target["Properties"]["SubnetId"] for target in targets] == stack.resolve(pool["subnets"])
    (vpc,) = template.find_resources("AWS::EC2::VPC").values()
    assert (vpc["Properties"]["EnableDnsSupport"], vpc["Properties"]["EnableDnsHostnames"]) == (True, True)
    nfs = template.find_resources("AWS::EC2::SecurityGroupIngress", {"Properties": {"FromPort": 2049}}).values()
    assert {plain(rule["Properties"]["SourceSecurityGroupId"]) for rule in nfs} == {"<NetworkSecurityGroup.GroupId>"}


def test_the_functions_call_nothing_else() -> None:
    clients = {
        node.args[0].value
        for file in FUNCTIONS.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("aws_client", "_client")
        and isinstance(node.args[0], ast.Constant)
    }
    possible = {call.service for secret in ("ssm", "secretsmanager") for call in lazarus_calls(secret_service=secret)}
    assert clients == possible == {"ecs", "logs", "ssm", "secretsmanager"}


@pytest.mark.parametrize("mode", ["public", "nat"])
def test_with_a_way_out_there_are_none(mode: NetworkMode) -> None:
    network = new_network(mode)
    new_layer(network, api=cloud_api(), image=None)
    assert endpoints(Template.from_stack(cdk.Stack.of(network))) == {"s3"}


def test_every_endpoint_says_why_and_is_in_every_zone_unless_nothing_waits_for_it() -> None:
    network = new_network()
    new_layer(network)
    template = Template.from_stack(cdk.Stack.of(network))
    calls = {
        *task_calls(image_in_ecr=True, secret_service="ssm"),
        *worker_calls(enable_execute_command=False),
        *lazarus_calls(secret_service="ssm"),
    }
    found = {
        endpoint["Properties"]["ServiceName"]: endpoint["Properties"]
        for endpoint in template.find_resources(
            "AWS::EC2::VPCEndpoint", {"Properties": {"VpcEndpointType": "Interface"}}
        ).values()
    }
    for call in calls:
        endpoint = found[f"com.amazonaws.us-east-1.{call.service}"]
        assert {"Key": "Reason", "Value": call.reason} in endpoint["Tags"]
        assert len(endpoint["SubnetIds"]) == (1 if call.service == "sqs" else 3)
    assert sum(len(endpoint["SubnetIds"]) for endpoint in found.values()) == endpoint_zones(list(calls), 3) == 16


def test_reasons_are_values_of_tags() -> None:
    network = new_network()
    for call in (
        *(call for secret in ("ssm", "secretsmanager") for call in secret_calls(secret)),
        *task_calls(image_in_ecr=True, secret_service=None),
        *worker_calls(enable_execute_command=True),
        *flow_secret_calls(["ssm:GetParameters", "secretsmanager:GetSecretValue"]),
    ):
        network.add_service_endpoint(call.service, used_by=network, reason=call.reason)


# For those who need them


def users(template: Template) -> set[str]:
    """Who may connect to the endpoints; asserted to be on 443 only, and that nothing else lets anything in."""
    rules = [plain(rule["Properties"]) for rule in template.find_resources("AWS::EC2::SecurityGroupIngress").values()]
    assert {(rule["GroupId"], rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules} == {
        ("<NetworkEndpointsSecurityGroup.GroupId>", "tcp", 443, 443)
    }
    for group in template.find_resources("AWS::EC2::SecurityGroup").values():
        assert "SecurityGroupIngress" not in group["Properties"]
    return {rule["SourceSecurityGroupId"] for rule in rules}


TASKS = {"<NetworkSecurityGroup.GroupId>", "<PrefectWorkerSecurityGroup.GroupId>"}


def test_flow_runs_and_worker_are_let_in_and_nobody_else() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    outside = PrefectApi.self_hosted("https://prefect.internal/api", vpc=imported_vpc(stack))
    new_layer(network, api=outside)
    assert users(Template.from_stack(stack)) == TASKS


def test_functions_are_let_in_when_they_are_in_the_vpc() -> None:
    network = new_network()
    new_layer(network)
    template = Template.from_stack(cdk.Stack.of(network))
    assert len(users(template)) == 4
    assert "<PrefectLazarusFunctionSecurityGroup.GroupId>" in users(template)
    assert any("WorkPoolSync" in user for user in users(template))
    assert users(template) > TASKS


def test_worker_and_pool_wait_for_the_endpoints() -> None:
    network = new_network()
    new_layer(network)
    template = Template.from_stack(cdk.Stack.of(network))
    interfaces = set(template.find_resources("AWS::EC2::VPCEndpoint"))
    for resource_type in ("AWS::ECS::Service", "Custom::PrefectWorkPool"):
        (found,) = template.find_resources(resource_type).values()
        assert interfaces <= set(found["DependsOn"])


def test_nothing_reports_its_use_to_the_internet() -> None:
    network = new_network()
    layer = new_layer(network)
    template = Template.from_stack(cdk.Stack.of(network))
    (definition,) = template.find_resources("AWS::ECS::TaskDefinition").values()
    worker = definition["Properties"]["ContainerDefinitions"][0]["Environment"]
    assert {"Name": "DO_NOT_TRACK", "Value": "1"} in worker
    assert layer.work_pool.job_template["variables"]["properties"]["env"]["default"]["DO_NOT_TRACK"] == "1"


def test_two_stacks_share_a_network_and_do_not_know_each_other() -> None:
    app = new_app()
    foundation, one, two = (cdk.Stack(app, name, env=HERE) for name in ("Foundation", "One", "Two"))
    network = new_network(scope=foundation)
    for stack in (one, two):
        new_layer(network, scope=stack, work_pool_name=stack.stack_name.lower())
    app.synth()
    assert foundation.dependencies == []
    assert one.dependencies == two.dependencies == [foundation]
    # The rule is where the worker is; the one for the flow runs, which both share, is where the network is.
    assert len(Template.from_stack(foundation).find_resources("AWS::EC2::SecurityGroupIngress")) == 1
    for stack in (one, two):
        rules = Template.from_stack(stack).find_resources("AWS::EC2::SecurityGroupIngress").values()
        assert sorted(plain(rule["Properties"]["SourceSecurityGroupId"]).partition("Function")[0] for rule in rules)[
            :2
        ] == ["<PrefectLazarus", "<PrefectWorkerSecurityGroup.GroupId>"]


# Out of reach


def test_prefect_cloud_is_refused_without_a_way_there() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    image = in_ecr(stack)
    assert_refused(
        stack,
        lambda: new_layer(network, api=cloud_api(), image=image),
        "in network mode 'endpoints' nothing reaches Prefect Cloud",
        "use mode 'nat' or 'public'",
        "pass vpc to PrefectApi.cloud",
    )


def test_prefect_cloud_over_privatelink_is_private() -> None:
    network = new_network()
    layer = new_layer(
        network,
        api=PrefectApi.cloud(
            account_id=ACCOUNT_ID,
            workspace_id=WORKSPACE_ID,
            api_key=PrefectApi.ssm_secure_string(API_KEY_PARAMETER),
            vpc=network.vpc,
        ),
    )
    template = Template.from_stack(cdk.Stack.of(network))
    (service,) = template.find_resources("AWS::ECS::TaskDefinition").values()
    environment = service["Properties"]["ContainerDefinitions"][0]["Environment"]
    assert {
        "Name": "PREFECT_API_URL",
        "Value": f"https://api.private.prefect.cloud/api/accounts/{ACCOUNT_ID}/workspaces/{WORKSPACE_ID}",
    } in environment
    assert layer.lazarus is not None
    assert layer.lazarus.function.is_bound_to_vpc


@pytest.mark.parametrize(
    "image",
    [FlowImage.default(), FlowImage.from_registry("ghcr.io/acme/flows:1"), FlowImage.from_registry("docker.io/a/b:1")],
)
def test_an_image_on_the_internet_is_refused(image: FlowImage) -> None:
    network = new_network()
    assert_refused(
        cdk.Stack.of(network),
        lambda: new_layer(network, image=image),
        "in network mode 'endpoints' nothing reaches",
        image.reference,
        "FlowImage.from_ecr_repository",
    )


def test_worker_and_pool_refuse_by_themselves() -> None:
    parts = make_parts()
    network = FlowNetwork(parts.stack, "Private", mode="endpoints")
    pool = parts.pool("Fine")
    assert_refused(parts.stack, lambda: parts.pool(work_pool_name="other", network=network), "nothing reaches Prefect")
    assert_refused(parts.stack, lambda: parts.worker(pool, network=network), "nothing reaches Prefect Cloud")


def test_a_token_passes_as_image() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    new_layer(network, image=FlowImage.from_registry(cdk.CfnParameter(stack, "Image").value_as_string))
    assert "ecr.api" not in endpoints(Template.from_stack(stack))


def test_an_existing_vpc_is_not_judged() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", vpc=imported_vpc(stack))
    network.check_reach(api=cloud_api(), image=FlowImage.default())


@pytest.mark.parametrize("mode", ["public", "endpoints"])
def test_a_server_that_only_the_functions_reach_is_warned_of(mode: NetworkMode) -> None:
    network = new_network(mode)
    stack = cdk.Stack.of(network)
    new_layer(network, api=PrefectApi.self_hosted("https://prefect.example.com/api"))
    found = Annotations.from_stack(stack).find_warning(
        "*", Match.string_like_regexp("no way to the internet.*https://prefect.example.com/api.*PrefectApi.self_hosted")
    )
    assert len(found) == (1 if mode == "endpoints" else 0)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("prefecthq/prefect:3", "docker.io"),
        ("python:3.12", "docker.io"),
        ("docker.io/library/python:3.12", "docker.io"),
        ("public.ecr.aws/docker/library/python:3.12", "public.ecr.aws"),
        ("ghcr.io/acme/flows:1", "ghcr.io"),
        ("registry.internal:5000/flows:1", None),
        ("localhost/flows:1", None),
        ("harbor.acme.com/flows@sha256:0", None),
    ],
)
def test_registries(image: str, registry: str | None) -> None:
    assert registry_on_the_internet(image) == registry


def test_services_of_secrets_are_those_of_the_actions() -> None:
    assert flow_secret_calls(["kms:Decrypt", "ssmmessages:OpenDataChannel"]) == ()
    found = flow_secret_calls(["secretsmanager:GetSecretValue", "ssm:GetParameters", "ssm:GetParameter"])
    assert [call.service for call in found] == ["ssm", "secretsmanager"]
    assert all(call.every_zone for call in found)


@pytest.mark.parametrize("mode", [None, "public", "nat", "default-vpc"])
def test_a_worker_host_has_a_way_to_pypi(mode: str | None) -> None:
    check_host_reach(mode)


def test_endpoint_zones_count_a_service_once() -> None:
    once = ServiceCall("b", "why", every_zone=False)
    calls = [ServiceCall("a", "why"), ServiceCall("a", "another reason"), once, once]
    assert endpoint_zones(calls, 3) == 4
    assert endpoint_zones([*calls, ServiceCall("b", "why")], 3) == 6
    assert endpoint_zones([], 3) == 0


def test_flow_runs_of_a_layer_can_be_let_in_elsewhere() -> None:
    network = new_network()
    layer = new_layer(network)
    stack = cdk.Stack.of(network)
    database = ec2.SecurityGroup(stack, "Database", vpc=network.vpc)
    for caller in (layer, network, layer.worker):
        ec2.Connections(security_groups=[database]).allow_from(caller, ec2.Port.tcp(5432))
    rules = Template.from_stack(stack).find_resources(
        "AWS::EC2::SecurityGroupIngress", {"Properties": {"FromPort": 5432}}
    )
    assert {plain(rule["Properties"]["SourceSecurityGroupId"]) for rule in rules.values()} == TASKS


def test_log_group_of_ones_own_is_reached_too() -> None:
    network = new_network()
    stack = cdk.Stack.of(network)
    new_layer(network, log_group=logs.LogGroup.from_log_group_name(stack, "Logs", "/prefect"))
    template = Template.from_stack(stack)
    assert endpoints(template) == called(template, *TASK_ROLES)
