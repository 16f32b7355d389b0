"""The container image of flow runs and worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam

# The versions that this release was tested against; pyproject.toml's extra "prefect" installs the same.
PREFECT_VERSION: Final = "3.8.8"
PREFECT_AWS_VERSION: Final = "0.7.12"
#: Tags follow the pattern of the official image prefecthq/prefect-aws.
DEFAULT_IMAGE: Final = f"prefecthq/prefect-aws:{PREFECT_AWS_VERSION}-python3.12-prefect{PREFECT_VERSION}"


@dataclass(frozen=True)
class FlowImage:
    """A container image with Prefect in it, pinned.

    Make one with :meth:`from_registry` or :meth:`from_ecr_repository`.
    """

    reference: str
    """The image as a task definition names it."""
    repository: ecr.IRepository | None = None
    """The private ECR repository that it is pulled from."""

    @staticmethod
    def default() -> FlowImage:
        """The official image with the Prefect version that this release was tested against."""
        return FlowImage(DEFAULT_IMAGE)

    @staticmethod
    def from_registry(reference: str) -> FlowImage:
        """An image that can be pulled without credentials.

        :param reference: Image with a tag or digest, such as ``ghcr.io/acme/flows:1.4.2``.
        :raises ValueError: Empty, or neither tag nor digest, or the tag ``latest``: worker and flow runs would change
            version without a deployment.
        """
        if not cdk.Token.is_unresolved(reference):
            name, _, digest = reference.partition("@")
            tag = name.rpartition("/")[2].partition(":")[2]
            if not reference or (not tag and not digest) or (tag == "latest" and not digest):
                raise ValueError(
                    f"image {reference!r} is not pinned; add a tag other than latest, or a digest, "
                    "such as ghcr.io/acme/flows:1.4.2"
                )
        return FlowImage(reference)

    @staticmethod
    def from_ecr_repository(repository: ecr.IRepository, tag_or_digest: str) -> FlowImage:
        """An image in a private ECR repository; the execution role is granted to pull from it.

        :param repository: The repository.
        :param tag_or_digest: A tag, or a digest that begins with ``sha256:``.
        :raises ValueError: Empty, or the tag ``latest``.
        """
        if tag_or_digest in ("", "latest"):
            raise ValueError(f"tag_or_digest must pin an image; got {tag_or_digest!r}")
        return FlowImage(repository.repository_uri_for_tag_or_digest(tag_or_digest), repository)

    def container_image(self) -> ecs.ContainerImage:
        """The image for a container that CDK defines."""
        # Not from_ecr_repository: the pull is granted once, in grant_pull, to a role that may be an imported one.
        return ecs.ContainerImage.from_registry(self.reference)

    def grant_pull(self, grantee: iam.IGrantable) -> None:
        """Grant pulling the image, if that takes a permission."""
        if self.repository is not None:
            self.repository.grant_pull(grantee)
