"""Container images without a registry and without a Docker daemon: built, kept and run by podman in storage of our own.

``python -m embedded.images build --tag NAME`` builds the flow image; :func:`build` builds any.
:func:`podman_command` with :func:`environment` runs podman where the images are.
"""

from embedded.images.base import FLOW_DOCKERFILE
from embedded.images.building import build
from embedded.images.podman import directory, environment, podman_command

__all__ = ["FLOW_DOCKERFILE", "build", "directory", "environment", "podman_command"]
