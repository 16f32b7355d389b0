"""``python -m embedded.images build|podman``: build an image, and run podman where the images are."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from embedded import launching
from embedded.errors import EmbeddedError
from embedded.images.base import FLOW_DOCKERFILE
from embedded.images.building import build
from embedded.images.podman import environment, podman_command


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m embedded.images", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    building = commands.add_parser("build", help="build an image")
    building.add_argument("--tag", required=True)
    building.add_argument("--target", help="stage to build; default: the last")
    building.add_argument("--file", type=Path, default=FLOW_DOCKERFILE)
    building.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    building.add_argument("context", nargs="?", type=Path, default=launching.ROOT)
    plain = commands.add_parser("podman", help="run podman in the same storage: podman images")
    plain.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    options = parser.parse_args(arguments)
    try:
        return _podman(options.arguments) if "arguments" in options else _build(options)
    except EmbeddedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _podman(arguments: Sequence[str]) -> int:
    return subprocess.run([*podman_command(), *arguments], env=environment(), check=False).returncode


def _build(options: argparse.Namespace) -> int:
    began = time.monotonic()
    image = build(
        options.tag,
        file=options.file,
        context=options.context,
        target=options.target,
        build_args=dict(item.split("=", 1) for item in options.build_arg),
    )
    print(f"{options.tag} is {image[:12]}, built in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
