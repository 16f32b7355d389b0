"""`make templates`: the layer as plain CloudFormation, for people without the CDK and without its bootstrap stack.

Most settings are parameters from the start. Some names the library wants to know at synth, as it makes others of them:
those are synthesized as stand-ins, and wherever one of them ended up the template refers to what it stands for.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs

from cdk_prefect_ecs import FlowImage, FlowNetwork, PrefectApi, PrefectExecutionLayer, WorkerService
from cdk_prefect_ecs.image import DEFAULT_IMAGE
from stacks.config import LOG_RETENTION_DAYS

ROOT: Final = Path(__file__).parents[1]
OUT: Final = ROOT / "build" / "templates"

_STACK: Final = "stand-in-stack"
_POOL: Final = "stand-in-pool"
_SECRET: Final = "/stand-in/secret"  # noqa: S105 - the name of a parameter
_SUBNETS: Final = ["subnet-00000000000000001", "subnet-00000000000000002"]

#: What each stand-in becomes, in the words of Fn::Sub; the first that fits.
_STAND_INS: Final = {
    # No queue has this name, and none could be longer: without the stack's name it is sure to fit.
    f"{_STACK}_{_POOL}-no-observer": "${WorkPoolName}-no-observer",
    _STACK: "${AWS::StackName}",
    _POOL: "${WorkPoolName}",
    _SECRET: "${CredentialName}",
}
_ANY: Final = re.compile("|".join(map(re.escape, _STAND_INS)))

# Arguments of CfnParameter, by the parameter's name.
Parameters = dict[str, dict[str, Any]]

_UUID: Final = {
    "allowed_pattern": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "constraint_description": "must be a UUID",
}
_CREDENTIAL_NAME: Final = {
    "allowed_pattern": "(/[A-Za-z0-9_.-]+)+",
    "constraint_description": "must be the name of a parameter that begins with a slash",
}
_CLOUD: Final[Parameters] = {
    "AccountId": {"description": "Id of your Prefect Cloud account, as in app.prefect.cloud/account/ID", **_UUID},
    "WorkspaceId": {
        "description": "Id of your workspace, as in app.prefect.cloud/account/ACCOUNT/workspace/ID",
        **_UUID,
    },
    "CredentialName": {
        "description": "Name of the SSM SecureString with your API key",
        "default": "/prefect/api-key",
        **_CREDENTIAL_NAME,
    },
}
_SERVER: Final[Parameters] = {
    "ApiUrl": {
        "description": "URL of your server's API, such as https://prefect.internal/api",
        "allowed_pattern": "https?://[^/@ ]+(/[^@ ?#]*)?/api",
        "constraint_description": "must be an http or https URL that ends in /api, without a credential",
    },
    "CredentialName": {
        "description": "Name of the SSM SecureString with your server's user:password",
        "default": "/prefect/auth-string",
        **_CREDENTIAL_NAME,
    },
}
_POOLS: Final[Parameters] = {
    "WorkPoolName": {
        "description": "Name of the work pool in Prefect",
        "allowed_pattern": "(?!prefect)[a-z0-9][a-z0-9-]{0,49}",
        "constraint_description": "must be 1 to 50 lower-case letters, digits and dashes, and not begin with prefect",
        "default": "ecs",
    },
}
_VPC: Final[Parameters] = {
    "VpcId": {"type": "AWS::EC2::VPC::Id", "description": "VPC of worker and flow runs"},
    "SubnetIds": {
        "type": "List<AWS::EC2::Subnet::Id>",
        "description": "Subnets of worker and flow runs, in several zones: Spot capacity is per zone",
    },
}
_PUBLIC_ADDRESS: Final[Parameters] = {
    "AssignPublicIp": {
        "description": "ENABLED in public subnets, DISABLED in private ones with a NAT gateway",
        "allowed_values": ["ENABLED", "DISABLED"],
        "default": "DISABLED",
    },
}
_TASKS: Final[Parameters] = {
    "Image": {
        "description": "Image of worker and flow runs, pinned; one that can be pulled without credentials",
        "default": DEFAULT_IMAGE,
    },
    "WorkerCount": {
        "type": "Number",
        "description": "Workers to run, each about $18 a month; two survive the loss of a zone",
        "min_value": 0,
        "default": 1,
    },
    "LogRetentionDays": {
        "type": "Number",
        "description": "How many days logs are kept",
        "allowed_values": [str(days) for days in LOG_RETENTION_DAYS],
        "default": "30",
    },
}
_CODE: Final[Parameters] = {
    "CodeBucket": {
        "description": "Your S3 bucket, in this region, with the zip files that lie beside this template",
        "min_length": 3,
    },
}


@dataclass(frozen=True)
class Shape:
    """One of the templates.

    :param name: Name of its file.
    :param title: What it makes.
    :param groups: Its parameters, by the headings under which the console asks for them.
    """

    name: str
    title: str
    groups: Mapping[str, Parameters]

    @property
    def parameters(self) -> Parameters:
        """All of its parameters."""
        return {name: options for group in self.groups.values() for name, options in group.items()}


_COMMON: Final = {"Worker and flow runs": _TASKS, "This template": _CODE}
SHAPES: Final = (
    Shape("cloud", "Prefect Cloud, flow runs in a new VPC", {"Prefect Cloud": _CLOUD | _POOLS, **_COMMON}),
    Shape(
        "cloud-in-vpc",
        "Prefect Cloud, flow runs in a VPC of yours",
        {"Prefect Cloud": _CLOUD | _POOLS, "Network": _VPC | _PUBLIC_ADDRESS, **_COMMON},
    ),
    Shape(
        "server-in-vpc",
        "a Prefect server of yours, flow runs in private subnets of your VPC",
        {"Prefect server": _SERVER | _POOLS, "Network": _VPC, **_COMMON},
    ),
)


def write(directory: Path) -> list[Path]:
    """Write every template, and the code of the functions beside them; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("*.json"), *directory.glob("*.zip")):
        old.unlink()
    written: dict[Path, bytes] = {}
    for shape in SHAPES:
        template, code = render(shape)
        written[directory / f"{shape.name}.json"] = (json.dumps(template, indent=1) + "\n").encode()
        written |= {directory / key: content for key, content in code.items()}
    for path, content in written.items():
        path.write_bytes(content)
    return list(written)


def render(shape: Shape) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The template of a shape, and the zip files that its functions are made of, by their keys in the bucket."""
    with tempfile.TemporaryDirectory(prefix="templates-") as out:
        flags = json.loads((ROOT / "cdk.json").read_text())["context"]
        paths = {"aws:cdk:enable-path-metadata": False, "aws:cdk:enable-asset-metadata": False}
        app = cdk.App(outdir=out, analytics_reporting=False, context=flags | paths)
        stack = cdk.Stack(
            app,
            "Layer",
            stack_name=_STACK,
            description=f"Prefect 3 on Amazon ECS with Fargate Spot (cdk-prefect-ecs): {shape.title}",
            synthesizer=cdk.DefaultStackSynthesizer(
                generate_bootstrap_version_rule=False, file_assets_bucket_name="${CodeBucket}"
            ),
        )
        _define(stack, shape)
        template = app.synth().get_stack_by_name(_STACK).template
        return _without_stand_ins(template), _code(Path(out))


def _define(stack: cdk.Stack, shape: Shape) -> None:
    given = {name: cdk.CfnParameter(stack, name, **options) for name, options in shape.parameters.items()}
    stack.template_options.template_format_version = "2010-09-09"
    stack.template_options.metadata = {
        "AWS::CloudFormation::Interface": {
            "ParameterGroups": [
                {"Label": {"default": heading}, "Parameters": list(group)} for heading, group in shape.groups.items()
            ]
        }
    }
    unused = cdk.Acknowledgment(id="CloudFormation-Validate::W2001", reason="What stand-ins are for is used later.")
    cdk.Validations.of(stack).acknowledge(unused)
    vpc = _vpc(stack, given["VpcId"].value_as_string) if "VpcId" in given else None
    layer = PrefectExecutionLayer(
        stack,
        "Prefect",
        work_pool_name=_POOL,
        api=_api(given, vpc),
        network=FlowNetwork(stack, "Network", vpc=vpc),
        image=FlowImage.from_registry(given["Image"].value_as_string),
    )
    _override(stack, layer, given)
    for name, value, description in (
        ("WorkPool", layer.work_pool.work_pool_name, "Work pool: give it to prefect deploy --pool"),
        ("Bucket", layer.storage.bucket_name, "Bucket of flow code (code/), task results and data"),
        ("Cluster", layer.cluster.cluster_name, "ECS cluster of worker and flow runs"),
        ("FlowRole", layer.flow_role.role_arn, "Role of flow runs: attach what your flows may use"),
    ):
        cdk.CfnOutput(stack, name, value=value, description=description)


def _vpc(stack: cdk.Stack, vpc_id: str) -> ec2.IVpc:
    return ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id=vpc_id,
        availability_zones=["a", "b"],
        private_subnet_ids=_SUBNETS,
        private_subnet_route_table_ids=["rtb-a", "rtb-b"],
    )


def _api(given: Mapping[str, cdk.CfnParameter], vpc: ec2.IVpc | None) -> PrefectApi:
    secret = PrefectApi.ssm_secure_string(_SECRET)
    if "ApiUrl" in given:
        return PrefectApi.self_hosted(given["ApiUrl"].value_as_string, auth_string=secret, vpc=vpc)
    return PrefectApi.cloud(
        account_id=given["AccountId"].value_as_string,
        workspace_id=given["WorkspaceId"].value_as_string,
        api_key=secret,
    )


def _override(stack: cdk.Stack, layer: PrefectExecutionLayer, given: Mapping[str, cdk.CfnParameter]) -> None:
    """Parameters in place of what the library checks at synth, or takes from the subnets."""
    assert isinstance(layer.worker, WorkerService)
    service, pool = layer.worker.service.node.default_child, layer.work_pool.resource.node.default_child
    assert isinstance(service, cdk.CfnResource)
    assert isinstance(pool, cdk.CfnResource)
    service.add_property_override("DesiredCount", given["WorkerCount"].value_as_number)
    for construct in stack.node.find_all():
        if isinstance(construct, logs.CfnLogGroup):
            construct.retention_in_days = given["LogRetentionDays"].value_as_number
    if "AssignPublicIp" in given:
        address = given["AssignPublicIp"].value_as_string
        service.add_property_override("NetworkConfiguration.AwsvpcConfiguration.AssignPublicIp", address)
        variables = "BaseJobTemplate.variables.properties"
        pool.add_property_override(f"{variables}.network_configuration.default.assignPublicIp", address)


def _without_stand_ins(value: Any) -> Any:
    """A piece of the template with references where stand-ins were."""
    if isinstance(value, str):
        if not _ANY.search(value):
            return value
        # What only looks like a reference stays as it is.
        formula = _ANY.sub(lambda found: _STAND_INS[found[0]], value.replace("${", "${!"))
        alone = re.fullmatch(r"\$\{([A-Za-z:]+)\}", formula)
        return {"Ref": alone[1]} if alone else {"Fn::Sub": formula}
    if value == _SUBNETS:
        return {"Ref": "SubnetIds"}
    if isinstance(value, Mapping):
        return {key: _without_stand_ins(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_without_stand_ins(item) for item in value]
    return value


def _code(assembly: Path) -> dict[str, bytes]:
    """The zip files that the template's functions are made of, by their keys in the bucket."""
    (manifest,) = assembly.glob("*.assets.json")
    found = {}
    for asset in json.loads(manifest.read_text())["files"].values():
        if asset["source"]["packaging"] == "zip":
            (destination,) = asset["destinations"].values()
            found[destination["objectKey"]] = zipped(assembly / asset["source"]["path"])
    return found


def zipped(folder: Path) -> bytes:
    """A folder as a zip file that is the same on every machine: no times, no owners, no compression."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                info.external_attr = 0o644 << 16
                info.create_system = 3  # Unix, wherever it is made
                archive.writestr(info, path.read_bytes())
    return content.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the templates and say what to do with them."""
    parser = argparse.ArgumentParser(prog="python -m tools.templates", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="where they go; default: build/templates")
    for path in sorted(write(parser.parse_args(arguments).out)):
        sys.stdout.write(f"{path}  {path.stat().st_size / 1000:.0f} kB\n")
    sys.stdout.write("docs/templates.md says how to deploy them.\n")


if __name__ == "__main__":
    main()
