"""Each task has an interface of its own, and tags of tasks decide who may stop them."""

from typing import Any

import pytest
from embedded_lab import CLUSTER, NETWORK, Lab, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PATIENT = ["dask", "scheduler", "--idle-timeout", "10 minutes"]


def interface_id(lab: Lab, arn: str) -> str:
    (attachment,) = lab.describe(arn)["attachments"]
    return next(str(detail["value"]) for detail in attachment["details"] if detail["name"] == "networkInterfaceId")


def interface(lab: Lab, arn: str) -> dict[str, Any]:
    (found,) = lab.client("ec2").describe_network_interfaces(NetworkInterfaceIds=[interface_id(lab, arn)])[
        "NetworkInterfaces"
    ]
    return dict(found)


def test_two_dask_schedulers_listen_on_the_same_port_of_their_own_addresses(lab: Lab) -> None:
    definition = lab.define("true")
    overrides = {"containerOverrides": [{"name": "main", "command": PATIENT}]}
    arns = [lab.run(definition, overrides=overrides) for _ in range(2)]
    addresses = [interface(lab, arn)["PrivateIpAddress"] for arn in arns]
    assert len(set(addresses)) == 2
    for arn, address in zip(arns, addresses, strict=True):
        expected = f"tcp://{address}:8786"
        wait_until(lambda arn=arn, it=expected: any(it in line for line in lab.logs(arn)), expected, 40)
    for arn in arns:
        lab.client("ecs").stop_task(cluster=CLUSTER, task=arn)
        lab.wait(arn, "STOPPED")


def test_an_interface_is_as_the_task_asked_and_goes_with_it(lab: Lab) -> None:
    definition = lab.define("exec sleep 600")
    awsvpc = NETWORK["awsvpcConfiguration"]
    public = lab.run(definition)
    private = lab.run(
        definition, networkConfiguration={"awsvpcConfiguration": {**awsvpc, "assignPublicIp": "DISABLED"}}
    )
    assert interface(lab, public)["Association"]["PublicIp"]
    assert "Association" not in interface(lab, private)
    assert interface(lab, private)["PrivateIpAddresses"][0]["PrivateIpAddress"].startswith("127.")
    gone = interface_id(lab, public)
    for arn in (public, private):
        lab.aws.interrupt(arn, notice=False)
        lab.wait(arn, "STOPPED")
    everything = lab.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
    assert gone not in [found["NetworkInterfaceId"] for found in everything]
    assert lab.describe(public)["attachments"][0]["status"] == "DELETED"


def test_a_role_may_stop_tasks_with_a_tag_and_no_others(lab: Lab) -> None:
    role = lab.role(
        "lab-stops-its-own",
        {
            "Action": "ecs:StopTask",
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:ResourceTag/owner": "dask"}},
        },
    )
    victim = lab.define("exec sleep 600")
    tagged = lab.run(victim, tags=[{"key": "owner", "value": "dask"}])
    others = [lab.run(victim, tags=[{"key": "owner", "value": "etl"}]), lab.run(victim)]
    for arn in (tagged, *others):
        lab.wait(arn, "RUNNING")
    stop = "\n".join(
        f'python -c \'import boto3; boto3.client("ecs").stop_task(cluster="{CLUSTER}", task="{arn}")\' '
        "2>&1 | grep -o AccessDenied | head -1"
        for arn in (*others, tagged)
    )
    attempt = lab.run(lab.define(f"{stop}\necho done", task={"taskRoleArn": role}))
    lab.wait(attempt, "STOPPED")
    assert lab.logs(attempt) == ["AccessDenied", "AccessDenied", "done"]
    lab.wait(tagged, "STOPPED")
    assert [lab.task(arn).last_status for arn in others] == ["RUNNING", "RUNNING"]
    for arn in others:
        lab.aws.interrupt(arn, notice=False)
        lab.wait(arn, "STOPPED")
