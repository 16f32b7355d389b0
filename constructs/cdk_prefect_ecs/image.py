"""The container image of flow runs and worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk_prefect_ecs.arguments import checked, checked_fields, is_token
from cdk_prefect_ecs.durations import check_whole_days
from cdk_prefect_ecs.encryption import grant_key_use
from cdk_prefect_ecs.place import check_place, checked_construct
from cdk_prefect_ecs.removal import check_removal_policy
from cdk_prefect_ecs.settings import (
    check_cpu_architecture,
    check_image_reference,
    check_tag_or_digest,
    check_writable_paths,
)

# The versions that this release was tested against; pyproject.toml's extra "prefect" installs the same.
PREFECT_VERSION: Final = "3.8.8"
PREFECT_AWS_VERSION: Final = "0.7.12"
#: Tags follow the pattern of the official image prefecthq/prefect-aws.
DEFAULT_IMAGE: Final = f"prefecthq/prefect-aws:{PREFECT_AWS_VERSION}-python3.12-prefect{PREFECT_VERSION}"


@checked_fields
@dataclass(frozen=True)
class FlowImage:
    """A container image with Prefect in it, pinned.

    Make one with :meth:`from_asset`, :meth:`from_registry` or :meth:`from_ecr_repository`. It must hold ``python``,
    Prefect and prefect-aws, run its command as it is given, and hand SIGTERM on to it.
    """

    reference: str
    """The image as a task definition names it."""
    repository: ecr.IRepository | None = None
    """The private ECR repository that it is pulled from."""
    credentials: secretsmanager.ISecret | None = None
    """Secret with the user name and password of a private registry outside AWS."""
    cpu_architecture: str | None = None
    """The one architecture that it is built for; None when that is not known here, or it is built for both."""
    writable_paths: tuple[str, ...] | None = None
    """The paths it writes to. Each gets a volume, and the root is mounted read-only. None: the root is writable."""

    @staticmethod
    def default() -> FlowImage:
        """The official image with the Prefect version that this release was tested against.

        It runs as root and installs what ``EXTRA_PIP_PACKAGES`` names when a run starts, so its root stays writable.
        """
        return FlowImage(DEFAULT_IMAGE)

    @staticmethod
    @checked
    def from_registry(
        reference: str,
        *,
        credentials: secretsmanager.ISecret | None = None,
        cpu_architecture: str | None = None,
        writable_paths: Sequence[str] | None = None,
    ) -> FlowImage:
        """An image in any registry.

        :param reference: Image with a tag or digest, such as ``ghcr.io/acme/flows:1.4.2``.
        :param credentials: Secret with the JSON fields ``username`` and ``password``, when the registry asks for them;
            the execution role is granted to read it. Default: it can be pulled without.
        :param cpu_architecture: The one architecture it is built for, X86_64 or ARM64. Default: it is not checked.
        :param writable_paths: Absolute paths that it writes to. Each becomes an empty volume, which on Fargate has the
            owner and mode of the ``VOLUME`` of the same path in the image, and the root is mounted read-only.
            Default: the root stays writable.
        :raises ValueError: Empty, or neither tag nor digest, or the tag ``latest``: worker and flow runs would change
            version without a deployment. An unknown architecture; a path that is not absolute or overlaps another.
        """
        if not cdk.Token.is_unresolved(reference):
            check_image_reference(reference)
        return FlowImage(
            reference,
            credentials=credentials,
            cpu_architecture=_checked_architecture(cpu_architecture),
            writable_paths=_checked_paths(writable_paths),
        )

    @staticmethod
    @checked
    def from_ecr_repository(
        repository: ecr.IRepository,
        tag_or_digest: str,
        *,
        cpu_architecture: str | None = None,
        writable_paths: Sequence[str] | None = None,
    ) -> FlowImage:
        """An image in a private ECR repository; the execution role is granted to pull from it.

        :param repository: The repository, such as a :class:`~cdk_prefect_ecs.FlowRepository`.
        :param tag_or_digest: A tag, or a digest that begins with ``sha256:``.
        :param cpu_architecture: As in :meth:`from_registry`.
        :param writable_paths: As in :meth:`from_registry`.
        :raises ValueError: Empty, or the tag ``latest``; else as :meth:`from_registry`.
        """
        if not cdk.Token.is_unresolved(tag_or_digest):
            check_tag_or_digest(tag_or_digest)
        return FlowImage(
            repository.repository_uri_for_tag_or_digest(tag_or_digest),
            repository,
            cpu_architecture=_checked_architecture(cpu_architecture),
            writable_paths=_checked_paths(writable_paths),
        )

    @staticmethod
    @checked
    def from_asset(
        scope: Construct,
        construct_id: str,
        *,
        directory: str,
        file: str | None = None,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
        build_secrets: Mapping[str, str] | None = None,
        exclude: Sequence[str] | None = None,
        cpu_architecture: str = "X86_64",
        writable_paths: Sequence[str] | None = None,
    ) -> FlowImage:
        """An image that is built and published when it is deployed, by Docker or by whatever ``CDK_DOCKER`` names.

        It goes to the repository that ``cdk bootstrap`` made, under the hash of what it is built from: nothing is built
        again until that changes. Synthesis needs no builder. A builder of another architecture emulates, which is slow.

        :param directory: The build's context. Its ``.dockerignore`` says what stays out, of context and hash alike:
            write an allow-list, or a change of any file there builds a new image.
        :param file: The Dockerfile, relative to ``directory``; the ``.dockerignore`` must let it through. Default:
            ``Dockerfile``.
        :param target: The stage to build. Default: the last.
        :param build_args: Values of the Dockerfile's ``ARG`` instructions; no secrets and no tokens. Default: none.
        :param build_secrets: Secrets of the build by id, such as ``{"pip.conf": "src=/home/me/pip.conf"}``. They end up
            in no layer and not in the hash. Default: none.
        :param exclude: More to stay out, in the syntax of ``.dockerignore``. Default: nothing more.
        :param cpu_architecture: The architecture to build for, X86_64 or ARM64. Default: X86_64.
        :param writable_paths: As in :meth:`from_registry`.
        :raises ValueError: No such Dockerfile, a token in ``build_args``; else as :meth:`from_registry`.
        """
        check_cpu_architecture(cpu_architecture)
        paths = _checked_paths(writable_paths)
        dockerfile = Path(directory) / (file or "Dockerfile")
        if not dockerfile.is_file():
            raise ValueError(
                f"there is no file {str(dockerfile)!r}; directory is the build's context, and file the Dockerfile in it"
            )
        for name, value in (build_args or {}).items():
            if is_token(name) or is_token(value):
                raise ValueError(f"build_args must be known at synth, as the image's hash is; {name} holds a token")
        check_place(scope, construct_id, "FlowImage.from_asset")
        asset = ecr_assets.DockerImageAsset(
            scope,
            construct_id,
            directory=directory,
            file=file,
            target=target,
            build_args=dict(build_args) if build_args else None,
            build_secrets=dict(build_secrets) if build_secrets else None,
            exclude=list(exclude) if exclude else None,
            ignore_mode=cdk.IgnoreMode.DOCKER,
            platform=ecr_assets.Platform.LINUX_ARM64
            if cpu_architecture == "ARM64"
            else ecr_assets.Platform.LINUX_AMD64,
        )
        return FlowImage(asset.image_uri, asset.repository, cpu_architecture=cpu_architecture, writable_paths=paths)

    def container_image(self) -> ecs.ContainerImage:
        """The image for a container that CDK defines."""
        # Not from_ecr_repository: the pull is granted once, in grant_pull, to a role that may be an imported one.
        return ecs.ContainerImage.from_registry(self.reference, credentials=self.credentials)

    def grant_pull(self, grantee: iam.IGrantable) -> iam.Grant:
        """Grant pulling the image, if that takes a permission."""
        granted = iam.Grant.drop(grantee, "anybody may pull the image")
        if self.repository is not None:
            granted = self.repository.grant_pull(grantee)
        if self.credentials is not None:
            # Not grant_read, which adds DescribeSecret: the ECS agent does not call it.
            read = iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["secretsmanager:GetSecretValue"],
                resource_arns=[self.credentials.secret_arn],
            )
            granted = granted.combine(read)
            key = self.credentials.encryption_key
            if key is not None:
                granted = granted.combine(grant_key_use(key, grantee, self.credentials, service="secretsmanager"))
        return granted

    @checked
    def check_runs_on(self, cpu_architecture: str) -> None:
        """Check that tasks of this architecture can run the image, as far as that is known.

        :raises ValueError: It is built for the other one: tasks would end with "exec format error".
        """
        if self.cpu_architecture not in (None, cpu_architecture):
            raise ValueError(
                f"the image is built for {self.cpu_architecture}, and cpu_architecture is {cpu_architecture}; "
                "give both the same value"
            )

    @property
    def writable_volumes(self) -> dict[str, str]:
        """The volumes of a task by name, with the path of each; none when the root is writable."""
        return {f"writable-{number}": path for number, path in enumerate(self.writable_paths or (), start=1)}


class FlowRepository(ecr.Repository):
    """Define an ECR repository for images of your own, which your pipeline pushes to.

    Tags are immutable, so a task definition always means the same image, and every image is scanned for known
    vulnerabilities when it is pushed (basic scanning is free). Images with a tag are kept for good, at $0.10 per GB and
    month at list price, as nobody can tell from the repository which of them a task definition still names; only images
    without a tag expire.

    :param untagged_expiration: Images without a tag are deleted this long after they were pushed. Default: 30 days.
    :param encryption_key: Key to encrypt with; whoever pulls is granted to decrypt. Default: SSE-S3 (AES-256), free.
    :param removal_policy: What becomes of the repository when it leaves the stack. Default: it is retained.
    :param auto_delete_images: With ``removal_policy`` DESTROY, delete the images so that it can be deleted. Both keys
        are needed to lose images. Default: False.
    :raises ValueError: ``auto_delete_images`` without DESTROY; a policy SNAPSHOT; an expiration that is not whole days.
    """

    @checked_construct
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        untagged_expiration: cdk.Duration | None = None,
        encryption_key: kms.IKey | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
        auto_delete_images: bool = False,
    ) -> None:
        check_removal_policy(
            removal_policy, auto_delete=auto_delete_images, auto_delete_name="auto_delete_images", what="images"
        )
        untagged_expiration = untagged_expiration or cdk.Duration.days(30)
        check_whole_days("untagged_expiration", untagged_expiration)
        super().__init__(
            scope,
            construct_id,
            image_scan_on_push=True,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,
            encryption=ecr.RepositoryEncryption.KMS if encryption_key else ecr.RepositoryEncryption.AES_256,
            encryption_key=encryption_key,
            lifecycle_rules=[
                ecr.LifecycleRule(
                    description="Images without a tag",
                    tag_status=ecr.TagStatus.UNTAGGED,
                    max_image_age=untagged_expiration,
                )
            ],
            removal_policy=removal_policy,
            empty_on_delete=auto_delete_images or None,
        )


def _checked_architecture(cpu_architecture: str | None) -> str | None:
    if cpu_architecture is not None:
        check_cpu_architecture(cpu_architecture)
    return cpu_architecture


def _checked_paths(paths: Sequence[str] | None) -> tuple[str, ...] | None:
    if paths is None:
        return None
    check_writable_paths(paths)
    return tuple(paths)
