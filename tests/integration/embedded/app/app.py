"""A small app with one of everything that the embedded AWS promises to deploy."""

import os
import sys

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm

# A function that CloudFormation invokes by itself, without CDK's provider framework. It repeats its properties, so that
# a test can see in which form they arrive, and fails when told to.
POOL = """
import json, urllib.request
def handler(event, context):
    properties = event["ResourceProperties"]
    failed = properties.get("Fail") == "true" and event["RequestType"] != "Delete"
    answer = {
        "Status": "FAILED" if failed else "SUCCESS",
        "Reason": "the work pool said no: 401 Unauthorized, check the API key",
        "PhysicalResourceId": properties["Name"],
        "StackId": event["StackId"], "RequestId": event["RequestId"], "LogicalResourceId": event["LogicalResourceId"],
        "Data": {"Seen": json.dumps(properties["Scalars"], sort_keys=True)},
    }
    request = urllib.request.Request(event["ResponseURL"], data=json.dumps(answer).encode(), method="PUT",
                                     headers={"Content-Type": ""})
    urllib.request.urlopen(request)
"""
LISTENER = """
import json
def handler(event, context):
    for record in event.get("Records", [{"body": "schedule"}]):
        print("woken by", record["body"])
"""

app = cdk.App(analytics_reporting=False)
stack = cdk.Stack(app, "Embedded", env=cdk.Environment(account="000000000000", region="us-east-1"))
cdk.Tags.of(stack).add("app", "embedded")

vpc = ec2.Vpc(
    stack,
    "Vpc",
    max_azs=2,
    nat_gateways=0,
    subnet_configuration=[ec2.SubnetConfiguration(name="public", subnet_type=ec2.SubnetType.PUBLIC)],
)
vpc.add_flow_log("FlowLog")
vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
group = ec2.SecurityGroup(stack, "Tasks", vpc=vpc)
group.add_ingress_rule(group, ec2.Port.tcp(8786))

key = kms.Key(stack, "Key", enable_key_rotation=True, removal_policy=cdk.RemovalPolicy.DESTROY)
bucket = s3.Bucket(
    stack,
    "Bucket",
    enforce_ssl=True,
    versioned=True,
    auto_delete_objects=True,
    removal_policy=cdk.RemovalPolicy.DESTROY,
    lifecycle_rules=[s3.LifecycleRule(id="expire", expiration=cdk.Duration.days(7))],
)
log_group = logs.LogGroup(
    stack, "Logs", retention=logs.RetentionDays.ONE_WEEK, removal_policy=cdk.RemovalPolicy.DESTROY
)
secret = secretsmanager.Secret(
    stack, "Secret", secret_object_value={"password": cdk.SecretValue.unsafe_plain_text("s3cret")}, encryption_key=key
)
parameter = ssm.StringParameter(stack, "Parameter", string_value="plain", parameter_name="/embedded/parameter")

cluster = ecs.Cluster(stack, "Cluster", vpc=vpc, enable_fargate_capacity_providers=True)
cluster.add_default_capacity_provider_strategy(
    [
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE", base=1, weight=2),
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE_SPOT", weight=3),
    ]
)
definition = ecs.FargateTaskDefinition(
    stack,
    "Definition",
    cpu=512,
    memory_limit_mib=1024,
    ephemeral_storage_gib=25,
    runtime_platform=ecs.RuntimePlatform(cpu_architecture=ecs.CpuArchitecture.ARM64),
)
definition.add_container(
    "worker",
    image=ecs.ContainerImage.from_registry("example/worker:1.0"),
    command=["sh", "-c", os.environ.get("WORKER_COMMAND", "echo $PASSWORD > ready; exec sleep 600")],
    environment={"VERSION": os.environ.get("WORKER_VERSION", "1")},
    secrets={
        "PASSWORD": ecs.Secret.from_secrets_manager(secret, "password"),
        "PLAIN": ecs.Secret.from_ssm_parameter(parameter),
    },
    stop_timeout=cdk.Duration.seconds(5),
    health_check=ecs.HealthCheck(command=["CMD-SHELL", "test -s ready"]),
    logging=ecs.LogDrivers.aws_logs(stream_prefix="worker", log_group=log_group),
)
service = ecs.FargateService(
    stack,
    "Service",
    cluster=cluster,
    task_definition=definition,
    desired_count=1,
    assign_public_ip=True,
    security_groups=[group],
    min_healthy_percent=100,
    enable_execute_command=True,
    circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
    capacity_provider_strategies=[ecs.CapacityProviderStrategy(capacity_provider="FARGATE", weight=1)],
)

dead = sqs.Queue(stack, "Dead", enforce_ssl=True)
queue = sqs.Queue(
    stack,
    "Queue",
    enforce_ssl=True,
    visibility_timeout=cdk.Duration.seconds(60),
    dead_letter_queue=sqs.DeadLetterQueue(queue=dead, max_receive_count=3),
)
pattern = {
    "clusterArn": [cluster.cluster_arn],
    "$or": [{"lastStatus": ["STOPPED"]}, {"stopCode": ["TerminationNotice"]}],
}
events.Rule(
    stack,
    "TaskEvents",
    event_pattern=events.EventPattern(source=["aws.ecs"], detail_type=["ECS Task State Change"], detail=pattern),
    targets=[targets.SqsQueue(queue)],
)
listener = lambda_.Function(
    stack,
    "Listener",
    runtime=lambda_.Runtime.PYTHON_3_13,
    architecture=lambda_.Architecture.ARM_64,
    handler="index.handler",
    code=lambda_.Code.from_inline(LISTENER),
    reserved_concurrent_executions=1,
    timeout=cdk.Duration.seconds(30),
    log_group=logs.LogGroup(stack, "ListenerLogs", removal_policy=cdk.RemovalPolicy.DESTROY),
)
listener.add_event_source(sources.SqsEventSource(queue, batch_size=10, report_batch_item_failures=True))
events.Rule(
    stack,
    "Schedule",
    schedule=events.Schedule.rate(cdk.Duration.minutes(1)),
    targets=[targets.LambdaFunction(listener)],
)
topic = sns.Topic(stack, "Topic", enforce_ssl=True)
alarm = cloudwatch.Alarm(
    stack,
    "DeadLetters",
    metric=dead.metric_approximate_number_of_messages_visible(),
    threshold=1,
    evaluation_periods=1,
)

pool_function = lambda_.Function(
    stack,
    "PoolFunction",
    runtime=lambda_.Runtime.PYTHON_3_13,
    handler="index.handler",
    code=lambda_.Code.from_inline(POOL),
    timeout=cdk.Duration.seconds(30),
)
pool = cdk.CustomResource(
    stack,
    "Pool",
    service_token=pool_function.function_arn,
    service_timeout=cdk.Duration.seconds(60),
    properties={
        "Name": "etl",
        "Fail": os.environ.get("POOL_FAILS") == "1",
        "Scalars": {"number": 2, "yes": True, "list": [1, False, "text"]},
    },
)
iam.Role(stack, "Unused", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))

for name, value in {
    "Cluster": cluster.cluster_arn,
    "ServiceName": service.service_name,
    "Bucket": bucket.bucket_name,
    "Logs": log_group.log_group_name,
    "ListenerName": listener.function_name,
    "Seen": pool.get_att_string("Seen"),
}.items():
    cdk.CfnOutput(stack, f"Out{name}", value=value)

app.synth()
sys.stdout.flush()
