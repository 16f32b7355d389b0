"""``python -m embedded.images build --tag NAME``."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from embedded import launching
from embedded.errors import EmbeddedError
from embedded.images.building import FLOW_DOCKERFILE, build


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m embedded.images", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    building = commands.add_parser("build", help="build an image")
    building.add_argument("--tag", required=True)
    building.add_argument("--target", help="stage to build; default: the last")
    building.add_argument("--file", type=Path, default=FLOW_DOCKERFILE)
    building.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    building.add_argument("context", nargs="?", type=Path, default=launching.ROOT)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        image = build(
            options.tag,
            file=options.file,
            context=options.context,
            target=options.target,
            build_args=dict(item.split("=", 1) for item in options.build_arg),
        )
    except EmbeddedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.tag} is {image[:12]}, built in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
