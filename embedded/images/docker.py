"""What the CDK CLI calls docker for, done by podman; ``cdk-docker`` beside this is the program for ``CDK_DOCKER``.

A push goes nowhere: the image is already in the storage that ECS tasks are started from, so it is only registered in
the embedded AWS's ECR, under the digest that it has here.
"""

import argparse
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from embedded.errors import EmbeddedError
from embedded.images import podman
from embedded.images.building import build

CDK_DOCKER = Path(__file__).with_name("cdk-docker")
"""The program for ``CDK_DOCKER``."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REFERENCE = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com/(?P<repository>[^:@]+):(?P<tag>[^:@]+)")


def main(arguments: Sequence[str]) -> int:
    """Do one call; its exit code is 1 where docker's would be."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except EmbeddedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdk-docker", description="docker, as far as the CDK CLI calls it")
    parser.add_argument("--config", help="ignored: there are no registries to log in to")
    commands = parser.add_subparsers(required=True)

    inspecting = commands.add_parser("inspect")
    inspecting.add_argument("image")
    inspecting.set_defaults(run=lambda given: podman.podman("image", "exists", given.image, check=False).returncode)

    building = commands.add_parser("build")
    building.add_argument("--tag", required=True)
    building.add_argument("--target")
    building.add_argument("--file", default="Dockerfile")
    building.add_argument("--build-arg", action="append", default=[])
    building.add_argument("--platform")
    building.add_argument("context", type=Path)
    building.set_defaults(run=_build)

    listing = commands.add_parser("images")
    listing.add_argument("--format", required=True)
    listing.add_argument("--filter", required=True)
    listing.set_defaults(run=_images)

    tagging = commands.add_parser("tag")
    tagging.add_argument("source")
    tagging.add_argument("target")
    tagging.set_defaults(run=lambda given: podman.podman("tag", given.source, given.target).returncode)

    login = commands.add_parser("login")
    login.add_argument("--username")
    login.add_argument("--password-stdin", action="store_true")
    login.add_argument("registry")
    login.set_defaults(run=lambda _: 0 if sys.stdin.read() else 1)

    pushing = commands.add_parser("push")
    pushing.add_argument("image")
    pushing.set_defaults(run=_push)
    return parser


def _build(options: argparse.Namespace) -> int:
    own = f"linux/{_ARCHITECTURES.get(platform.machine(), platform.machine())}"
    if options.platform not in (None, own):
        raise EmbeddedError(
            f"the image is for {options.platform}, and this machine builds and runs {own} only; give the environment "
            "the architecture of this machine"
        )
    context = options.context.resolve()
    build(
        options.tag,
        file=context / options.file,
        context=context,
        target=options.target,
        build_args=dict(item.split("=", 1) for item in options.build_arg),
    )
    return 0


def _images(options: argparse.Namespace) -> int:
    print(podman.podman("images", "--format", options.format, "--filter", options.filter).stdout, end="")
    return 0


def _push(options: argparse.Namespace) -> int:
    found = _REFERENCE.fullmatch(options.image)
    if found is None:
        raise EmbeddedError(f"{options.image!r} must be in an ECR: ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG")
    import boto3  # takes a second, which the other calls need not wait

    # Where AWS_ENDPOINT_URL points to, with the credentials of who deploys.
    boto3.client("ecr").put_image(
        repositoryName=found["repository"], imageTag=found["tag"], imageManifest=manifest(options.image)
    )
    return 0


def manifest(image: str) -> str:
    """An image's manifest, byte for byte: its digest is the image's."""
    image_id = podman.podman("image", "inspect", "--format={{.Id}}", image).stdout.strip()
    return (podman.directory() / "storage" / "overlay-images" / image_id / "manifest").read_text()
