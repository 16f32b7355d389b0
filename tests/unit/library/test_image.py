import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import (
    allow,
    assert_refused,
    cloud_api,
    in_order,
    make_parts,
    new_stack,
    only,
    plain,
    resource,
    statements,
    through,
)

from cdk_prefect_ecs import FlowImage, FlowRepository, PrefectExecutionLayer
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
    assert FlowImage.from_registry("flows:1").grant_pull(role).principal_statements == []
    Template.from_stack(stack).resource_count_is("AWS::IAM::Policy", 0)


# Private registries


def test_credentials_of_a_registry() -> None:
    stack = new_stack()
    key = kms.Key(stack, "Key")
    secret = secretsmanager.Secret(stack, "Registry", encryption_key=key)
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    image = FlowImage.from_registry("registry.example.com/flows:1", credentials=secret)
    assert len(image.grant_pull(role).principal_statements) == 2
    granted = statements(Template.from_stack(stack), "Role")
    assert granted[0] == allow("kms:Decrypt", "<Key.Arn>", through("secretsmanager"))
    assert granted[1] == allow("secretsmanager:GetSecretValue", "<Registry>")
    assert len(granted) == 2


def test_worker_and_flow_runs_name_the_credentials() -> None:
    stack = new_stack()
    image = FlowImage.from_registry(
        "registry.example.com/flows:1", credentials=secretsmanager.Secret(stack, "Registry")
    )
    parts = make_parts(stack, image=image)
    pool = parts.pool(image=image)
    parts.worker(pool, image=image)
    template = Template.from_stack(stack)
    worker = only(template, "AWS::ECS::TaskDefinition")["ContainerDefinitions"][0]
    assert plain(worker["RepositoryCredentials"]) == {"CredentialsParameter": "<Registry>"}
    definition = stack.resolve(pool.job_template["job_configuration"]["task_definition"])
    assert plain(definition["containerDefinitions"][0]["repositoryCredentials"]) == {
        "credentialsParameter": "<Registry>"
    }
    assert allow("secretsmanager:GetSecretValue", "<Registry>") in statements(template, "ExecutionRole")


# Built at deploy


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "Dockerfile").write_text("FROM scratch AS base\nFROM base AS flows\nCOPY wanted /\n")
    (tmp_path / ".dockerignore").write_text("*\n!images/Dockerfile\n!wanted\n")
    (tmp_path / "wanted").write_text("1")
    (tmp_path / ".venv").mkdir()
    return tmp_path


def built(context: Path, **changes: Any) -> tuple[FlowImage, cdk.Stack, dict[str, Any]]:
    """An image of this context, its stack, and the source in the asset manifest."""
    stack = new_stack(env=cdk.Environment(account="123456789012", region="us-east-1"))
    given: dict[str, Any] = {"directory": str(context), "file": "images/Dockerfile"}
    image = FlowImage.from_asset(stack, "Image", **(given | changes))
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    image.grant_pull(role)
    assembly = cdk.App.of(stack).synth()  # type: ignore[union-attr]
    manifest = json.loads((Path(assembly.directory) / "Test.assets.json").read_text())
    assert len(manifest["dockerImages"]) == 1
    source = next(iter(manifest["dockerImages"].values()))["source"]
    return image, stack, source | {"directory": Path(assembly.directory) / source["directory"]}


def test_built_image(context: Path) -> None:
    image, stack, source = built(
        context, target="flows", build_args={"BASE_IMAGE": "python:3.13-slim"}, build_secrets={"pip.conf": "src=p.conf"}
    )
    staged = source.pop("directory")
    assert source == {
        "dockerFile": "images/Dockerfile",
        "dockerBuildTarget": "flows",
        "dockerBuildArgs": {"BASE_IMAGE": "python:3.13-slim"},
        "dockerBuildSecrets": {"pip.conf": "src=p.conf"},
        "platform": "linux/amd64",
    }
    assert sorted(file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()) == [
        ".dockerignore",
        "images/Dockerfile",
        "wanted",
    ]
    assert image.cpu_architecture == "X86_64"
    assert image.writable_paths is None
    assert re.fullmatch(
        r"123456789012\.dkr\.ecr\.us-east-1\.\$\{AWS::URLSuffix\}/"
        r"cdk-hnb659fds-container-assets-123456789012-us-east-1:[0-9a-f]{64}",
        stack.resolve(image.reference)["Fn::Sub"],
    )
    assert statements(Template.from_stack(stack), "Role") == in_order(
        [
            allow("ecr:GetAuthorizationToken", "*"),
            allow(
                ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                "arn:aws:ecr:us-east-1:123456789012:repository/cdk-hnb659fds-container-assets-123456789012-us-east-1",
            ),
        ]
    )


def test_built_for_arm(context: Path) -> None:
    image, _, source = built(context, cpu_architecture="ARM64")
    assert source["platform"] == "linux/arm64"
    assert image.cpu_architecture == "ARM64"


def test_what_is_ignored_does_not_make_a_new_image(context: Path) -> None:
    first = built(context)[2]["directory"].name
    (context / ".venv" / "module.py").write_text("1")
    assert built(context)[2]["directory"].name == first
    (context / "wanted").write_text("2")
    assert built(context)[2]["directory"].name != first
    (context / "wanted").write_text("1")
    assert built(context, exclude=["wanted"])[2]["directory"].name != first


@pytest.mark.parametrize(("built_for", "asked"), [("ARM64", "X86_64"), ("X86_64", "ARM64")])
def test_an_image_for_the_other_architecture_is_refused(built_for: str, asked: str) -> None:
    image = FlowImage.from_registry("flows:1", cpu_architecture=built_for)
    words = (f"the image is built for {built_for}", f"cpu_architecture is {asked}")
    parts = make_parts()
    pool = parts.pool()
    assert_refused(
        parts.stack, lambda: parts.pool("Other", work_pool_name="o", image=image, cpu_architecture=asked), *words
    )
    assert_refused(parts.stack, lambda: parts.worker(pool, image=image, cpu_architecture=asked), *words)
    assert_refused(
        parts.stack,
        lambda: PrefectExecutionLayer(
            parts.stack, "Layer", work_pool_name="etl2", api=cloud_api(), image=image, cpu_architecture=asked
        ),
        *words,
    )


def test_an_image_for_the_same_or_an_unknown_architecture_passes() -> None:
    FlowImage.from_registry("flows:1", cpu_architecture="ARM64").check_runs_on("ARM64")
    FlowImage.from_registry("flows:1").check_runs_on("ARM64")


@pytest.mark.parametrize("make", ["from_registry", "from_asset", "from_ecr_repository"])
def test_refuses_an_unknown_architecture(make: str, context: Path) -> None:
    stack = new_stack()
    first: dict[str, tuple[Any, ...]] = {
        "from_registry": ("flows:1",),
        "from_asset": (stack, "Image"),
        "from_ecr_repository": (ecr.Repository.from_repository_name(stack, "Repository", "flows"), "1"),
    }
    options = {"directory": str(context)} if make == "from_asset" else {}
    assert_refused(
        stack,
        lambda: getattr(FlowImage, make)(*first[make], cpu_architecture="arm", **options),
        "cpu_architecture must be X86_64 or ARM64; got 'arm'",
    )


# Read-only root

PATHS = ["/home/prefect", "/tmp"]  # noqa: S108 - in the container


def read_only_pool(**worker: Any) -> tuple[Template, dict[str, Any]]:
    image = FlowImage.from_registry("flows:1", writable_paths=PATHS)
    parts = make_parts(image=image)
    pool = parts.pool(image=image)
    parts.worker(pool, image=image, **worker)
    return Template.from_stack(parts.stack), pool.job_template["job_configuration"]["task_definition"]


def test_writable_paths_are_volumes_of_worker_and_flow_runs() -> None:
    template, definition = read_only_pool()
    worker = only(template, "AWS::ECS::TaskDefinition")
    assert worker["Volumes"] == [{"Name": "writable-1"}, {"Name": "writable-2"}]
    assert worker["ContainerDefinitions"][0]["ReadonlyRootFilesystem"] is True
    assert worker["ContainerDefinitions"][0]["MountPoints"] == [
        {"SourceVolume": "writable-1", "ContainerPath": "/home/prefect", "ReadOnly": False},
        {"SourceVolume": "writable-2", "ContainerPath": "/tmp", "ReadOnly": False},  # noqa: S108
    ]
    assert definition["volumes"] == [{"name": "writable-1"}, {"name": "writable-2"}]
    assert definition["containerDefinitions"][0]["readonlyRootFilesystem"] is True
    assert definition["containerDefinitions"][0]["mountPoints"] == [
        {"sourceVolume": "writable-1", "containerPath": "/home/prefect", "readOnly": False},
        {"sourceVolume": "writable-2", "containerPath": "/tmp", "readOnly": False},  # noqa: S108
    ]


def test_ecs_exec_writes_into_the_root_of_the_worker_only() -> None:
    template, definition = read_only_pool(enable_execute_command=True)
    worker = only(template, "AWS::ECS::TaskDefinition")
    assert "Volumes" not in worker
    assert not worker["ContainerDefinitions"][0].keys() & {"ReadonlyRootFilesystem", "MountPoints"}
    assert definition["containerDefinitions"][0]["readonlyRootFilesystem"] is True


def test_the_official_image_stays_writable() -> None:
    parts = make_parts()
    pool = parts.pool()
    parts.worker(pool)
    worker = only(Template.from_stack(parts.stack), "AWS::ECS::TaskDefinition")
    assert "Volumes" not in worker
    assert not worker["ContainerDefinitions"][0].keys() & {"ReadonlyRootFilesystem", "MountPoints"}
    definition = pool.job_template["job_configuration"]["task_definition"]
    assert "volumes" not in definition
    assert not definition["containerDefinitions"][0].keys() & {"readonlyRootFilesystem", "mountPoints"}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], "writable_paths must name at least one path"),
        (["tmp"], "writable path must be an absolute path below /, without : and .., such as /data; got 'tmp'"),
        (["/"], "writable path must be an absolute path below /, without : and .., such as /data; got '/'"),
        (["/data/"], "writable path must be an absolute path below /, without : and .., such as /data; got '/data/'"),
        (["/a:b"], "writable path must be an absolute path below /, without : and .., such as /data; got '/a:b'"),
        (["/a/../b"], "writable path must be an absolute path below /, without : and .., such as /data; got '/a/../b'"),
        (["/a", "/a/b"], "writable paths /a and /a/b overlap"),
        (["/a", "/a"], "writable paths /a and /a overlap"),
    ],
)
def test_refuses_paths_that_cannot_be_volumes(paths: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        FlowImage.from_registry("flows:1", writable_paths=paths)


# A repository of one's own


def test_default_repository() -> None:
    stack = new_stack()
    FlowRepository(stack, "Images")
    template = Template.from_stack(stack)
    repository = resource(template, "Images")
    assert (repository["DeletionPolicy"], repository["UpdateReplacePolicy"]) == ("Retain", "Retain")
    properties = repository["Properties"]
    # Without EncryptionConfiguration ECR encrypts with AES-256.
    assert properties.keys() == {"ImageScanningConfiguration", "ImageTagMutability", "LifecyclePolicy"}
    assert properties["ImageScanningConfiguration"] == {"ScanOnPush": True}
    assert properties["ImageTagMutability"] == "IMMUTABLE"
    assert json.loads(properties["LifecyclePolicy"]["LifecyclePolicyText"])["rules"] == [
        {
            "rulePriority": 1,
            "description": "Images without a tag",
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countNumber": 30,
                "countUnit": "days",
            },
            "action": {"type": "expire"},
        }
    ]


def test_repository_with_everything_set() -> None:
    stack = new_stack()
    key = kms.Key(stack, "Key")
    repository = FlowRepository(
        stack,
        "Images",
        untagged_expiration=cdk.Duration.days(3),
        encryption_key=key,
        removal_policy=cdk.RemovalPolicy.DESTROY,
        auto_delete_images=True,
    )
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    FlowImage.from_ecr_repository(repository, "1.4.2", writable_paths=PATHS).grant_pull(role)
    template = Template.from_stack(stack)
    made = resource(template, "Images")
    assert made["DeletionPolicy"] == "Delete"
    assert made["Properties"]["EmptyOnDelete"] is True
    assert plain(made["Properties"]["EncryptionConfiguration"]) == {"EncryptionType": "KMS", "KmsKey": "<Key.Arn>"}
    assert '"countNumber":3' in made["Properties"]["LifecyclePolicy"]["LifecyclePolicyText"]
    assert sorted(statement["Resource"] for statement in statements(template, "Role")) == [["*"], ["<Images.Arn>"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auto_delete_images": True}, "auto_delete_images needs removal_policy DESTROY; got RETAIN"),
        ({"untagged_expiration": cdk.Duration.hours(12)}, "untagged_expiration must be a whole number of days"),
    ],
)
def test_refuses_settings_of_a_repository(options: dict[str, Any], words: str) -> None:
    stack = new_stack()
    assert_refused(stack, lambda: FlowRepository(stack, "Images", **options), words)
