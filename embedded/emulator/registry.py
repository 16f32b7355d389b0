"""Images in this AWS's own ECR: a task may pull what is there, and what its execution role may pull."""

import re

from embedded.emulator import credentials
from embedded.emulator.inner import account_and_region, arn_of, ecr
from embedded.emulator.runtime import CannotPullContainerError
from embedded.emulator.secret_values import SecretUnavailableError

_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+)(?::([^@]+))?(?:@(sha256:[0-9a-f]{64}))?")
_PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")


def check(image: str, agent: credentials.RoleSession | None) -> None:
    """Whether ECR would hand out this image; images of other registries pass.

    :raises CannotPullContainerError: The execution role may not pull it, or it is not there.
    :raises SecretUnavailableError: The execution role may not log in to ECR.
    """
    found = _ECR.fullmatch(image)
    if found is None:
        return
    account, region, repository, tag, digest = found.groups()
    problem = f"pull image manifest has been retried 1 time(s): failed to resolve ref {image}"
    if agent is None:
        raise CannotPullContainerError(f"{problem}: the task definition has no execution role to pull from ECR with")
    if why := credentials.denial(agent, "ecr:GetAuthorizationToken", "*"):
        raise SecretUnavailableError(
            "unable to pull secrets or registry auth: unable to retrieve ecr registry auth: "
            f"AccessDeniedException: {why}"
        )
    for action in _PULL:
        if why := credentials.denial(agent, action, arn_of("ecr", f"repository/{repository}")):
            raise CannotPullContainerError(f"{problem}: AccessDeniedException: {why}")
    wanted = {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    here = (account, region) == account_and_region() and repository in ecr._repositories
    if not here or ecr._find_image(repository, wanted) is None:
        raise CannotPullContainerError(f"{problem}: {image}: not found")
