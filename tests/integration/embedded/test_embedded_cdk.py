"""A real CDK app by the real CLI: deployed, without drift, updated, refused with a reason, and gone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from embedded_lab import Lab, wait_until

from embedded import EmbeddedAws, EmbeddedError, run_cdk
from embedded.cdk import bootstrap, jsii_cache

pytestmark = pytest.mark.integration

APP = Path(__file__).parent / "app"


def synthesise(directory: Path, **variables: str) -> str:
    """Once for several commands: synthesis is the slowest part."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CDK_OUTDIR": str(directory),
        "CDK_VALIDATION": "false",
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(jsii_cache()),
        **variables,
    }
    subprocess.run([sys.executable, "app.py"], cwd=APP, env=environment, check=True, capture_output=True)
    return str(directory)


def edited(assembly: str, directory: Path, old: str, new: str) -> str:
    """The same assembly with another template: cheaper than a synthesis."""
    shutil.copytree(assembly, directory)
    template = directory / "Embedded.template.json"
    text = template.read_text()
    assert old in text
    template.write_text(text.replace(old, new))
    manifest = json.loads((directory / "Embedded.assets.json").read_text())
    for name, asset in list(manifest["files"].items()):
        if asset["source"]["path"] == "Embedded.template.json":
            fresh = f"{name[:-8]}{abs(hash(new)) % 16**8:08x}"
            for destination in asset["destinations"].values():
                destination["objectKey"] = destination["objectKey"].replace(name, fresh)
            main = json.dumps(json.loads((directory / "manifest.json").read_text())).replace(name, fresh)
            (directory / "manifest.json").write_text(main)
            manifest["files"][fresh] = manifest["files"].pop(name)
    (directory / "Embedded.assets.json").write_text(json.dumps(manifest))
    return str(directory)


def test_the_life_of_a_stack(lab: Lab, embedded_aws: EmbeddedAws, tmp_path: Path) -> None:
    aws = embedded_aws
    bootstrap(aws)
    assembly = synthesise(tmp_path / "good")
    run_cdk(["deploy"], aws=aws, cwd=tmp_path, app=assembly, output=tmp_path / "deploy.log")
    stack = aws.client("cloudformation").describe_stacks(StackName="Embedded")["Stacks"][0]
    outputs = {output["OutputKey"].removeprefix("Out"): output["OutputValue"] for output in stack["Outputs"]}

    # CloudFormation turns every scalar of a custom resource's properties into a string.
    assert json.loads(outputs["Seen"]) == {"list": ["1", "false", "text"], "number": "2", "yes": "true"}

    # The deployment ended when the service was steady, and its task has its secrets.
    service = aws.client("ecs").describe_services(cluster=outputs["Cluster"], services=[outputs["ServiceName"]])
    assert service["services"][0]["runningCount"] == 1
    (task,) = aws.tasks(outputs["Cluster"])
    assert (task.last_status, task.health_status, task.capacity_provider) == ("RUNNING", "HEALTHY", "FARGATE")
    definition = aws.client("ecs").describe_task_definition(taskDefinition=task.family)["taskDefinition"]
    assert definition["runtimePlatform"]["cpuArchitecture"] == "ARM64"
    assert definition["ephemeralStorage"] == {"sizeInGiB": 25}
    cluster = aws.client("ecs").describe_clusters(clusters=[outputs["Cluster"]])["clusters"][0]
    strategy = {
        s["capacityProvider"]: (s.get("base", 0), s["weight"]) for s in cluster["defaultCapacityProviderStrategy"]
    }
    assert strategy == {"FARGATE": (1, 2), "FARGATE_SPOT": (0, 3)}
    rules = aws.client("s3").get_bucket_lifecycle_configuration(Bucket=outputs["Bucket"])["Rules"]
    assert (rules[0]["ID"], rules[0]["Expiration"]["Days"]) == ("expire", 7)

    # Rule, queue, event source and function: a lost task wakes the listener.
    aws.interrupt(task.arn, notice=False)
    logs = aws.client("logs")
    group = aws.client("lambda").get_function_configuration(FunctionName=outputs["ListenerName"])["LoggingConfig"]
    wait_until(
        lambda: any(task.arn in e["message"] for e in logs.filter_log_events(logGroupName=group["LogGroup"])["events"]),
        "the listener to be woken",
    )

    clean = run_cdk(["diff", "--fail"], aws=aws, cwd=tmp_path, app=assembly)
    assert "There were no differences" in clean.stdout

    # A custom resource that fails says why, and the stack is as it was.
    failing = edited(assembly, tmp_path / "failing", '"Fail": false', '"Fail": true')
    with pytest.raises(EmbeddedError, match="the work pool said no: 401 Unauthorized, check the API key"):
        run_cdk(["deploy"], aws=aws, cwd=tmp_path, app=failing)
    stack = aws.client("cloudformation").describe_stacks(StackName="Embedded")["Stacks"][0]
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"

    # A worker that cannot start fails the deployment by way of the circuit breaker.
    broken = edited(assembly, tmp_path / "broken", "exec sleep 600", "exit 7")
    with pytest.raises(EmbeddedError, match="Circuit Breaker was triggered") as caught:
        run_cdk(["deploy"], aws=aws, cwd=tmp_path, app=broken)
    assert "'worker': 7" in str(caught.value)

    aws.client("s3").put_object(Bucket=outputs["Bucket"], Key="left/behind", Body=b"x")
    run_cdk(["destroy"], aws=aws, cwd=tmp_path, app=assembly)
    assert {task.last_status for task in aws.tasks(outputs["Cluster"])} == {"STOPPED"}
    assert outputs["Cluster"] not in aws.client("ecs").list_clusters()["clusterArns"]
    assert outputs["Bucket"] not in [bucket["Name"] for bucket in aws.client("s3").list_buckets()["Buckets"]]
    assert aws.client("ecs").list_task_definitions(familyPrefix=task.family)["taskDefinitionArns"] == []
