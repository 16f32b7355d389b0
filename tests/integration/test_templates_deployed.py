"""A template of `make templates`, deployed with boto3 alone, and by the commands of docs/templates.md."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import WorkerStatus

from embedded import EmbeddedAws, PrefectServer
from embedded.deployed import DeployedApp, wait_for
from tools import templates

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "templates.md").read_text(), re.DOTALL)
#: The AWS CLI, in an environment that uv makes for it: its botocore is not ours.
AWS_CLI = f'aws() {{ {sys.executable} -m uv tool run --quiet --from awscli==1.46.3 aws "$@"; }}\n'
FLOW = Path(__file__).parents[1] / "consumer" / "flows" / "hello.py"
STACK = "prefect"
BUCKET = "template-code"
POOL = "by-template"


@dataclass(frozen=True)
class Deployed:
    """An AWS on which somebody has only boto3."""

    aws: EmbeddedAws
    server: PrefectServer
    files: Path

    def upload(self) -> None:
        """Templates and code go into a bucket: a template of this size is taken from there."""
        s3 = self.aws.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        for path in self.files.iterdir():
            s3.put_object(Bucket=BUCKET, Key=path.name, Body=path.read_bytes())

    def network(self) -> tuple[str, str]:
        """The default VPC, and its subnets as a parameter names them."""
        ec2 = self.aws.client("ec2")
        (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
        return vpc["VpcId"], ",".join(subnet["SubnetId"] for subnet in subnets)

    def apply(self, what: str, **changes: str) -> dict[str, Any]:
        """Create or update the stack, and wait; returns what CloudFormation says of it."""
        cloudformation, s3 = self.aws.client("cloudformation"), self.aws.client("s3")
        vpc, subnets = self.network()
        given = {
            "CodeBucket": BUCKET,
            "ApiUrl": self.server.api_url,
            "CredentialName": "/by-template/auth-string",
            "WorkPoolName": POOL,
            "VpcId": vpc,
            "SubnetIds": subnets,
            **changes,
        }
        getattr(cloudformation, f"{what}_stack")(
            StackName=STACK,
            TemplateURL=f"{s3.meta.endpoint_url}/{BUCKET}/server-in-vpc.json",
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.get_waiter(f"stack_{what}_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})
        (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        return dict(stack)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("templates")
    templates.write(out)
    return out


@pytest.fixture(scope="module")
def deployed(files: Path) -> Iterator[Deployed]:
    with EmbeddedAws.start() as aws, PrefectServer.start() as server:
        made = Deployed(aws, server, files)
        made.upload()
        aws.client("ssm").put_parameter(
            Name="/by-template/auth-string", Value=str(server.auth_string), Type="SecureString"
        )
        made.apply("create")
        yield made


def test_it_runs_flows(deployed: Deployed, tmp_path: Path) -> None:
    app = DeployedApp(deployed.aws, deployed.server)

    def online() -> bool | None:
        workers = app.prefect.read_workers_for_work_pool(POOL)
        return any(worker.status == WorkerStatus.ONLINE for worker in workers) or None

    wait_for("the worker to be online", online, 90)
    shutil.copy(FLOW, tmp_path)
    deployment = app.prefect.create_deployment(
        flow_id=app.prefect.create_flow_from_name("hello"),
        name="by-template",
        work_pool_name=POOL,
        path=str(tmp_path),
        entrypoint="hello.py:hello",
        enforce_parameter_schema=False,
    )
    run = app.prefect.create_flow_run_from_deployment(deployment, parameters={"names": ["PREFECT_API_AUTH_STRING"]})
    assert app.wait_for_final_state(run.id).state_name == "Completed"
    app.prefect.delete_deployment(deployment)


def test_nothing_of_the_cdk_is_there(deployed: Deployed) -> None:
    stacks = deployed.aws.client("cloudformation").describe_stacks()["Stacks"]
    assert [stack["StackName"] for stack in stacks] == [STACK]
    buckets = [bucket["Name"] for bucket in deployed.aws.client("s3").list_buckets()["Buckets"]]
    assert len(buckets) == 2  # that of the code, and that of the flows


def test_outputs_name_what_flows_need(deployed: Deployed) -> None:
    (stack,) = deployed.aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    assert outputs["WorkPool"] == POOL
    deployed.aws.client("s3").head_bucket(Bucket=outputs["Bucket"])
    assert outputs["FlowRole"].startswith(f"arn:aws:iam::{deployed.aws.account}:role/")


def test_parameters_can_be_changed(deployed: Deployed) -> None:
    stack = deployed.apply("update", WorkerCount="0", LogRetentionDays="7")
    assert stack["StackStatus"] == "UPDATE_COMPLETE"
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    ecs = deployed.aws.client("ecs")
    (service,) = ecs.list_services(cluster=outputs["Cluster"])["serviceArns"]
    (found,) = ecs.describe_services(cluster=outputs["Cluster"], services=[service])["services"]
    assert found["desiredCount"] == 0
    groups = deployed.aws.client("logs").describe_log_groups()["logGroups"]
    assert {group.get("retentionInDays") for group in groups} == {7}


def test_the_stack_goes_and_its_pool_with_it_but_not_the_data(deployed: Deployed) -> None:
    cloudformation = deployed.aws.client("cloudformation")
    cloudformation.delete_stack(StackName=STACK)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})
    pools = DeployedApp(deployed.aws, deployed.server).prefect.read_work_pools()
    assert POOL not in [pool.name for pool in pools]
    assert len(deployed.aws.client("s3").list_buckets()["Buckets"]) == 2


def run(command: str, deployed: Deployed, directory: Path, **placeholders: str) -> None:
    """Run a command of the document, with these values in place of what it has in capitals."""
    for placeholder, value in placeholders.items():
        assert placeholder in command
        command = command.replace(placeholder, value)
    done = subprocess.run(
        ["bash", "-euc", AWS_CLI + command],
        cwd=directory,
        env={**os.environ, **deployed.aws.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_document_says_what_to_type(deployed: Deployed, files: Path, tmp_path: Path) -> None:
    """The last test: it makes the stack anew, from a bucket that holds nothing yet."""
    store, copy, cloud, server = COMMANDS
    shutil.copytree(files, tmp_path / "build" / "templates")
    (tmp_path / "key.txt").write_text(str(deployed.server.auth_string))
    deployed.aws.client("s3").create_bucket(Bucket="typed")
    vpc, subnets = deployed.network()
    run(store, deployed, tmp_path)
    run(copy, deployed, tmp_path, BUCKET="typed")
    run(
        server,
        deployed,
        tmp_path,
        **{"BUCKET": "typed", "=URL": f"={deployed.server.api_url}", "=VPC": f"={vpc}", "SUBNET,SUBNET": subnets},
    )
    (stack,) = deployed.aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert DeployedApp(deployed.aws, deployed.server).prefect.read_work_pool("etl").type == "ecs"

    # Prefect Cloud is not there to be deployed to; what the command gives is what the template takes.
    given = set(re.findall(r"(\w+)=\S", cloud.partition("--parameter-overrides")[2]))
    parameters = json.loads((files / "cloud.json").read_text())["Parameters"]
    assert {name for name, parameter in parameters.items() if "Default" not in parameter} <= given <= {*parameters}
    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    unexecuted = cloud.replace("stack-name prefect", "stack-name cloud --no-execute-changeset")
    run(unexecuted, deployed, tmp_path, **{"BUCKET": "typed", "=ACCOUNT": f"={uuid}", "=WORKSPACE": f"={uuid}"})
