"""A Prefect server of one's own, and who is let in."""

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Match, Template
from library_helpers import (
    allow,
    assert_refused,
    imported_vpc,
    new_app,
    new_stack,
    only,
    plain,
    resource,
    statements,
    through,
)

from cdk_prefect_ecs import (
    DaskAccess,
    FlowCluster,
    FlowImage,
    FlowNetwork,
    PrefectApi,
    PrefectExecutionLayer,
    PrefectServer,
    ServerDatabase,
)

INGRESS = "AWS::EC2::SecurityGroupIngress"


def private_network(scope: cdk.Stack, **kwargs: Any) -> FlowNetwork:
    return FlowNetwork(scope, "Network", **({"vpc": imported_vpc(scope)} | kwargs))


def server(stack: cdk.Stack | None = None, **kwargs: Any) -> PrefectServer:
    stack = stack or new_stack()
    network = kwargs.pop("network", None) or private_network(stack)
    return PrefectServer(stack, "Server", network=network, **kwargs)


def container(template: Template) -> dict[str, Any]:
    (found,) = plain(resource(template, "ServerTaskDefinition")["Properties"])["ContainerDefinitions"]
    return dict(found)


def let_in(template: Template) -> set[tuple[str, str, int]]:
    """Who is let in, to what, and at which port."""
    rules = [plain(rule["Properties"]) for rule in template.find_resources(INGRESS).values()]
    return {(str(r["SourceSecurityGroupId"]), str(r["GroupId"]), r["FromPort"]) for r in rules}


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.from_stack(cdk.Stack.of(server()))


def test_the_service_is_one_task_on_demand(template: Template) -> None:
    service = only(template, "AWS::ECS::Service")
    assert service["DesiredCount"] == 1
    assert service["CapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE", "Weight": 1}]
    configuration = service["DeploymentConfiguration"]
    assert configuration["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    # Never two servers at one database.
    assert (configuration["MinimumHealthyPercent"], configuration["MaximumPercent"]) == (0, 100)
    awsvpc = plain(service["NetworkConfiguration"]["AwsvpcConfiguration"])
    assert awsvpc == {
        "AssignPublicIp": "DISABLED",
        "SecurityGroups": ["<ServerSecurityGroup.GroupId>"],
        "Subnets": ["subnet-private-1", "subnet-private-2"],
    }


def test_the_container_starts_the_server_with_its_database(template: Template) -> None:
    found = container(template)
    assert found["Image"] == FlowImage.default().reference
    assert found["Command"] == ["prefect", "server", "start"]
    assert found["StopTimeout"] == 30
    assert {pair["Name"]: pair["Value"] for pair in found["Environment"]} == {
        "PREFECT_SERVER_API_HOST": "0.0.0.0",  # noqa: S104
        "PREFECT_SERVER_API_PORT": "4200",
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": "<ServerDatabaseInstance.Endpoint.Address>",
        "PREFECT_SERVER_DATABASE_PORT": "<ServerDatabaseInstance.Endpoint.Port>",
        "PREFECT_SERVER_DATABASE_NAME": "prefect",
    }
    assert {pair["Name"]: pair["ValueFrom"] for pair in found["Secrets"]} == {
        "PREFECT_SERVER_API_AUTH_STRING": "<ServerAuthString>",
        "PREFECT_SERVER_DATABASE_USER": "<ServerDatabaseSecret>:username::",
        "PREFECT_SERVER_DATABASE_PASSWORD": "<ServerDatabaseSecret>:password::",
    }
    assert found["LogConfiguration"]["Options"]["awslogs-stream-prefix"] == "server"
    check = found["HealthCheck"]
    assert (check["Interval"], check["Retries"], check["StartPeriod"]) == (10, 6, 300)
    assert "/api/health" in check["Command"][-1]


def test_every_setting_is_one_of_the_pinned_prefect(template: Template) -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    known = {setting.name for setting in _get_settings_fields(Settings).values()}
    found = container(template)
    with_ca = container(Template.from_stack(cdk.Stack.of(server(database_ca_file="/etc/ssl/rds.pem"))))
    writing = FlowImage.from_registry("ghcr.io/acme/flows:1", writable_paths=["/home/prefect", "/tmp"])  # noqa: S108
    read_only = container(Template.from_stack(cdk.Stack.of(server(image=writing))))
    names = {pair["Name"] for each in (found, with_ca, read_only) for pair in (*each["Environment"], *each["Secrets"])}
    assert len(names) == 13
    assert names <= known


def test_the_password_is_generated_and_by_reference_only(template: Template) -> None:
    secret = resource(template, "ServerAuthString")["Properties"]
    assert secret["GenerateSecretString"] == {"ExcludePunctuation": True, "PasswordLength": 40}
    assert "SecretString" not in secret
    instance = plain(resource(template, "ServerDatabaseInstance")["Properties"])
    assert instance["MasterUsername"] == "prefect"
    assert instance["MasterUserPassword"] == "{{resolve:secretsmanager:<ServerDatabaseSecret>:SecretString:password::}}"


def test_roles_are_exact(template: Template) -> None:
    assert statements(template, "ServerExecutionRole") == [
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<ServerLogGroup.Arn>"),
        allow("secretsmanager:GetSecretValue", ["<ServerAuthString>", "<ServerDatabaseSecret>"]),
    ]
    assert statements(template, "ServerTaskRole") == []
    for role in ("ServerExecutionRole", "ServerTaskRole"):
        (trust,) = plain(resource(template, role)["Properties"]["AssumeRolePolicyDocument"])["Statement"]
        assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": "<AWS::AccountId>"}


def test_it_has_a_private_name(template: Template) -> None:
    zone = only(template, "AWS::ServiceDiscovery::PrivateDnsNamespace")
    assert (zone["Name"], zone["Vpc"]) == ("test-server.internal", "vpc-1")
    name = plain(only(template, "AWS::ServiceDiscovery::Service"))
    assert name["Name"] == "prefect"
    assert name["DnsConfig"]["DnsRecords"] == [{"TTL": 10, "Type": "A"}]
    (registry,) = plain(only(template, "AWS::ECS::Service")["ServiceRegistries"])
    assert registry["RegistryArn"] == "<ServerServiceCloudmapService.Arn>"


def test_nobody_is_let_in_but_the_server_to_its_database(template: Template) -> None:
    for group in template.find_resources("AWS::EC2::SecurityGroup").values():
        assert "SecurityGroupIngress" not in group["Properties"]
    assert let_in(template) == {
        ("<ServerSecurityGroup.GroupId>", "<ServerDatabaseSecurityGroup.GroupId>", 5432),
    }


def test_the_server_waits_for_its_database_and_for_being_let_in(template: Template) -> None:
    waits = {name.rstrip("0123456789ABCDEF") for name in resource(template, "ServerService")["DependsOn"]}
    rule = next(iter(template.find_resources(INGRESS))).rstrip("0123456789ABCDEF")
    assert {"ServerDatabaseInstance", "ServerExecutionRoleDefaultPolicy", rule} <= waits


def test_api_of_the_layer() -> None:
    made = server()
    api = made.api
    assert api.url == "http://prefect.test-server.internal:4200/api"
    assert (api.scheme, api.secret_variable, api.secret_service) == (
        "Basic",
        "PREFECT_API_AUTH_STRING",
        "secretsmanager",
    )
    assert api.server is made
    assert api.vpc is not None
    assert api.vpc.vpc_id == "vpc-1"


def test_a_layer_lets_itself_in() -> None:
    stack = new_stack()
    network = private_network(stack)
    made = server(stack, network=network)
    layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=made.api, network=network)
    layer.add_work_pool("more", worker_instance_type=ec2.InstanceType("t4g.micro"))
    template = Template.from_stack(stack)
    callers = {
        who for who, target, port in let_in(template) if (target, port) == ("<ServerSecurityGroup.GroupId>", 4200)
    }
    assert {caller for caller in callers if not caller.startswith("<WorkPoolSync")} == {
        "<NetworkSecurityGroup.GroupId>",
        "<PrefectWorkerSecurityGroup.GroupId>",
        "<PrefectPoolmoreWorkerHostSecurityGroup.GroupId>",
        "<PrefectLazarusFunctionSecurityGroup.GroupId>",
    }
    assert len(callers) == 5
    # The pool is made once the server answers, and lets in the function that makes it.
    waits = {name.rstrip("0123456789ABCDEF") for name in resource(template, "PrefectWorkPool")["DependsOn"]}
    assert "ServerService" in waits
    sync = [name for name in waits if name.startswith("ServerSecurityGroupfrom") and "WorkPoolSync" in name]
    assert len(sync) == 1
    for user in ("PrefectWorkerService", "PrefectPoolmoreWorkerHostGroupASG"):
        assert "ServerService" in {name.rstrip("0123456789ABCDEF") for name in resource(template, user)["DependsOn"]}


def test_stacks_of_their_own_depend_on_each_other_one_way() -> None:
    app = new_app()
    data, serving, *layers = (cdk.Stack(app, name) for name in ("Data", "Serving", "One", "Two"))
    network = FlowNetwork(data, "Network", mode="nat", max_azs=2)
    database = ServerDatabase(data, "Database", network=network)
    made = PrefectServer(serving, "Server", network=network, database=database)
    for stack in layers:
        PrefectExecutionLayer(stack, "Prefect", work_pool_name=stack.stack_name, api=made.api, network=network)
    stacks = {each.stack_name: each for each in app.synth().stacks}

    def needs(name: str) -> set[str]:
        return {each.id for each in stacks[name].dependencies if each.id in stacks}

    assert needs("Data") == set()
    assert needs("Serving") == {"Data"}
    assert needs("One") == needs("Two") == {"Data", "Serving"}
    # AWS refuses a rule that is there already: what both layers share is let in once, and not by both.
    counts = {
        name: len(Template.from_stack(stack).find_resources(INGRESS))
        for name, stack in zip(("Data", "Serving", "One", "Two"), (data, serving, *layers), strict=True)
    }
    assert counts == {"Data": 0, "Serving": 2, "One": 3, "Two": 3}
    pool = resource(Template.from_stack(layers[0]), "PrefectWorkPool")
    assert [name for name in pool["DependsOn"] if "SecurityGroup" in name and "4200" in name]


def test_a_layer_in_a_nested_stack() -> None:
    stack = new_stack()
    network = private_network(stack)
    made = server(stack, network=network)
    nested = cdk.NestedStack(stack, "Nested")
    PrefectExecutionLayer(nested, "Prefect", work_pool_name="etl", api=made.api, network=network)
    assert len(Template.from_stack(nested).find_resources(INGRESS)) == 3
    assert len(Template.from_stack(stack).find_resources(INGRESS)) == 2


def test_the_cdk_has_nothing_to_say_of_a_server_and_its_layer() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", mode="nat", max_azs=2)
    PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=server(stack, network=network).api, network=network
    )
    said = [
        entry for child in stack.node.find_all() for entry in child.node.metadata if entry.type.startswith("aws:cdk:w")
    ]
    assert said == []


def test_others_are_let_in_by_the_cdk() -> None:
    stack = new_stack()
    network = private_network(stack)
    made = server(stack, network=network)
    bastion = ec2.SecurityGroup(stack, "Bastion", vpc=network.vpc)
    made.connections.allow_default_port_from(bastion)
    dask = DaskAccess(stack, "Dask", cluster=made.cluster, network=network)
    made.api.let_in(stack, dask)
    callers = {
        who for who, target, _ in let_in(Template.from_stack(stack)) if target == "<ServerSecurityGroup.GroupId>"
    }
    assert callers == {"<Bastion.GroupId>", "<DaskSecurityGroup.GroupId>"}


def test_everything_set() -> None:
    stack = new_stack()
    key = kms.Key(stack, "Key")
    network = private_network(stack)
    repository = ecr.Repository(stack, "Images")
    made = server(
        stack,
        network=network,
        database=ServerDatabase.from_existing(
            stack,
            "Aurora",
            host="aurora.example.com",
            port=6432,
            database_name="team_prefect",
            secret=secretsmanager.Secret(stack, "Login", encryption_key=key),
            security_group=ec2.SecurityGroup.from_security_group_id(stack, "AuroraGroup", "sg-aurora"),
        ),
        auth_string=PrefectApi.ssm_secure_string("/prefect/server/auth-string", encryption_key=key),
        cluster=FlowCluster(stack, "Cluster", vpc=network.vpc, spot=False),
        image=FlowImage.from_ecr_repository(
            repository,
            "1.0",
            cpu_architecture="ARM64",
            writable_paths=["/home/p", "/tmp"],  # noqa: S108
        ),
        log_group=logs.LogGroup(stack, "Logs"),
        encryption_key=key,
        host_name="prefect.acme.internal",
        port=8080,
        cpu=1024,
        memory_mib=2048,
        cpu_architecture="ARM64",
        database_ca_file="/etc/ssl/rds.pem",
        environment={"PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
    )
    assert made.auth_secret is None
    assert made.api.url == "http://prefect.acme.internal:8080/api"
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::RDS::DBInstance", 0)
    definition = resource(template, "ServerTaskDefinition")["Properties"]
    assert (definition["Cpu"], definition["Memory"]) == ("1024", "2048")
    assert definition["RuntimePlatform"]["CpuArchitecture"] == "ARM64"
    found = container(template)
    assert found["ReadonlyRootFilesystem"] is True
    assert {mount["ContainerPath"] for mount in found["MountPoints"]} == {"/home/p", "/tmp"}  # noqa: S108
    prefix = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS"
    environment = {pair["Name"]: pair["Value"] for pair in found["Environment"]}
    assert environment[f"{prefix}_ENABLED"] == "true"
    assert environment[f"{prefix}_CA_FILE"] == "/etc/ssl/rds.pem"
    assert environment["PREFECT_SERVER_UI_STATIC_DIRECTORY"] == "/home/p/prefect-ui"
    assert environment["PREFECT_SERVER_DATABASE_HOST"] == "aurora.example.com"
    assert environment["PREFECT_SERVER_DATABASE_PORT"] == "6432"
    assert environment["PREFECT_SERVER_DATABASE_NAME"] == "team_prefect"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert only(template, "AWS::ServiceDiscovery::PrivateDnsNamespace")["Name"] == "acme.internal"
    assert let_in(template) == {("<ServerSecurityGroup.GroupId>", "sg-aurora", 6432)}
    granted = statements(template, "ServerExecutionRole")
    parameter = "arn:<AWS::Partition>:ssm:<AWS::Region>:<AWS::AccountId>:parameter/prefect/server/auth-string"
    for expected in (
        allow("ssm:GetParameters", parameter),
        allow("kms:Decrypt", "<Key.Arn>", through("ssm")),
        allow("secretsmanager:GetSecretValue", "<Login>"),
        allow("kms:Decrypt", "<Key.Arn>", through("secretsmanager")),
    ):
        assert expected in granted


def test_a_key_is_for_all_that_is_made() -> None:
    stack = new_stack()
    server(stack, encryption_key=kms.Key(stack, "Key"))
    template = Template.from_stack(stack)
    keys = {
        name: plain(resource(template, name)["Properties"]["KmsKeyId"])
        for name in ("ServerAuthString", "ServerDatabaseSecret", "ServerDatabaseInstance", "ServerLogGroup")
    }
    assert set(keys.values()) == {"<Key.Arn>"}
    assert allow("kms:Decrypt", "<Key.Arn>", through("secretsmanager")) in statements(template, "ServerExecutionRole")


def test_given_roles_are_used() -> None:
    stack = new_stack()
    roles = {
        name: iam.Role.from_role_arn(stack, name, f"arn:aws:iam::123456789012:role/{name}", mutable=False)
        for name in ("agent", "server")
    }
    server(stack, execution_role=roles["agent"], task_role=roles["server"])
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::IAM::Role", 0)
    definition = resource(template, "ServerTaskDefinition")["Properties"]
    assert definition["ExecutionRoleArn"] == "arn:aws:iam::123456789012:role/agent"
    assert definition["TaskRoleArn"] == "arn:aws:iam::123456789012:role/server"


def test_endpoints_for_what_starts_the_server() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", mode="endpoints", max_azs=2)
    repository = ecr.Repository.from_repository_name(stack, "Images", "flows")
    server(stack, network=network, image=FlowImage.from_ecr_repository(repository, "1.0"))
    template = Template.from_stack(stack)
    names = {
        plain(each["Properties"]["ServiceName"]).rpartition("<AWS::Region>.")[2]
        for each in template.find_resources("AWS::EC2::VPCEndpoint").values()
    }
    assert names == {"s3", "ecr.api", "ecr.dkr", "logs", "secretsmanager"}
    environment = {pair["Name"]: pair["Value"] for pair in container(template)["Environment"]}
    assert environment["DO_NOT_TRACK"] == "1"


def test_two_in_one_stack_have_names_of_their_own() -> None:
    stack = new_stack()
    network = private_network(stack)
    first, second = (PrefectServer(stack, name, network=network) for name in ("One", "Two"))
    assert {first.host_name, second.host_name} == {"prefect.test-one.internal", "prefect.test-two.internal"}
    Template.from_stack(stack).resource_count_is("AWS::RDS::DBInstance", 2)


def test_names_in_nested_stacks_and_constructs() -> None:
    stack = new_stack()
    inner = cdk.NestedStack(stack, "Inner")
    made = PrefectServer(inner, "Server", network=private_network(inner))
    assert made.host_name == "prefect.testinnerdf936462-server.internal"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cpu": 300}, "cpu"),
    ({"cpu_architecture": "RISC"}, "cpu_architecture must be X86_64 or ARM64; got 'RISC'"),
    ({"port": 80}, "port must be from 1024 to 65535, such as Prefect's own 4200; got 80"),
    ({"host_name": "prefect"}, "host_name must be two or more labels"),
    ({"host_name": "Prefect.Internal"}, "got 'Prefect.Internal'"),
    ({"host_name": ".".join(["a" * 60] * 5)}, "host_name must be two or more labels"),
    (
        {"environment": {"PREFECT_SERVER_DATABASE_PASSWORD": "no"}},
        "environment must not hold PREFECT_SERVER_DATABASE_PASSWORD, which the server is given by database",
    ),
    ({"environment": {"PREFECT_API_KEY": "no"}}, "environment must not hold PREFECT_API_KEY"),
    ({"database_ca_file": "rds.pem"}, "database_ca_file"),
    (
        {"image": FlowImage.from_registry("acme/flows:1", cpu_architecture="ARM64")},
        "the image is built for ARM64",
    ),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=range(len(REFUSED)))
def test_refused(given: dict[str, Any], words: str) -> None:
    stack = new_stack()
    network = private_network(stack)
    assert_refused(stack, lambda: server(stack, network=network, **given), words)


def test_a_public_network_is_refused() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network")
    assert_refused(
        stack,
        lambda: PrefectServer(stack, "Server", network=network),
        "the functions that call the Prefect API are placed in private subnets of vpc, and it has none",
        "Use a FlowNetwork of mode 'nat' or 'endpoints'",
    )


def test_an_image_out_of_reach_is_refused() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", mode="endpoints", max_azs=2)
    assert_refused(
        stack, lambda: PrefectServer(stack, "Server", network=network), "in network mode 'endpoints' nothing reaches"
    )


def test_a_layer_elsewhere_is_refused() -> None:
    stack = new_stack()
    api = server(stack).api
    words = "the Prefect server at http://prefect.test-server.internal:4200/api can be reached from its own VPC only"
    assert_refused(stack, lambda: PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=api), words)
    other = FlowNetwork(stack, "Other", mode="nat", max_azs=2)
    assert_refused(
        stack,
        lambda: PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=api, network=other),
        words,
        "use the network of the server",
    )


def test_a_server_that_somebody_else_made_lets_in_too() -> None:
    stack = new_stack()
    network = private_network(stack)
    group = ec2.SecurityGroup(stack, "LoadBalancer", vpc=network.vpc)
    front = ec2.Connections(security_groups=[group], default_port=ec2.Port.HTTPS)
    api = PrefectApi.self_hosted("https://prefect.acme.com/api", vpc=network.vpc, server=front)
    PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=api, network=network)
    rules = let_in(Template.from_stack(stack))
    assert {(target, port) for _, target, port in rules} == {("<LoadBalancer.GroupId>", 443)}
    assert len(rules) == 4


def test_https_by_a_load_balancer_as_the_page_has_it() -> None:
    stack = new_stack()
    network = FlowNetwork(stack, "Network", mode="nat", max_azs=2)
    made = server(stack, network=network)
    certificate = acm.Certificate.from_certificate_arn(
        stack, "Certificate", "arn:aws:acm:us-east-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef"
    )
    balancer = elbv2.ApplicationLoadBalancer(stack, "Balancer", vpc=network.vpc, internet_facing=False)
    listener = balancer.add_listener("Https", port=443, certificates=[certificate], open=False)
    listener.add_targets(
        "Prefect",
        port=4200,
        protocol=elbv2.ApplicationProtocol.HTTP,
        targets=[made.service],
        health_check=elbv2.HealthCheck(path="/api/health"),
    )
    api = PrefectApi.self_hosted(
        "https://prefect.acme.com/api", auth_string=made.api.secret, vpc=network.vpc, server=listener
    )
    layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=api, network=network)
    layer.work_pool.resource.node.add_dependency(made.service)
    template = Template.from_stack(stack)
    rules = let_in(template)
    assert ("<BalancerSecurityGroup.GroupId>", "<ServerSecurityGroup.GroupId>", 4200) in rules
    assert len([who for who, target, port in rules if (target, port) == ("<BalancerSecurityGroup.GroupId>", 443)]) == 4
    assert len([who for who, target, _ in rules if target == "<ServerSecurityGroup.GroupId>"]) == 1
    waits = {name.rstrip("0123456789ABCDEF") for name in resource(template, "PrefectWorkPool")["DependsOn"]}
    assert {"ServerService", "BalancerHttps"} <= waits


def test_what_cannot_let_in_is_refused() -> None:
    stack = new_stack()
    vpc = imported_vpc(stack)
    group = ec2.SecurityGroup(stack, "Group", vpc=vpc)
    url = "https://prefect.acme.com/api"
    assert_refused(stack, lambda: PrefectApi.self_hosted(url, vpc=vpc, server=group), "server has no default port")
    front = ec2.Connections(security_groups=[group], default_port=ec2.Port.HTTPS)
    assert_refused(stack, lambda: PrefectApi.self_hosted(url, server=front), "pass vpc too, or leave it out")


def test_an_api_without_a_server_lets_nobody_in() -> None:
    stack = new_stack()
    network = private_network(stack)
    PrefectApi.self_hosted("https://prefect.acme.com/api", vpc=network.vpc).let_in(stack, network)
    Template.from_stack(stack).has_resource_properties("AWS::EC2::SecurityGroup", Match.any_value())
    Template.from_stack(stack).resource_count_is(INGRESS, 0)
