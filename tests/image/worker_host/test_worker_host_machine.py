"""A worker host for real: the deployed user data sets a machine up, whose worker then does its work.

In the order of a host's life: set up, at work, hurt, and set up in vain.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from instance_metadata import InstanceMetadata
from prefect.client.schemas.objects import FlowRun, Worker, WorkerStatus
from scratch_machine import ScratchMachine

from embedded import EmbeddedAws, PrefectServer, run_cdk
from embedded.deployed import DeployedApp, finished, wait_for
from embedded.launching import ROOT, free_port

pytestmark = [pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(600)]

APP = ROOT / "tests" / "integration" / "apps" / "worker_host.py"
STACK = "Hosted"
AUTH_PARAMETER = "/prefect/embedded/auth-string"
INSTANCE = "i-0123456789abcdef0"
FLOW = Path(__file__).parent / "flows" / "greeting.py"
DEPLOYMENT = "greeting/hosted"
WORKER = "prefect-worker.service"
LOGS = "prefect-worker-logs.service"
HEALTH = "prefect-worker-health.service"


class HostedApp(DeployedApp):
    """An execution layer whose worker is a host, deployed to an embedded AWS."""

    instance_type = "t4g.micro"

    def cdk(self, command: str, *options: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return run_cdk(
            [command, STACK, "--output", str(self.aws.directory / "cdk.out"), *options],
            aws=self.aws,
            cwd=ROOT,
            app=f"{sys.executable} {APP}",
            env={
                "PREFECT_API_URL": self.server.api_url,
                "AUTH_PARAMETER": AUTH_PARAMETER,
                "INSTANCE_TYPE": self.instance_type,
                "PYTHONPATH": str(ROOT),
            },
            check=check,
        )

    def outputs(self) -> dict[str, str]:
        (stack,) = self.aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def deploy_flows(self) -> str:
        """Upload the greeting and make a deployment of it."""
        outputs = self.outputs()
        self.aws.client("s3").upload_file(str(FLOW), outputs["BucketName"], f"code/hosted/{FLOW.name}")
        pull = {"bucket": outputs["BucketName"], "folder": "code/hosted"}
        self.prefect.create_deployment(
            self.prefect.create_flow_from_name("greeting"),
            "hosted",
            work_pool_name=outputs["WorkPoolName"],
            entrypoint=f"{FLOW.name}:greeting",
            pull_steps=[{"prefect_aws.deployments.steps.pull_from_s3": pull}],
        )
        return DEPLOYMENT

    def greet(self, name: str) -> FlowRun:
        """Run the greeting to its end."""
        return self.wait_for_final_state(self.start_run(DEPLOYMENT, {"name": name}).id)

    def group(self) -> dict[str, Any]:
        """The one Auto Scaling group."""
        (group,) = self.aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return dict(group)

    def launch_template(self) -> dict[str, Any]:
        """What the group starts a host with."""
        named = self.group()["LaunchTemplate"]
        (version,) = self.aws.client("ec2").describe_launch_template_versions(
            LaunchTemplateId=named["LaunchTemplateId"], Versions=[named["Version"]]
        )["LaunchTemplateVersions"]
        return dict(version["LaunchTemplateData"])

    def workers(self) -> list[Worker]:
        return list(self.prefect.read_workers_for_work_pool(self.outputs()["WorkPoolName"]))

    def log(self, stream: str) -> list[str]:
        logs, group = self.aws.client("logs"), self.outputs()["LogGroupName"]
        names = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=stream)["logStreams"]
        if not names:
            return []
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]
        return [event["message"] for event in events]


@dataclass(frozen=True)
class Host:
    """A machine that was set up by user data."""

    app: HostedApp
    machine: ScratchMachine
    metadata: InstanceMetadata
    user_data: str
    output: str

    @property
    def secret(self) -> str:
        assert self.app.server.auth_string is not None
        return self.app.server.auth_string.partition(":")[2]

    def show(self, unit: str, name: str) -> str:
        return self.machine.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def wait_until_polling(self, other_than: str = "0") -> str:
        """Wait until the worker answers its health check; returns its process."""

        def healthy() -> str | None:
            pid = self.show(WORKER, "MainPID")
            well = "worker is not well" not in self.check("polls") and pid not in ("0", other_than)
            return pid if well else None

        return wait_for("the worker to be well", healthy, 60, interval=1)

    def check(self, what: str) -> str:
        online = ["--online"] if what == "online" else []
        python = "/opt/prefect-worker/venv/bin/python"
        module = ["-m", "cdk_prefect_ecs.host.check_worker", *online]
        settings = ["--pipe", "--wait", "--quiet", "--collect", "--working-directory=/opt/prefect-worker/code"]
        return self.machine.run("systemd-run", *settings, python, *module, check=False)


@pytest.fixture(scope="module")
def app() -> Iterator[HostedApp]:
    with EmbeddedAws.start() as aws, PrefectServer.start() as server:
        app = HostedApp(aws, server)
        app.store_secret()
        app.bootstrap()
        app.deploy()
        yield app


@pytest.fixture(scope="module")
def host(app: HostedApp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    role = app.outputs()["WorkerRoleArn"]
    session = app.aws.client("sts").assume_role(RoleArn=role, RoleSessionName=INSTANCE)["Credentials"]
    user_data = base64.b64decode(app.launch_template()["UserData"]).decode()
    with InstanceMetadata(role.rpartition("/")[2], session) as metadata:
        machine = ScratchMachine(
            tmp_path_factory.mktemp("machine"),
            instance_id=INSTANCE,
            environment={
                "AWS_ENDPOINT_URL": app.aws.endpoint,
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.endpoint,
                "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
                "DO_NOT_TRACK": "1",
            },
        )
        try:
            machine.prepare()
            machine.start()
            output = machine.run_user_data(user_data, check=False)
            yield Host(app, machine, metadata, user_data, output)
        finally:
            machine.stop()


# Deployed


def test_group_of_one_over_every_zone(app: HostedApp) -> None:
    group = app.group()
    assert (group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) == (1, 1, 2)
    assert len(group["VPCZoneIdentifier"].split(",")) >= 2
    template = app.launch_template()
    assert template["InstanceType"] == "t4g.micro"
    assert template["MetadataOptions"]["HttpTokens"] == "required"
    assert template["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


# Set up


def test_set_up_ends_well_and_says_so(host: Host) -> None:
    (signal,) = host.machine.said("cfn-signal")
    assert signal.endswith("-e 0"), host.output
    assert f"--stack {STACK} " in signal
    groups = host.app.aws.client("cloudformation").describe_stack_resources(StackName=STACK)["StackResources"]
    (group,) = [r["LogicalResourceId"] for r in groups if r["ResourceType"] == "AWS::AutoScaling::AutoScalingGroup"]
    assert f"--resource {group} " in signal


def test_security_updates_come_first_and_swap_makes_room(host: Host) -> None:
    assert host.machine.said("dnf") == [
        "--assumeyes --quiet --releasever=latest upgrade --security",
        "--assumeyes --quiet install python3.11 python3.11-pip",
    ]
    assert host.machine.said("swapon") == ["/var/swapfile"]
    swap = host.machine.root / "var/swapfile"
    assert (swap.stat().st_size, swap.stat().st_mode & 0o777) == (1024**3, 0o600)


def test_units_are_right_and_started_with_the_machine(host: Host) -> None:
    units = host.machine.run("sh", "-c", "ls /etc/systemd/system/prefect-worker*.service /etc/systemd/system/*.timer")
    assert host.machine.run("systemd-analyze", "verify", *units.split()) == ""
    for unit in (WORKER, LOGS, "prefect-worker-health.timer", "prefect-worker-updates.timer"):
        assert host.machine.run("systemctl", "is-enabled", unit).strip() == "enabled"
        assert host.machine.run("systemctl", "is-active", unit).strip() == "active"
    assert host.machine.run("systemctl", "is-system-running").strip() == "running"


def test_updates_run(host: Host) -> None:
    host.machine.run("systemctl", "start", "prefect-worker-updates.service")
    assert host.machine.said("dnf")[-1] == "--assumeyes --quiet --releasever=latest upgrade --security"


def test_worker_is_online_under_the_name_of_its_instance(host: Host) -> None:
    assert [(w.name, w.status) for w in host.app.workers()] == [(INSTANCE, WorkerStatus.ONLINE)]


def test_only_version_2_of_the_metadata_service_was_used(host: Host) -> None:
    assert host.metadata.refused == []


def test_worker_is_nobody(host: Host) -> None:
    pid = host.show(WORKER, "MainPID")
    status = dict(
        line.split(":\t", 1) for line in host.machine.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line
    )
    users = host.machine.run("stat", "--format=%U %G", f"/proc/{pid}").split()
    assert users == ["prefect-worker", "prefect-worker"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    exposure = host.machine.run("systemd-analyze", "security", "--threshold=20", WORKER, LOGS)
    assert "Overall exposure level for prefect-worker.service" in exposure


def test_worker_is_asked_by_its_own_host_only(host: Host) -> None:
    port = f":{int(host.machine.environment['PREFECT_WORKER_WEBSERVER_PORT']):04X} "
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if f"{port}00000000:0000 0A" in line
    ]
    assert [address.partition(":")[0] for address in listening] == ["0100007F"]  # 127.0.0.1


def test_worker_fits_a_small_instance(host: Host) -> None:
    def resident(unit: str) -> int:
        status = host.machine.run("cat", f"/proc/{host.show(unit, 'MainPID')}/status")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) // 1024

    worker, forwarder = resident(WORKER), resident(LOGS)
    print(f"worker {worker} MiB, forwarder {forwarder} MiB")
    assert worker < 350
    assert forwarder < 100


def test_secret_is_in_the_worker_and_nowhere_else(host: Host) -> None:
    secret = host.secret
    pid = host.show(WORKER, "MainPID")
    assert secret in host.machine.run("cat", f"/proc/{pid}/environ")
    assert secret not in host.user_data
    template = host.app.aws.client("cloudformation").get_template(StackName=STACK)["TemplateBody"]
    assert secret not in json.dumps(template)
    assert secret not in host.machine.run("ps", "axww", "-o", "args")
    assert secret not in host.machine.run("journalctl", "--no-pager", "--output=export")
    places = ["/etc", "/opt", "/root", "/run", "/srv", "/tmp", "/var"]  # noqa: S108 - the machine's
    assert host.machine.run("grep", "-rlsF", "--devices=skip", secret, *places, check=False) == ""


def test_role_may_read_no_other_parameter(host: Host) -> None:
    host.app.aws.client("ssm").put_parameter(Name="/other", Value="unseen", Type="SecureString")
    aws = ["systemd-run", "--pipe", "--wait", "--quiet", "--collect", "--setenv=AWS_DEFAULT_REGION=us-east-1", "aws"]
    answer = host.machine.run(*aws, "ssm", "get-parameter", "--name", "/other", "--with-decryption", check=False)
    assert "AccessDenied" in answer
    assert "unseen" not in answer


# At work


def test_log_is_in_the_log_group(host: Host) -> None:
    def logged() -> list[str] | None:
        lines = host.app.log(f"worker/host/{INSTANCE}")
        return lines if any("started!" in line for line in lines) else None

    lines = wait_for("the worker's log", logged, 30)
    assert any(INSTANCE in line and "started!" in line for line in lines)
    assert not [line for line in lines if "Traceback" in line]
    assert not [line for line in lines if host.secret in line]


def test_forwarder_goes_on_where_it_was(host: Host) -> None:
    host.machine.run("systemctl", "restart", LOGS)
    host.machine.run("systemd-run", "--quiet", "--wait", "--unit=cloud-final", "--collect", "echo", "still forwarded")

    def logged() -> list[str] | None:
        lines = host.app.log(f"worker/host/{INSTANCE}")
        return lines if "still forwarded" in lines else None

    lines = wait_for("another line", logged, 30)
    assert len([line for line in lines if "started!" in line]) == 1


def test_run_completes(host: Host) -> None:
    host.app.deploy_flows()
    done = host.app.greet("host")
    assert done.state_name == "Completed", done.state
    (attempt,) = host.app.attempts(done.id)
    assert attempt.capacity_provider == "FARGATE_SPOT"


def test_interrupted_run_is_started_again_and_repeats_nothing(host: Host) -> None:
    run = host.app.start_run(DEPLOYMENT, {"name": "Spot", "pause": 8})
    host.app.interrupt_attempt(run.id, 1, when=lambda done: len(done) == 1)
    assert host.app.wait_for_final_state(run.id).state_name == "Completed"
    assert len(host.app.attempts(run.id)) == 2
    names = [name.rpartition("-")[0] for name in finished(host.app.task_runs(run.id))]
    assert sorted(names) == ["compose", "deliver"]


# Hurt


def test_worker_that_is_killed_comes_back_and_works(host: Host) -> None:
    before = host.show(WORKER, "MainPID")
    host.machine.run("systemctl", "kill", "--signal=KILL", WORKER)
    host.wait_until_polling(other_than=before)
    assert host.show(WORKER, "NRestarts") == "1"
    assert host.app.greet("again").state_name == "Completed"


def test_worker_that_hangs_is_restarted_by_the_health_check(host: Host) -> None:
    before = host.show(WORKER, "MainPID")
    host.machine.run("systemctl", "start", HEALTH)
    assert host.show(WORKER, "MainPID") == before, "a worker that is well was restarted"
    host.machine.run("systemctl", "kill", "--signal=STOP", WORKER)
    host.machine.run("systemctl", "start", HEALTH)
    host.wait_until_polling(other_than=before)


def test_worker_without_a_credential_says_so_and_goes_on_trying(host: Host) -> None:
    ssm = host.app.aws.client("ssm")
    ssm.delete_parameter(Name=AUTH_PARAMETER)
    host.machine.run("systemctl", "restart", WORKER)

    def said() -> str | None:
        journal = host.machine.run("journalctl", "--unit", WORKER, "--no-pager", "--output=cat")
        return journal if "The worker does not start" in journal else None

    assert f"SSM parameter '{AUTH_PARAMETER}' does not exist" in wait_for("an explanation", said, 30)
    host.app.store_secret()
    host.wait_until_polling()


def test_change_reaches_the_group_as_a_new_version(host: Host) -> None:
    host.app.instance_type = "t4g.small"
    printed = host.app.cdk("diff").stdout
    changed = [line for line in printed.splitlines() if line.startswith(("[~]", "[+]", "[-]"))]
    assert "AWS::EC2::LaunchTemplate" in {line.split()[1] for line in changed}
    host.app.deploy()
    assert host.app.group()["LaunchTemplate"]["Version"] == "2"
    assert host.app.launch_template()["InstanceType"] == "t4g.small"


# Set up in vain


def test_failed_set_up_is_told_to_the_stack_and_to_the_log(host: Host) -> None:
    bucket = next(b["Name"] for b in host.app.aws.client("s3").list_buckets()["Buckets"] if "assets" in b["Name"])
    missing = host.user_data.replace(f"s3://{bucket}/", f"s3://{bucket}/nothing-")
    assert missing != host.user_data
    host.machine.run_user_data(missing, check=False)
    assert not host.machine.said("cfn-signal")[-1].endswith("-e 0")
    assert len(host.machine.said("cfn-signal")) == 2
    lines = host.app.log(f"worker/host/{INSTANCE}-setup")
    assert len(lines) == 1
    assert "nothing-" in lines[0] or "403" in lines[0] or "404" in lines[0], lines
