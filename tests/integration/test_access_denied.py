"""What the deployed roles may not do, asked of the embedded AWS with a session of each: all of it is denied to all.

What each may do is in tests/unit/permissions, and the other tests here would fail without it; a control for each role
shows that its session works.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from embedded.deployed import DeployedApp
from stacks.environments import EMBEDDED_AUTH_PARAMETER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROLES = ("execution", "worker", "flow", "lazarus", "sync", "dask-execution", "dask-task")
#: What their logical ids begin with.
LOGICAL_IDS = {
    "execution": "PrefectExecutionRole",
    "worker": "PrefectWorkerRole",
    "flow": "PrefectFlowRole",
    "lazarus": "PrefectLazarusRole",
    "sync": "WorkPoolSync",
    "dask-execution": "DaskExecutionRole",
    "dask-task": "DaskTaskRole",
}
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)
TASK: dict[str, Any] = {"containerDefinitions": [{"name": "flow", "image": "example.com/none:1", "memory": 64}]}


@dataclass
class Deployed:
    """The deployed roles and what is theirs, beside things of somebody else."""

    app: DeployedApp
    roles: Mapping[str, str]
    bucket: str
    cluster: str
    family: str
    log_group: str
    function: str
    other_role: str
    other_queue: str
    other_secret: str
    clients: dict[tuple[str, str], Any] = field(default_factory=dict)

    def client(self, role: str, service: str) -> Any:
        if (role, service) not in self.clients:
            self.clients[role, service] = self.app.aws.client_as(self.roles[role], service)
        return self.clients[role, service]

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


@pytest.fixture(scope="module")
def deployed(app: DeployedApp) -> Iterator[Deployed]:
    aws, outputs = app.aws, app.outputs()
    of_type: dict[str, dict[str, str]] = {}
    for resource in app.resources():
        ids = of_type.setdefault(resource["ResourceType"], {})
        ids[resource["LogicalResourceId"]] = resource["PhysicalResourceId"]

    def only(resource_type: str, beginning: str) -> str:
        (found,) = [value for key, value in of_type[resource_type].items() if key.startswith(beginning)]
        return found

    iam, sqs = aws.client("iam"), aws.client("sqs")
    roles = {
        name: iam.get_role(RoleName=only("AWS::IAM::Role", beginning))["Role"]["Arn"]
        for name, beginning in LOGICAL_IDS.items()
    }
    other_role = iam.create_role(RoleName="somebody-elses", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    aws.client("s3").create_bucket(Bucket="somebody-elses")
    aws.client("s3").put_object(Bucket="somebody-elses", Key="results/it", Body=b"secret")
    aws.client("ssm").put_parameter(Name="/somebody/elses", Value="secret", Type="SecureString")
    other_secret = aws.client("secretsmanager").create_secret(Name="somebody-elses", SecretString="secret")["ARN"]
    other_queue = sqs.create_queue(QueueName="somebody-elses")["QueueUrl"]
    aws.client("logs").create_log_group(logGroupName="/somebody/elses")
    ecs = aws.client("ecs")
    ecs.create_cluster(clusterName="somebody-elses")
    ecs.register_task_definition(family="somebody-elses", **TASK)
    family = f"PrefectEmbedded-Execution-{outputs['WorkPoolName']}"
    deployed = Deployed(
        app,
        roles,
        outputs["BucketName"],
        outputs["ClusterName"],
        family,
        outputs["LogGroupName"],
        only("AWS::Lambda::Function", "PrefectLazarusFunction"),
        other_role,
        other_queue,
        other_secret,
    )
    yield deployed
    deployed.close()
    ecs.deregister_task_definition(taskDefinition="somebody-elses:1")
    ecs.delete_cluster(cluster="somebody-elses")
    aws.client("logs").delete_log_group(logGroupName="/somebody/elses")
    sqs.delete_queue(QueueUrl=other_queue)
    aws.client("secretsmanager").delete_secret(SecretId=other_secret, ForceDeleteWithoutRecovery=True)
    aws.client("ssm").delete_parameter(Name="/somebody/elses")
    aws.client("s3").delete_object(Bucket="somebody-elses", Key="results/it")
    aws.client("s3").delete_bucket(Bucket="somebody-elses")
    iam.delete_role(RoleName="somebody-elses")


#: Service, and what is asked of its client: of somebody else's things, or to make something new.
DENIED: dict[str, tuple[str, Callable[[Any, Deployed], object]]] = {
    "read another bucket": ("s3", lambda c, _: c.get_object(Bucket="somebody-elses", Key="results/it")),
    "write another bucket": ("s3", lambda c, _: c.put_object(Bucket="somebody-elses", Key="results/it", Body=b"x")),
    "list another bucket": ("s3", lambda c, _: c.list_objects_v2(Bucket="somebody-elses")),
    "make a bucket": ("s3", lambda c, _: c.create_bucket(Bucket="one-more")),
    "delete the own bucket": ("s3", lambda c, d: c.delete_bucket(Bucket=d.bucket)),
    "read another parameter": ("ssm", lambda c, _: c.get_parameter(Name="/somebody/elses", WithDecryption=True)),
    "write the own parameter": (
        "ssm",
        lambda c, _: c.put_parameter(Name=EMBEDDED_AUTH_PARAMETER, Value="mine", Type="SecureString", Overwrite=True),
    ),
    "read another secret": ("secretsmanager", lambda c, d: c.get_secret_value(SecretId=d.other_secret)),
    "run on another cluster": (
        "ecs",
        lambda c, d: c.run_task(cluster="somebody-elses", taskDefinition=f"{d.family}:1"),
    ),
    "run another family": ("ecs", lambda c, d: c.run_task(cluster=d.cluster, taskDefinition="somebody-elses")),
    "hand over another role": (
        "ecs",
        lambda c, d: c.run_task(
            cluster=d.cluster, taskDefinition=f"{d.family}:1", overrides={"taskRoleArn": d.other_role}
        ),
    ),
    "register another family": ("ecs", lambda c, _: c.register_task_definition(family="one-more", **TASK)),
    "register with another role": (
        "ecs",
        lambda c, d: c.register_task_definition(family=d.family, taskRoleArn=d.other_role, **TASK),
    ),
    "make a cluster": ("ecs", lambda c, _: c.create_cluster(clusterName="one-more")),
    "delete the own cluster": ("ecs", lambda c, d: c.delete_cluster(cluster=d.cluster)),
    "look at tasks of another cluster": ("ecs", lambda c, _: c.list_tasks(cluster="somebody-elses")),
    "make a service": (
        "ecs",
        lambda c, d: c.create_service(cluster=d.cluster, serviceName="one-more", taskDefinition=f"{d.family}:1"),
    ),
    "make a role": ("iam", lambda c, _: c.create_role(RoleName="one-more", AssumeRolePolicyDocument=TRUST)),
    "take another role": ("sts", lambda c, d: c.assume_role(RoleArn=d.other_role, RoleSessionName="me")),
    "write another log": ("logs", lambda c, _: c.create_log_stream(logGroupName="/somebody/elses", logStreamName="x")),
    "delete the own log": ("logs", lambda c, d: c.delete_log_group(logGroupName=d.log_group)),
    "read another queue": ("sqs", lambda c, d: c.receive_message(QueueUrl=d.other_queue)),
    "make a queue": ("sqs", lambda c, _: c.create_queue(QueueName="one-more")),
    "call a function": ("lambda", lambda c, d: c.invoke(FunctionName=d.function, Payload=b"{}")),
    "make a network": ("ec2", lambda c, _: c.create_vpc(CidrBlock="10.0.0.0/16")),
    "open a port": (
        "ec2",
        lambda c, _: c.authorize_security_group_ingress(
            GroupId="sg-0", IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
        ),
    ),
    "make a stack": ("cloudformation", lambda c, _: c.create_stack(StackName="one-more", TemplateBody="{}")),
}

#: Something that each role is there to do.
ALLOWED: dict[str, tuple[str, Callable[[Any, Deployed], object]]] = {
    "execution": ("ssm", lambda c, _: c.get_parameters(Names=[EMBEDDED_AUTH_PARAMETER], WithDecryption=True)),
    "worker": ("ecs", lambda c, d: c.describe_task_definition(taskDefinition="somebody-elses:1")),
    "flow": ("s3", lambda c, d: c.put_object(Bucket=d.bucket, Key="data/control", Body=b"x")),
    "lazarus": ("ecs", lambda c, d: c.list_tasks(cluster=d.cluster)),
    "sync": ("ssm", lambda c, _: c.get_parameter(Name=EMBEDDED_AUTH_PARAMETER, WithDecryption=True)),
    "dask-execution": (
        "logs",
        lambda c, d: c.create_log_stream(logGroupName=d.log_group, logStreamName="dask/control"),
    ),
    "dask-task": ("s3", lambda c, d: c.put_object(Bucket=d.bucket, Key="data/control", Body=b"x")),
}


@pytest.mark.parametrize("role", ROLES)
def test_control_is_allowed(deployed: Deployed, role: str) -> None:
    service, ask = ALLOWED[role]
    ask(deployed.client(role, service), deployed)


@pytest.mark.parametrize("what", DENIED)
@pytest.mark.parametrize("role", ROLES)
def test_is_denied(deployed: Deployed, role: str, what: str) -> None:
    service, ask = DENIED[what]
    with pytest.raises(ClientError) as refused:
        ask(deployed.client(role, service), deployed)
    code = refused.value.response["Error"]["Code"]
    assert code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"), refused.value
