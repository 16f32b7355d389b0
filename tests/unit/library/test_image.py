import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk.assertions import Template
from library_helpers import allow, in_order, new_stack, statements

from cdk_prefect_ecs import FlowImage
from cdk_prefect_ecs.image import PREFECT_AWS_VERSION, PREFECT_VERSION

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
DIGEST = "sha256:" + "0" * 64


def test_default_is_the_tested_pair_of_versions() -> None:
    extra = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["prefect"]
    assert f"prefect[aws]=={PREFECT_VERSION}" in extra
    assert f"prefect-aws=={PREFECT_AWS_VERSION}" in extra
    assert FlowImage.default().reference == (
        f"prefecthq/prefect-aws:{PREFECT_AWS_VERSION}-python3.12-prefect{PREFECT_VERSION}"
    )


def test_the_tested_pair_is_what_is_installed() -> None:
    assert (version("prefect"), version("prefect-aws")) == (PREFECT_VERSION, PREFECT_AWS_VERSION)


@pytest.mark.parametrize(
    "reference",
    [
        "flows:1.4.2",
        "ghcr.io/acme/flows:1.4.2",
        "localhost:5000/flows:1",
        f"ghcr.io/acme/flows@{DIGEST}",
        f"flows:latest@{DIGEST}",
    ],
)
def test_pinned_images(reference: str) -> None:
    image = FlowImage.from_registry(reference)
    assert image.reference == reference
    assert image.repository is None


@pytest.mark.parametrize("reference", ["", "flows", "flows:latest", "ghcr.io/acme/flows", "localhost:5000/flows"])
def test_refuses_images_that_are_not_pinned(reference: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"image {reference!r} is not pinned; add a tag other than latest")):
        FlowImage.from_registry(reference)


def test_a_token_passes() -> None:
    stack = new_stack()
    parameter = cdk.CfnParameter(stack, "Image").value_as_string
    assert stack.resolve(FlowImage.from_registry(parameter).reference) == {"Ref": "Image"}
    repository = ecr.Repository(stack, "Repository")
    assert FlowImage.from_ecr_repository(repository, parameter).repository is repository


@pytest.mark.parametrize("tag", ["", "latest"])
def test_refuses_a_tag_that_moves(tag: str) -> None:
    repository = ecr.Repository.from_repository_name(new_stack(), "Repository", "flows")
    with pytest.raises(ValueError, match=re.escape(f"tag_or_digest must pin an image; got {tag!r}")):
        FlowImage.from_ecr_repository(repository, tag)


@pytest.mark.parametrize(("tag_or_digest", "end"), [("1.4.2", ":1.4.2"), (DIGEST, f"@{DIGEST}")])
def test_image_of_an_imported_repository(tag_or_digest: str, end: str) -> None:
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    repository = ecr.Repository.from_repository_name(stack, "Repository", "flows")
    image = FlowImage.from_ecr_repository(repository, tag_or_digest)
    assert stack.resolve(image.reference) == {
        "Fn::Join": ["", ["123456789012.dkr.ecr.us-east-1.", {"Ref": "AWS::URLSuffix"}, f"/flows{end}"]]
    }


def test_pull_is_granted_for_the_one_repository() -> None:
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    FlowImage.from_ecr_repository(ecr.Repository.from_repository_name(stack, "Repository", "flows"), "1").grant_pull(
        role
    )
    assert statements(Template.from_stack(stack), "Role") == in_order(
        [
            allow("ecr:GetAuthorizationToken", "*"),
            allow(
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                "arn:aws:ecr:us-east-1:123456789012:repository/flows",
            ),
        ]
    )


def test_a_public_image_takes_no_permission() -> None:
    stack = new_stack()
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    FlowImage.from_registry("flows:1").grant_pull(role)
    Template.from_stack(stack).resource_count_is("AWS::IAM::Policy", 0)
