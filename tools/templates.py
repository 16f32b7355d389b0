"""`make templates`: the layer as plain CloudFormation, for people without the CDK and without its bootstrap stack.

The library wants some names at synth, such as the work pool's, from which it makes others. So the layer is synthesized
with stand-ins, and wherever one of them ended up the template refers to a parameter.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2

from cdk_prefect_ecs import FlowImage, FlowNetwork, PrefectApi, PrefectExecutionLayer
from cdk_prefect_ecs.fargate import FARGATE_SIZES
from cdk_prefect_ecs.image import DEFAULT_IMAGE
from stacks.config import LOG_RETENTION_DAYS

ROOT: Final = Path(__file__).parents[1]
OUT: Final = ROOT / "build" / "templates"

_STACK: Final = "stand-in-stack"
_POOL: Final = "stand-in-pool"
_SECRET: Final = "/stand-in/secret"  # noqa: S105 - the name of a parameter
_BUCKET: Final = "stand-in-bucket"
_VPC: Final = "vpc-standin"
_SUBNETS: Final = ["subnet-standin1", "subnet-standin2"]
_OBSERVER_QUEUE: Final = f"{_STACK}-{_POOL}-no-observer"

#: What each stand-in becomes, longest first; in the words of Fn::Sub.
_STAND_INS: Final = {
    # Cut by the library to what SQS allows, which only the pool's name is sure to fit.
    _OBSERVER_QUEUE: "${WorkPoolName}-no-observer",
    _STACK: "${AWS::StackName}",
    _POOL: "${WorkPoolName}",
    _SECRET: "${SecretParameter}",
    _BUCKET: "${CodeBucket}",
    _VPC: "${VpcId}",
}
_ANY: Final = re.compile("|".join(map(re.escape, _STAND_INS)))

_CPU: Final = 1024
_MEMORY: Final = 2048

Parameters = dict[str, dict[str, Any]]

_UUID: Final = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_COMMON: Final[Parameters] = {
    "WorkPoolName": {
        "Type": "String",
        "Description": "Name of the work pool in Prefect: lower-case letters, digits and dashes",
        "AllowedPattern": "(?!prefect)[a-z0-9][a-z0-9-]{0,49}",
        "ConstraintDescription": "must be 1 to 50 lower-case letters, digits and dashes, and not begin with prefect",
        "Default": "ecs",
    },
    "CodeBucket": {
        "Type": "String",
        "Description": "Your S3 bucket in this region that holds the functions' code, as docs/templates.md says",
        "MinLength": 3,
    },
    "Image": {
        "Type": "String",
        "Description": "Image of worker and flow runs, pinned; one that can be pulled without credentials",
        "Default": DEFAULT_IMAGE,
    },
    "FlowCpu": {
        "Type": "String",
        "Description": "CPU units of a flow run; 1024 are one vCPU. Each deployment may set its own",
        "AllowedValues": [str(cpu) for cpu in FARGATE_SIZES],
        "Default": str(_CPU),
    },
    "FlowMemory": {
        "Type": "String",
        "Description": "Memory of a flow run in MiB; one that Fargate offers with FlowCpu",
        "AllowedPattern": "[0-9]+",
        "Default": str(_MEMORY),
    },
    "WorkerCount": {
        "Type": "Number",
        "Description": "Workers to run, each about $18 a month; two survive the loss of a zone",
        "MinValue": 0,
        "MaxValue": 100,
        "Default": 1,
    },
    "LogRetentionDays": {
        "Type": "Number",
        "Description": "How long logs are kept",
        "AllowedValues": list(LOG_RETENTION_DAYS),
        "Default": 30,
    },
}
_CLOUD: Final[Parameters] = {
    "AccountId": {
        "Type": "String",
        "Description": "Id of your Prefect Cloud account: app.prefect.cloud/account/ID",
        "AllowedPattern": _UUID,
        "ConstraintDescription": "must be a UUID",
    },
    "WorkspaceId": {
        "Type": "String",
        "Description": "Id of your workspace: app.prefect.cloud/account/…/workspace/ID",
        "AllowedPattern": _UUID,
        "ConstraintDescription": "must be a UUID",
    },
    "SecretParameter": {
        "Type": "String",
        "Description": "SSM SecureString with the API key, which you create; begins with a slash",
        "AllowedPattern": "(/[A-Za-z0-9_.-]+)+",
        "Default": "/prefect/api-key",
    },
}
_SERVER: Final[Parameters] = {
    "ApiUrl": {
        "Type": "String",
        "Description": "URL of your server's API, such as https://prefect.internal/api",
        "AllowedPattern": "https?://[^/@ ]+(/[^@ ?#]*)?/api",
        "ConstraintDescription": "must be an http or https URL that ends in /api, without a credential",
    },
    "SecretParameter": {
        "Type": "String",
        "Description": "SSM SecureString with the server's user:password, which you create; begins with a slash",
        "AllowedPattern": "(/[A-Za-z0-9_.-]+)+",
        "Default": "/prefect/auth-string",
    },
}
_IN_VPC: Final[Parameters] = {
    "VpcId": {"Type": "AWS::EC2::VPC::Id", "Description": "VPC of worker and flow runs"},
    "SubnetIds": {
        "Type": "List<AWS::EC2::Subnet::Id>",
        "Description": "Subnets of worker and flow runs, in several zones: Spot capacity is per zone",
    },
}
_PUBLIC_ADDRESS: Final[Parameters] = {
    "AssignPublicIp": {
        "Type": "String",
        "Description": "ENABLED in public subnets, DISABLED in private ones with a NAT gateway",
        "AllowedValues": ["ENABLED", "DISABLED"],
        "Default": "DISABLED",
    },
}


@dataclass(frozen=True)
class Shape:
    """One of the templates.

    :param name: Name of its file.
    :param title: What it makes.
    :param api: The Prefect API, from tokens; is given the VPC, if it is an existing one.
    :param parameters: Its parameters besides those of all.
    """

    name: str
    title: str
    api: Callable[[ec2.IVpc | None], PrefectApi]
    parameters: Parameters = field(default_factory=dict)

    @property
    def in_vpc(self) -> bool:
        """Whether it uses an existing VPC."""
        return "VpcId" in self.parameters


def _cloud(_: ec2.IVpc | None) -> PrefectApi:
    return PrefectApi.cloud(
        account_id=_ref("AccountId"),
        workspace_id=_ref("WorkspaceId"),
        api_key=PrefectApi.ssm_secure_string(_SECRET),
    )


def _server(vpc: ec2.IVpc | None) -> PrefectApi:
    return PrefectApi.self_hosted(_ref("ApiUrl"), auth_string=PrefectApi.ssm_secure_string(_SECRET), vpc=vpc)


SHAPES: Final = (
    Shape("cloud", "Prefect Cloud, flow runs in a new VPC", _cloud, _CLOUD),
    Shape("cloud-in-vpc", "Prefect Cloud, flow runs in a VPC of yours", _cloud, _CLOUD | _IN_VPC | _PUBLIC_ADDRESS),
    Shape(
        "server-in-vpc",
        "A Prefect server of yours and flow runs in private subnets of your VPC",
        _server,
        _SERVER | _IN_VPC,
    ),
)


@dataclass(frozen=True)
class Rendered:
    """A template, and the code that it refers to by the key in its bucket."""

    shape: Shape
    template: dict[str, Any]
    code: dict[str, bytes]


def render(shape: Shape) -> Rendered:
    """Synthesize one of the shapes and put parameters where the stand-ins are."""
    with tempfile.TemporaryDirectory(prefix="templates-") as out:
        app = cdk.App(
            outdir=out,
            analytics_reporting=False,
            context={
                **json.loads((ROOT / "cdk.json").read_text())["context"],
                "aws:cdk:enable-path-metadata": False,
                "aws:cdk:enable-asset-metadata": False,
            },
        )
        stack = cdk.Stack(
            app,
            "Layer",
            stack_name=_STACK,
            synthesizer=cdk.DefaultStackSynthesizer(
                generate_bootstrap_version_rule=False, file_assets_bucket_name=_BUCKET
            ),
        )
        _layer(stack, shape)
        assembly = app.synth()
        made: dict[str, Any] = assembly.get_stack_by_name(_STACK).template
        code = _code(Path(out))
    return Rendered(shape, _finished(shape, made), code)


def write(directory: Path) -> list[Path]:
    """Write every template, and the functions' code beside them; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("*.json"), *directory.glob("*.zip")):
        old.unlink()
    files = {}
    for rendered in map(render, SHAPES):
        files[f"{rendered.shape.name}.json"] = (json.dumps(rendered.template, indent=1) + "\n").encode()
        files |= rendered.code
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in files]


def _ref(parameter: str) -> str:
    return cdk.Token.as_string({"Ref": parameter})


def _layer(stack: cdk.Stack, shape: Shape) -> None:
    vpc = None
    if shape.in_vpc:
        vpc = ec2.Vpc.from_vpc_attributes(
            stack,
            "Vpc",
            vpc_id=_VPC,
            availability_zones=["a", "b"],
            private_subnet_ids=_SUBNETS,
            private_subnet_route_table_ids=["rtb-a", "rtb-b"],
        )
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name=_POOL,
        api=shape.api(vpc),
        network=FlowNetwork(stack, "Network", vpc=vpc),
        image=FlowImage.from_registry(_ref("Image")),
        flow_cpu=_CPU,
        flow_memory_mib=_MEMORY,
    )
    for name, value, description in (
        ("WorkPool", layer.work_pool.work_pool_name, "Work pool: give it to prefect deploy --pool"),
        ("Bucket", layer.storage.bucket_name, "Bucket of flow code (code/), task results and data"),
        ("Cluster", layer.cluster.cluster_name, "ECS cluster of worker and flow runs"),
        ("FlowRole", layer.flow_role.role_arn, "Role of flow runs: attach what your flows may use"),
    ):
        cdk.CfnOutput(stack, name, value=value, description=description)


def _code(assembly: Path) -> dict[str, bytes]:
    """The zip files that the template's functions are made of, by their keys."""
    (manifest,) = assembly.glob("*.assets.json")
    found = {}
    for asset in json.loads(manifest.read_text())["files"].values():
        if asset["source"]["packaging"] == "zip":
            (destination,) = asset["destinations"].values()
            found[destination["objectKey"]] = _zipped(assembly / asset["source"]["path"])
    return found


def _zipped(folder: Path) -> bytes:
    """A folder as a zip file that is the same on every machine: no times, no owners, no compression."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    info = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                    info.external_attr = 0o644 << 16
                    info.create_system = 3
                    archive.writestr(info, path.read_bytes())
        file.seek(0)
        return file.read()


def _finished(shape: Shape, made: Mapping[str, Any]) -> dict[str, Any]:
    resources = {key: _parametrised(value) for key, value in made["Resources"].items()}
    _set_sizes(resources, public_address="AssignPublicIp" in shape.parameters)
    parameters = shape.parameters | _COMMON
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Prefect 3 on Amazon ECS with Fargate Spot (cdk-prefect-ecs): {shape.title}",
        "Metadata": {
            "AWS::CloudFormation::Interface": {
                "ParameterGroups": [
                    {"Label": {"default": label}, "Parameters": [name for name in group if name in parameters]}
                    for label, group in (
                        ("Prefect", [*_CLOUD, "ApiUrl", "WorkPoolName"]),
                        ("Network", [*_IN_VPC, *_PUBLIC_ADDRESS]),
                        (
                            "Flow runs and workers",
                            [name for name in _COMMON if name not in ("WorkPoolName", "CodeBucket")],
                        ),
                        ("This template", ["CodeBucket"]),
                    )
                    if any(name in parameters for name in group)
                ]
            }
        },
        "Parameters": parameters,
        "Rules": _size_rules(),
        "Resources": resources,
        "Outputs": {key: _parametrised(value) for key, value in made["Outputs"].items()},
    }


def _size_rules() -> dict[str, Any]:
    """CloudFormation refuses a pair of CPU and memory that Fargate does not offer before it makes anything."""
    return {
        f"MemoryFor{cpu}": {
            "RuleCondition": {"Fn::Equals": [{"Ref": "FlowCpu"}, str(cpu)]},
            "Assertions": [
                {
                    "Assert": {"Fn::Contains": [[str(size) for size in sizes], {"Ref": "FlowMemory"}]},
                    "AssertDescription": f"With FlowCpu {cpu}, FlowMemory is one of {', '.join(map(str, sizes))}",
                }
            ],
        }
        for cpu, sizes in FARGATE_SIZES.items()
    }


def _parametrised(value: Any) -> Any:
    """A piece of the template with references where stand-ins were."""
    if isinstance(value, str):
        return _substituted(value)
    if value == _SUBNETS:
        return {"Ref": "SubnetIds"}
    if isinstance(value, Mapping):
        return {key: _parametrised(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_parametrised(item) for item in value]
    return value


def _substituted(text: str) -> Any:
    if not _ANY.search(text):
        return text
    # What only looks like a reference stays as it is.
    formula = _ANY.sub(lambda found: _STAND_INS[found[0]], text.replace("${", "${!"))
    alone = re.fullmatch(r"\$\{([A-Za-z:]+)\}", formula)
    return {"Ref": alone[1]} if alone else {"Fn::Sub": formula}


def _set_sizes(resources: dict[str, Any], *, public_address: bool) -> None:
    """Put parameters where numbers are: a number leaves no trace of where it came from."""
    (pool,) = _of_type(resources, "Custom::PrefectWorkPool")
    job = pool["BaseJobTemplate"]
    variables = job["variables"]["properties"]
    definition = job["job_configuration"]["task_definition"]
    cpu, memory = {"Fn::Sub": "json:${FlowCpu}"}, {"Fn::Sub": "json:${FlowMemory}"}
    _swap(variables["cpu"], "default", f"json:{_CPU}", cpu)
    _swap(variables["memory"], "default", f"json:{_MEMORY}", memory)
    _swap(definition, "cpu", str(_CPU), {"Ref": "FlowCpu"})
    _swap(definition, "memory", str(_MEMORY), {"Ref": "FlowMemory"})
    (service,) = _of_type(resources, "AWS::ECS::Service")
    _swap(service, "DesiredCount", 1, {"Ref": "WorkerCount"})
    for group in _of_type(resources, "AWS::Logs::LogGroup"):
        _swap(group, "RetentionInDays", 30, {"Ref": "LogRetentionDays"})
    if public_address:
        address = {"Ref": "AssignPublicIp"}
        _swap(service["NetworkConfiguration"]["AwsvpcConfiguration"], "AssignPublicIp", "DISABLED", address)
        _swap(variables["network_configuration"]["default"], "assignPublicIp", "DISABLED", address)


def _of_type(resources: Mapping[str, Any], resource_type: str) -> list[dict[str, Any]]:
    return [resource["Properties"] for resource in resources.values() if resource["Type"] == resource_type]


def _swap(where: dict[str, Any], key: str, expected: object, reference: dict[str, str]) -> None:
    if where[key] != expected:
        raise ValueError(f"the library's template has changed: {key} is {where[key]!r}, not {expected!r}")
    where[key] = reference


def main() -> None:
    """Write the templates and say what to do with them."""
    parser = argparse.ArgumentParser(prog="python -m tools.templates", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="where they go; default: build/templates")
    files = write(parser.parse_args().out)
    for file in sorted(files):
        sys.stdout.write(f"{file}  {file.stat().st_size / 1000:.0f} kB\n")
    sys.stdout.write("docs/templates.md says how to deploy them.\n")


if __name__ == "__main__":
    main()
