"""ECS tasks as containers: what podman makes of a task definition, how a container lives and how it ends."""

import json
import subprocess
from typing import Any

import psutil
import pytest
from embedded_lab import CLUSTER, ON_DEMAND, Lab, gone, wait_until

from embedded.emulator.podman import Podman
from embedded.images import docker
from embedded.launching import ROOT, VENV_BIN
from embedded.runtimes import TASK_LABEL

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]

LOOP = "while :; do sleep 0.05; done"
# A parameter of the flow image's user and of nothing else.
USER_ID = 10001


def containers(**labels: str) -> list[dict[str, Any]]:
    """The containers with these labels, as ``podman inspect`` shows them."""
    podman = Podman()
    filters = [f"--filter=label={name.replace('_', '.')}={value}" for name, value in labels.items()]
    names = podman("ps", "--all", "--format={{.Names}}", *filters).split()
    found: list[dict[str, Any]] = json.loads(podman("inspect", *names)) if names else []
    return found


def volumes(task_id: str) -> list[str]:
    return Podman()("volume", "ls", "--quiet", f"--filter=label={TASK_LABEL}={task_id}").split()


def id_of(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]


def test_a_container_lives_and_tells_about_it(lab: Lab) -> None:
    arn = lab.run(lab.define("echo one; echo two >&2; printf three; exit 3"))
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.stopped_reason) == ("EssentialContainerExited", "Essential container in task exited")
    assert task.exit_codes == {"main": 3}
    assert lab.logs(arn) == ["one", "two", "three"]
    events = lab.events(arn)
    assert [e["lastStatus"] for e in events] == ["PROVISIONING", "PENDING", "RUNNING", "DEPROVISIONING", "STOPPED"]
    digest = Podman()("image", "inspect", "--format={{.Digest}}", lab.image).strip()
    assert events[-1]["containers"][0]["imageDigest"] == digest
    assert containers(embedded_task=id_of(arn)) == []


def test_the_images_own_entry_point_command_and_user_are_used(lab: Lab) -> None:
    arn = lab.run(lab.define("", command=[]))
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 0}
    assert any(line.startswith("Version:") for line in lab.logs(arn)), "prefect version is the image's command"

    arn = lab.run(lab.define("tr '\\0' ' ' < /proc/1/cmdline; echo; id -u; grep CapEff /proc/self/status"))
    lab.wait(arn, "STOPPED")
    first, user, capabilities = lab.logs(arn)
    assert first.startswith("/usr/bin/tini -g -- sh -c")
    assert user == str(USER_ID)
    assert int(capabilities.split()[-1], 16) == 0


def test_entry_point_command_user_and_directory_of_the_task_definition_win(lab: Lab) -> None:
    script = "tr '\\0' ' ' < /proc/1/cmdline; echo; id -u; id -g; pwd"
    definition = lab.define(
        "", entryPoint=["sh", "-c"], command=["exit 9"], user="1234:1234", workingDirectory="/opt/venv"
    )
    override = {"containerOverrides": [{"name": "main", "command": [script]}]}
    arn = lab.run(definition, overrides=override)
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 0}
    assert lab.logs(arn) == [f"sh -c {script} ", "1234", "1234", "/opt/venv"]


def test_a_read_only_root_leaves_only_the_volumes_writable(lab: Lab) -> None:
    script = (
        "for place in / /opt/venv /etc /var/tmp /run /dev/shm /home/prefect /tmp /scratch; do "
        'if touch "$place/file" 2>/dev/null; then echo "$place"; fi; done'
    )
    definition = lab.define(
        script,
        readonlyRootFilesystem=True,
        mountPoints=[{"sourceVolume": "scratch", "containerPath": "/scratch", "readOnly": True}],
        task={"volumes": [{"name": "scratch"}]},
    )
    arn = lab.run(definition)
    lab.wait(arn, "STOPPED")
    assert lab.logs(arn) == ["/dev/shm", "/home/prefect", "/tmp"]  # noqa: S108


def test_containers_of_a_task_share_its_volumes_and_nobody_finds_them_later(lab: Lab) -> None:
    mounts = [{"sourceVolume": "shared", "containerPath": "/tmp"}]  # noqa: S108
    log = {"awslogs-group": "/lab/tasks", "awslogs-stream-prefix": "lab", "awslogs-region": "us-east-1"}
    common = {
        "image": lab.image,
        "mountPoints": mounts,
        "logConfiguration": {"logDriver": "awslogs", "options": log},
    }
    reader = "until test -e /tmp/written; do sleep 0.05; done; cat /tmp/written; stat -c '%u %a' /tmp"
    definition = lab.define(
        "",
        task={
            "volumes": [{"name": "shared"}],
            "containerDefinitions": [
                {"name": "main", "command": ["sh", "-c", reader], **common},
                {"name": "writer", "command": ["sh", "-c", "echo hello > /tmp/new; mv /tmp/new /tmp/written; sleep 60"]}
                | common
                | {"essential": False},
            ],
        },
    )
    first, second = lab.run(definition), lab.run(definition)
    lab.wait(first, "RUNNING")
    assert len(volumes(id_of(first))) == 1
    for arn in (first, second):
        assert lab.wait(arn, "STOPPED").exit_codes == {"main": 0, "writer": 143}
        assert lab.logs(arn) == ["hello", "0 1777"], "a volume has owner and mode of its directory in the image"
        assert volumes(id_of(arn)) == []


def test_secrets_are_in_the_environment_and_on_no_command_line(lab: Lab) -> None:
    secret = "two lines\nwith 'quotes', a # and a $HOME "
    lab.client("ssm").put_parameter(Name="/lab/open", Value=secret, Type="SecureString")
    valueless = {"name": "EMPTY", "value": ""}
    definition = lab.define(
        "",
        command=[
            "python",
            "-c",
            "import json, os, time; print(json.dumps(dict(os.environ)), flush=True); time.sleep(60)",
        ],
        environment=[{"name": "PATH", "value": "/opt/venv/bin:/usr/bin:/bin"}, valueless],
        secrets=[{"name": "SECRET", "valueFrom": "/lab/open"}],
    )
    seen: set[str] = set()
    arn = lab.run(definition)

    def printed() -> bool:
        # Whatever is started on the way is looked at.
        for process in psutil.process_iter():
            try:
                seen.add("\0".join(process.cmdline()))
            except psutil.Error:
                continue
        return lab.task(arn).last_status == "RUNNING" and bool(lab.logs(arn))

    wait_until(printed, "the environment")
    environment = json.loads(lab.logs(arn)[0])
    (container,) = containers(embedded_task=id_of(arn))
    lab.client("ecs").stop_task(cluster=CLUSTER, task=arn)
    assert environment["SECRET"] == secret
    assert environment["EMPTY"] == ""
    assert environment["PATH"] == "/opt/venv/bin:/usr/bin:/bin"
    assert environment["HOME"] == "/home/prefect", "the image's own"
    assert environment["AWS_ENDPOINT_URL"] == lab.aws.endpoint
    assert not {"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "PREFECT_API_KEY", "CONTAINERS_CONF"} & environment.keys()
    assert any("podman\0create" in line for line in seen), "the search sees podman at work"
    assert not [line for line in seen if "two lines" in line]
    assert "two lines" not in json.dumps(container["Config"]["CreateCommand"])
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 143}


def test_stopping_asks_first_and_then_insists(lab: Lab) -> None:
    polite = lab.run(lab.define(f"trap 'echo bye; exit 5' TERM; echo ready; {LOOP}", stopTimeout=30))
    plain = lab.run(lab.define("echo ready; sleep 60", stopTimeout=30))
    deaf = lab.run(lab.define(f"trap '' TERM; echo ready; {LOOP}", stopTimeout=2))
    # Without an init program the shell is PID 1, and the kernel gives it no signal that it does not handle.
    alone = lab.run(lab.define("", entryPoint=["sh", "-c"], command=[f"echo ready; {LOOP}"], stopTimeout=2))
    for arn in (polite, plain, deaf, alone):
        lab.wait_for_line(arn, "ready")
        lab.client("ecs").stop_task(cluster=CLUSTER, task=arn, reason="enough")
    codes = {arn: lab.wait(arn, "STOPPED").exit_codes["main"] for arn in (polite, plain, deaf, alone)}
    assert codes == {polite: 5, plain: 143, deaf: 137, alone: 137}
    assert lab.logs(polite)[-1] == "bye"
    assert lab.task(deaf).stopped_reason == "enough"
    described = lab.describe(deaf)
    assert (described["stoppedAt"] - described["stoppingAt"]).total_seconds() >= 2
    assert "reason" not in described["containers"][0]


def test_a_machine_that_is_gone(lab: Lab) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid, flush=True)"
    arn = lab.run(lab.define(f"trap 'echo saved; exit 1' TERM; python -c \"{script}\"; {LOOP}"))
    lab.wait(arn, "RUNNING")
    wait_until(lambda: lab.logs(arn), "the child")
    (container,) = containers(embedded_task=id_of(arn))
    inside = [p.pid for p in psutil.Process(container["State"]["Pid"]).children(recursive=True)]
    assert len(inside) >= 2
    lab.aws.interrupt(arn, notice=False)
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.exit_codes) == ("SpotInterruption", {"main": 137})
    assert len(lab.logs(arn)) == 1, "nobody was asked"
    assert gone(task.pid, *inside)
    assert containers(embedded_task=id_of(arn)) == []


def test_an_interruption_with_notice(lab: Lab) -> None:
    arn = lab.run(lab.define(f"trap 'echo saved; exit 1' TERM; echo ready; {LOOP}"))
    lab.wait_for_line(arn, "ready")
    lab.aws.interrupt(arn)
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.exit_codes) == ("SpotInterruption", {"main": 1})
    assert lab.logs(arn)[-1] == "saved"


def test_a_task_may_do_what_its_role_may(lab: Lab) -> None:
    role = lab.role("lab-nobody")
    script = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    arn = lab.run(lab.define("", command=["python", "-c", script]), overrides={"taskRoleArn": role})
    lab.wait(arn, "STOPPED")
    assert lab.logs(arn) == [f"arn:aws:sts::000000000000:assumed-role/lab-nobody/{id_of(arn)}"]


def test_memory_ends_where_the_task_says_and_the_reason_is_told(lab: Lab) -> None:
    script = "print('ready', flush=True); held = [b'x' * 2**20 for _ in range(2000)]; print(len(held))"
    arn = lab.run(lab.define("", command=["python", "-c", script]), overrides={"memory": "256"})
    task = lab.wait(arn, "STOPPED")
    assert task.exit_codes == {"main": 137}
    assert lab.logs(arn) == ["ready"]
    assert lab.describe(arn)["containers"][0]["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert lab.events(arn)[-1]["containers"][0]["reason"].startswith("OutOfMemoryError")
    assert not (ROOT / "oom").exists(), "conmon left a file in the checkout"


def test_health_is_checked_inside_the_container(lab: Lab) -> None:
    check = {"command": ["CMD-SHELL", 'test "$MARK" = here && test -e /tmp/sound'], "interval": 1, "retries": 1}
    definition = lab.define(
        "touch /tmp/sound; sleep 5; rm /tmp/sound; sleep 60",
        environment=[{"name": "MARK", "value": "here"}],
        healthCheck=check,
    )
    arn = lab.run(definition, capacityProviderStrategy=ON_DEMAND)
    wait_until(lambda: lab.describe(arn)["healthStatus"] == "HEALTHY", "health")
    wait_until(lambda: lab.describe(arn)["containers"][0]["healthStatus"] == "UNHEALTHY", "illness", 60)
    lab.aws.interrupt(arn, notice=False)
    assert lab.wait(arn, "STOPPED").stop_code == "InfrastructureHealth"


def test_a_health_check_that_hangs_fails_and_leaves_nothing(lab: Lab) -> None:
    check = {"command": ["CMD", "sleep", "54321"], "interval": 5, "timeout": 2, "retries": 1}
    arn = lab.run(lab.define("sleep 60", healthCheck=check))
    wait_until(lambda: lab.describe(arn)["healthStatus"] == "UNHEALTHY", "illness", 60)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "54321"]]
    lab.aws.interrupt(arn, notice=False)
    lab.wait(arn, "STOPPED")


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (
            {"image": "docker.io/library/none:1"},
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
            "failed to resolve ref docker.io/library/none:1: docker.io/library/none:1: not found",
        ),
        (
            {"entryPoint": ["no-such-program"]},
            "CannotStartContainerError: crun: executable file `no-such-program` not found in $PATH: "
            "No such file or directory: OCI runtime attempted to invoke a command that was not found",
        ),
        (
            {"environment": [{"name": "PATH", "value": "a\nb"}]},
            "CannotStartContainerError: environment variable PATH has more than one line, and podman itself reads a "
            "variable of that name; give it another name",
        ),
    ],
)
def test_a_container_that_cannot_start_says_why(lab: Lab, container: dict, reason: str) -> None:
    arn = lab.run(lab.define("true", **container))
    task = lab.wait(arn, "STOPPED")
    assert (task.stop_code, task.stopped_reason) == ("TaskFailedToStart", reason)
    assert (task.exit_codes, task.pid) == ({"main": None}, None)
    assert containers(embedded_task=id_of(arn)) == []
    assert lab.events(arn)[-1]["stoppedReason"] == reason


def test_what_the_cdk_cli_pushes_is_in_ecr_and_runs(lab: Lab) -> None:
    """The calls of its ``ContainerImageAssetHandler``, in their order."""
    ecr = lab.client("ecr")
    repository = ecr.create_repository(repositoryName="assets", imageTagMutability="IMMUTABLE")["repository"]
    name = f"{repository['repositoryUri']}:0123abc"

    def call(*arguments: str, **more: Any) -> int:
        environment = {**lab.aws.environment(), "PATH": f"{VENV_BIN}:/usr/bin:/bin"}
        return subprocess.run([docker.CDK_DOCKER, *arguments], env=environment, check=False, **more).returncode

    assert call("inspect", "cdkasset-none") == 1
    assert call("inspect", lab.image) == 0
    assert call("tag", lab.image, name) == 0
    assert call("login", "--username", "AWS", "--password-stdin", "an-ecr", input=b"token") == 0
    assert call("push", name) == 0
    (detail,) = ecr.describe_images(repositoryName="assets", imageIds=[{"imageTag": "0123abc"}])["imageDetails"]
    digest = Podman()("image", "inspect", "--format={{.Digest}}", lab.image).strip()
    assert detail["imageDigest"] == digest
    assert detail["imageSizeInBytes"] > 50_000_000
    assert call("push", name) == 1, "the repository's tags are immutable"

    pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    role = lab.role(
        "lab-puller",
        {"Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": "*"},
        {"Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Action": pull, "Resource": repository["repositoryArn"]},
    )
    arn = lab.run(lab.define("echo from ecr", image=name, task={"executionRoleArn": role}))
    assert lab.wait(arn, "STOPPED").exit_codes == {"main": 0}
    assert lab.logs(arn) == ["from ecr"]
    assert lab.describe(arn)["containers"][0]["imageDigest"] == digest
