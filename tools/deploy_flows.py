"""`make flows`: deploy the flows of ``flows/`` to the work pool and the bucket of an environment.

Finds both names in the outputs of the environment's stacks and hands them to Prefect's own CLI. AWS credentials and the
Prefect profile are the user's, as for the AWS and Prefect CLIs themselves. CI has no profile: with
``--stored-credential`` the Prefect API is the environment's, and the credential is read from where it is stored.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import httpx
from botocore.exceptions import BotoCoreError, ClientError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from cdk_prefect_ecs.functions.credential import CredentialError, CredentialReference, read_secret
from stacks.config import CloudApi, EnvironmentConfig, OwnServer
from stacks.environments import environment
from stacks.stored_secrets import SecureString, StoredSecret

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

FLOWS = Path(__file__).resolve().parent.parent / "flows"
DEFAULT_FILE = "prefect.yaml"
_CLI = Path(sys.executable).parent / "prefect"


class FlowDeploymentError(Exception):
    """The flows cannot be deployed; the message says why and what to do."""


@dataclass(frozen=True)
class OwnApi:
    """The Prefect server that was made with an environment."""

    url: str
    secret_arn: str


@dataclass(frozen=True)
class Target:
    """Where flows are deployed to."""

    bucket: str
    work_pool: str
    server: OwnApi | None = None

    def variables(self) -> dict[str, str]:
        """The variables that the files in ``flows/`` read."""
        return {"FLOW_BUCKET": self.bucket, "FLOW_WORK_POOL": self.work_pool}


def find_target(config: EnvironmentConfig, cloudformation: CloudFormationClient) -> Target:
    """Read the names in the outputs of the environment's stacks.

    :raises FlowDeploymentError: No credentials, a stack is not deployed, or it is in another account.
    """
    foundation, execution = (_outputs(name, config, cloudformation) for name in config.stack_names)
    server = OwnApi(execution["ApiUrl"], execution["AuthSecretArn"]) if isinstance(config.api, OwnServer) else None
    return Target(bucket=foundation["BucketName"], work_pool=execution["WorkPoolName"], server=server)


def _outputs(name: str, config: EnvironmentConfig, cloudformation: CloudFormationClient) -> dict[str, str]:
    try:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            raise FlowDeploymentError(
                f"stack {name} is not deployed in {config.region} of the account that your AWS credentials belong to; "
                f"deploy it with: make deploy ENV={config.name}"
            ) from error
        raise FlowDeploymentError(f"cannot read stack {name}: {error}") from error
    except BotoCoreError as error:
        raise FlowDeploymentError(f"cannot read stack {name}: {error}; check your AWS credentials") from error
    account = stack["StackId"].split(":")[4]
    if config.account is not None and account != config.account:
        raise FlowDeploymentError(
            f"stack {name} was found in account {account}, but environment {config.name} is in {config.account}; "
            "use the credentials of that account"
        )
    if stack["StackStatus"] not in _USABLE:
        raise FlowDeploymentError(
            f"stack {name} is {stack['StackStatus']}; wait for it, or repair it with: make deploy ENV={config.name}"
        )
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


_USABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE")


def environments_api(config: EnvironmentConfig, target: Target, *, forwarded: str | None = None) -> dict[str, str]:
    """The Prefect API of an environment, and its credential from where it is stored, as Prefect's own variables.

    :param forwarded: Where a port leads to a server that was made with the environment, outside of its VPC.
    :raises FlowDeploymentError: The credential cannot be read.
    """
    reference: CredentialReference | None
    if isinstance(config.api, OwnServer):
        assert target.server is not None  # its outputs were read
        variables = {"PREFECT_API_URL": forwarded or target.server.url}
        reference = CredentialReference("SecretsManager", target.server.secret_arn)
    else:
        variables = {"PREFECT_API_URL": config.api.url}
        reference = _reference(config.api.credential) if config.api.credential else None
    if reference is not None:
        name = "PREFECT_API_KEY" if isinstance(config.api, CloudApi) else "PREFECT_API_AUTH_STRING"
        try:
            variables[name] = read_secret(reference)
        except CredentialError as error:
            raise FlowDeploymentError(str(error)) from error
    return variables


def _reference(stored: StoredSecret) -> CredentialReference:
    if isinstance(stored, SecureString):
        return CredentialReference("SsmParameter", stored.parameter)
    return CredentialReference("SecretsManager", stored.arn, stored.field)


def check_work_pool(name: str, client: SyncPrefectClient) -> None:
    """Check that Prefect can be asked, and knows the work pool.

    :raises FlowDeploymentError: Not reachable, the credential is refused, or there is no such pool.
    """
    api = str(client.api_url).rstrip("/")
    try:
        client.read_work_pool(name)
    except ObjectNotFound as error:
        raise FlowDeploymentError(
            f"there is no work pool {name!r} at {api}; the deployed stack made it in the workspace that "
            "stacks/environments.py names, so point Prefect's CLI there: prefect profile use, or PREFECT_API_URL"
        ) from error
    except PrefectHTTPStatusError as error:
        what = "refused your credential" if error.response.status_code in (401, 403) else "answered with an error"
        raise FlowDeploymentError(
            f"{api} {what} ({error.response.status_code}); check PREFECT_API_KEY, or "
            "PREFECT_API_AUTH_STRING for a server of your own"
        ) from error
    except httpx.HTTPError as error:
        raise FlowDeploymentError(f"cannot reach the Prefect API at {api}: {error or type(error).__name__}") from error


def check_file(file: str) -> None:
    """Check that there is a file of deployments with this name.

    :raises FlowDeploymentError: There is none.
    """
    known = sorted(path.name for path in FLOWS.glob("*.yaml"))
    if file not in known:
        raise FlowDeploymentError(f"there is no {file} in flows/; use one of {', '.join(known)}")


def deploy(
    target: Target,
    variables: Mapping[str, str],
    *,
    file: str = DEFAULT_FILE,
    capture: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Upload the code and create or update every deployment of a file in ``flows/``, with Prefect's own CLI.

    :param variables: The environment of the CLI, which says where AWS and Prefect are.
    :param file: The file that describes the deployments.
    :param capture: Return what the CLI printed instead of showing it.
    :raises FlowDeploymentError: The CLI failed.
    """
    result = subprocess.run(
        [str(_CLI), "--no-prompt", "deploy", "--all", "--prefect-file", file],
        cwd=FLOWS,
        env={**variables, **target.variables()},
        stdin=subprocess.DEVNULL,
        capture_output=capture,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        said = f":\n{result.stdout[-3000:]}{result.stderr[-3000:]}" if capture else "; it says why above"
        raise FlowDeploymentError(f"prefect deploy failed{said}")
    return result


def _client(variables: Mapping[str, str] | None) -> SyncPrefectClient:
    """A client of the API that these variables name; of the user's own without any."""
    if variables is None:
        return get_client(sync_client=True)
    return SyncPrefectClient(
        variables["PREFECT_API_URL"],
        api_key=variables.get("PREFECT_API_KEY"),
        auth_string=variables.get("PREFECT_API_AUTH_STRING"),
    )


def main(arguments: Sequence[str]) -> int:
    """Deploy the flows to an environment."""
    parser = argparse.ArgumentParser(prog="python -m tools.deploy_flows", description=__doc__.splitlines()[0])
    parser.add_argument("environment", help="name of an environment in stacks/environments.py")
    parser.add_argument("--file", default=DEFAULT_FILE, help=f"file in flows/ (default: {DEFAULT_FILE})")
    parser.add_argument(
        "--stored-credential",
        action="store_true",
        help="use the environment's own Prefect API, and its credential from SSM or Secrets Manager",
    )
    options = parser.parse_args(arguments)
    try:
        config = environment(
            options.environment,
            api_url=os.environ.get("PREFECT_API_URL") if options.environment == "embedded" else None,
        )
        check_file(options.file)
        target = find_target(config, boto3.client("cloudformation", region_name=config.region))
        variables = {**os.environ, "AWS_REGION": config.region, "AWS_DEFAULT_REGION": config.region}
        if options.stored_credential:
            os.environ["AWS_REGION"] = config.region  # where the credential is read
            variables |= environments_api(config, target, forwarded=os.environ.get("PREFECT_API_URL"))
        elif get_current_settings().api.url is None:
            raise FlowDeploymentError(
                "no Prefect API is configured; log in with: prefect cloud login, or set PREFECT_API_URL (and "
                "PREFECT_API_KEY, or PREFECT_API_AUTH_STRING for a server of your own)"
            )
        with _client(variables if options.stored_credential else None) as client:
            check_work_pool(target.work_pool, client)
        print(f"Deploying flows/{options.file} to work pool {target.work_pool}, code to s3://{target.bucket}/code/")
        deploy(target, variables, file=options.file)
    except (FlowDeploymentError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
