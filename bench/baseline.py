"""Side A of `bench.spot_chaos`: prefect-aws as it deploys itself.

What `prefect-aws ecs-worker deploy-service` deploys, from the template and with the parameters of that command: event
rule, queue and dead-letter queue, roles, log group, and the worker as an ECS service whose observer reads the queue.
The work pool is made with prefect-aws's own default base job template and completed by prefect-aws's own function, as
that command does it. Cluster and network must exist beforehand: a cluster with both Fargate providers, and the default
VPC.

Set besides, because without it nothing would run on Spot, or not at all:

- in the pool: launch type FARGATE_SPOT, a task role that may read the flow's code, and an image that can;
- in the template: the variable that carries the server's auth string is called PREFECT_AUTH_STRING there, and Prefect
  reads PREFECT_API_AUTH_STRING; and the worker's health check asks port 8080, where the embedded AWS gives every task a
  port of its own, because they share an address.

All else is as it comes: a poll every 10 s, no persisted results, Prefect's behaviour on SIGTERM, ECS's stop time-out.
"""

from __future__ import annotations

import json
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_aws._cli.utils import load_template, update_work_pool_defaults
from prefect_aws.workers.ecs_worker import ECSWorker

from cdk_prefect_ecs.capacity import FARGATE, FARGATE_SPOT
from cdk_prefect_ecs.image import DEFAULT_IMAGE
from embedded.aws import EmbeddedAws
from embedded.deployed import wait_for
from embedded.errors import EmbeddedError
from embedded.prefect_server import PrefectServer

NAME = "ecs-work-pool"  # the default of its template; of pool, cluster and stack
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


class Baseline:
    """prefect-aws's own deployment, on an embedded AWS."""

    work_pool = NAME

    def __init__(self, aws: EmbeddedAws, server: PrefectServer, prefect: SyncPrefectClient) -> None:
        self._aws = aws
        self._server = server
        self._prefect = prefect
        self.cluster_arn = ""

    def deploy(self, code_bucket: str) -> None:
        """Deploy it.

        :param code_bucket: Where the flow's code is.
        """
        self._create_pool()
        outputs = self._create_stack()
        with temporary_settings(
            {PREFECT_API_URL: self._server.api_url, PREFECT_API_AUTH_STRING: self._server.auth_string}
        ):
            update_work_pool_defaults(NAME, outputs)
        self._complete_pool(self._create_task_role(code_bucket))

    def _create_pool(self) -> None:
        template = ECSWorker.get_default_base_job_template()
        self._prefect.create_work_pool(WorkPoolCreate(name=NAME, type="ecs", base_job_template=template))

    def _create_stack(self) -> dict[str, str]:
        cluster = self._aws.client("ecs").create_cluster(
            clusterName=NAME, capacityProviders=[FARGATE, FARGATE_SPOT], defaultCapacityProviderStrategy=[]
        )["cluster"]
        self.cluster_arn = cluster["clusterArn"]
        ec2 = self._aws.client("ec2")
        vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
        subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
        secret = self._aws.client("secretsmanager").create_secret(
            Name=f"{NAME}/auth-string", SecretString=self._server.auth_string
        )
        parameters = {
            "WorkPoolName": NAME,
            "PrefectApiUrl": self._server.api_url,
            "PrefectAuthStringSecretArn": secret["ARN"],
            "ExistingClusterIdentifier": self.cluster_arn,
            "ExistingVpcId": vpc,
            "ExistingSubnetIds": ",".join(subnet["SubnetId"] for subnet in subnets),
            "DockerImage": DEFAULT_IMAGE,
        }
        cloudformation = self._aws.client("cloudformation")
        cloudformation.create_stack(
            StackName=NAME,
            TemplateBody=json.dumps(_mended(load_template("service.json"))),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )

        def settled() -> dict[str, Any] | None:
            (stack,) = cloudformation.describe_stacks(StackName=NAME)["Stacks"]
            return None if stack["StackStatus"].endswith("_IN_PROGRESS") else stack

        stack = wait_for(f"stack {NAME}", settled, 120)
        if stack["StackStatus"] != "CREATE_COMPLETE":
            raise EmbeddedError(f"stack {NAME}: {stack['StackStatus']}, {stack.get('StackStatusReason')}")
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def _create_task_role(self, code_bucket: str) -> str:
        iam = self._aws.client("iam")
        role = iam.create_role(RoleName=f"{NAME}-flow-role", AssumeRolePolicyDocument=json.dumps(_TRUST))["Role"]
        statement = {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{code_bucket}", f"arn:aws:s3:::{code_bucket}/*"],
        }
        iam.put_role_policy(
            RoleName=role["RoleName"],
            PolicyName="code",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )
        return str(role["Arn"])

    def _complete_pool(self, task_role_arn: str) -> None:
        template = self._prefect.read_work_pool(NAME).base_job_template
        variables = template["variables"]["properties"]
        for name, value in (
            ("launch_type", "FARGATE_SPOT"),
            ("task_role_arn", task_role_arn),
            ("image", DEFAULT_IMAGE),
        ):
            variables[name]["default"] = value
        self._prefect.update_work_pool(NAME, WorkPoolUpdate(base_job_template=template))


def _mended(template: dict[str, Any]) -> dict[str, Any]:
    """The template with the two changes that are said above."""
    text = json.dumps(template)
    for before, after in (
        ('"Name": "PREFECT_AUTH_STRING"', '"Name": "PREFECT_API_AUTH_STRING"'),
        ("http://localhost:8080/health", "http://localhost:${PREFECT_WORKER_WEBSERVER_PORT:-8080}/health"),
    ):
        if text.count(before) != 1:
            raise EmbeddedError(f"prefect-aws's template is not the one that was looked at: {before!r}")
        text = text.replace(before, after)
    mended: dict[str, Any] = json.loads(text)
    # The embedded AWS cannot select from a list in a condition: no work queues are named, and the cluster is an ARN.
    mended["Conditions"]["HasWorkQueues"] = {"Fn::Equals": ["", "queues"]}
    mended["Conditions"]["IsClusterArn"] = {"Fn::Equals": ["arn", "arn"]}
    return mended
