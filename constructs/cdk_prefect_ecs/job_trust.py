"""Which jobs of a CI system a role trusts: one issuer, one audience, one subject. Pure rules: imports no CDK."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cdk_prefect_ecs.arguments import checked, checked_fields, is_token

#: Who signs the tokens of GitHub Actions. Source: "OpenID Connect reference", GitHub documentation.
GITHUB_ISSUER: Final = "https://token.actions.githubusercontent.com"
#: Whom ``aws-actions/configure-aws-credentials`` has a token made out to, unless it is told otherwise.
AWS_AUDIENCE: Final = "sts.amazonaws.com"

#: Source: CreateOpenIDConnectProvider, AWS Identity and Access Management API Reference.
_MAX_LENGTH: Final = 255
#: What IAM compares a condition with. Source: IAM quotas; the whole trust policy has 2048 characters.
_MAX_SUBJECT: Final = 1024
# An owner's name has letters, digits and hyphens, that of a managed user an underscore too. Both parts may have the id
# of an immutable subject. Source: "OpenID Connect", GitHub documentation.
_REPOSITORY: Final = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38})(?P<owner>@[0-9]+)?/[A-Za-z0-9._-]{1,100}(?P<name>@[0-9]+)?"
)
# What git refuses in the name of a branch. Source: git-check-ref-format.
_NOT_IN_A_BRANCH: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[/.-]|[/.]$|\.lock$")
_WILDCARDS: Final = "*?"
_PULL_REQUEST: Final = "pull_request"
_OF_PULL_REQUESTS: Final = re.compile(rf"repo:[^:]+:{_PULL_REQUEST}")

# Source: "Regions and Zones", AWS; and the parameter Qualifier of the CDK's bootstrap template.
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ACCOUNT: Final = re.compile(r"\d{12}", re.ASCII)
_QUALIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,10}")
_HOUR: Final = 3600
#: Source: CreateRole, AWS Identity and Access Management API Reference.
_MAX_SESSION_SECONDS: Final = 12 * _HOUR


@checked_fields
@dataclass(frozen=True)
class JobTrust:
    """The jobs of a CI system that may take a role: those whose token has exactly this issuer, audience and subject.

    Make one with :meth:`github`, or name the three for another CI system that signs OIDC tokens, such as GitLab::

        JobTrust(
            issuer="https://gitlab.com",
            audience="sts.amazonaws.com",
            subject="project_path:acme/etl:ref_type:branch:ref:main",
        )

    :raises ValueError: An issuer that is no ``https`` URL, or one with a port, a query or a credential; an audience or
        subject that is empty or has a wildcard, which would trust jobs that nobody has named; a token of the CDK.
    """

    issuer: str
    """URL of who signs the tokens: their ``iss``."""
    audience: str
    """Whom the tokens are for: their ``aud``."""
    subject: str
    """Which job it is: their ``sub``."""

    def __post_init__(self) -> None:
        _check_issuer(self.issuer)
        _check_exact("audience", self.audience, _MAX_LENGTH)
        _check_exact("subject", self.subject, _MAX_SUBJECT)

    @staticmethod
    @checked
    def github(
        repository: str,
        *,
        environment: str | None = None,
        branch: str | None = None,
        pull_requests: bool = False,
        audience: str = AWS_AUDIENCE,
    ) -> JobTrust:
        """Trust jobs of GitHub Actions in one repository: those of an environment, of a branch, or of pull requests.

        An environment is best for deployments: GitHub can make it wait for a review and be open to some branches only,
        and a job that names one has it in its subject in place of the branch. Pull requests from forks get no token.

        :param repository: ``OWNER/NAME``, in upper and lower case as GitHub writes it. Of a repository with immutable
            subject claims, which those made or renamed since July 2026 are, ``OWNER@ID/NAME@ID``, as the OIDC settings
            of the repository show it.
        :param environment: Name of the environment of the jobs.
        :param branch: Name of the branch that jobs without an environment run on, such as ``main``.
        :param pull_requests: Jobs without an environment that a pull request starts. Whoever may push a branch to the
            repository can have one run what they like: enough for a role that reads, never for one that deploys.
        :param audience: Whom the token is for. Default: ``sts.amazonaws.com``, as
            ``aws-actions/configure-aws-credentials`` asks for it.
        :raises ValueError: Not exactly one of ``environment``, ``branch`` and ``pull_requests``; a repository without
            its owner, or with a wildcard; an id of the owner without one of the repository; a name that GitHub or git
            would not take.
        """
        _check_repository(repository)
        chosen = [
            name
            for name, given in (
                ("environment", environment is not None),
                ("branch", branch is not None),
                ("pull_requests", pull_requests),
            )
            if given
        ]
        if len(chosen) != 1:
            raise ValueError(
                f"say which jobs of {repository} are trusted by one of environment, branch and pull_requests; got "
                f"{' and '.join(chosen) or 'none, which would be all of them'}"
            )
        if environment is not None:
            _check_environment(environment)
            context = f"environment:{environment}"
        elif branch is not None:
            _check_branch(branch)
            context = f"ref:refs/heads/{branch}"
        else:
            context = _PULL_REQUEST
        return JobTrust(GITHUB_ISSUER, audience, f"repo:{repository}:{context}")

    @property
    def is_of_pull_requests(self) -> bool:
        """Whether these jobs run what nobody has reviewed: of GitHub's pull requests."""
        return self.issuer == GITHUB_ISSUER and bool(_OF_PULL_REQUESTS.fullmatch(self.subject))

    @property
    def provider_name(self) -> str:
        """What the ARN of the issuer's provider ends with, and the condition keys begin with: the URL without
        ``https://``."""
        return self.issuer.removeprefix("https://")

    @property
    def conditions(self) -> dict[str, dict[str, str]]:
        """The conditions of the trust policy."""
        return {
            "StringEquals": {
                f"{self.provider_name}:aud": self.audience,
                f"{self.provider_name}:sub": self.subject,
            }
        }


@checked
def check_deploy_settings(
    trust: JobTrust,
    *,
    account: str,
    regions: Sequence[str],
    qualifier: str,
    read_only: bool,
    publishes_images: bool,
    session_seconds: float,
) -> None:
    """Check what a deploy role is made with.

    :raises ValueError: As :class:`~cdk_prefect_ecs.DeployRole` documents.
    """
    if trust.is_of_pull_requests and not read_only:
        raise ValueError(
            f"{trust.subject!r} are jobs that run what nobody has reviewed: whoever may push a branch could deploy; "
            "pass read_only=True, or trust an environment or a branch"
        )
    if read_only and publishes_images:
        raise ValueError("read_only is for cdk diff, which publishes nothing; leave out publishes_images")
    if not is_token(account) and not _ACCOUNT.fullmatch(account):
        raise ValueError(f"account must be the 12 digits of an AWS account; got {account!r}")
    if not regions:
        raise ValueError("regions must name one region at least, such as us-east-1; got none")
    for region in regions:
        if "#{Token[" in region:
            raise ValueError("regions must be a list that is known at synth, of which one may be a token; got a token")
        if not is_token(region) and not _REGION.fullmatch(region):
            raise ValueError(f"regions must hold names of regions such as eu-west-1; got {region!r}")
    if len(set(regions)) < len(regions):
        raise ValueError(f"regions must name each region once; got {', '.join(regions)}")
    if not is_token(qualifier) and not _QUALIFIER.fullmatch(qualifier):
        raise ValueError(
            "qualifier is that of cdk bootstrap: up to 10 letters, digits, hyphens and underscores, such as hnb659fds; "
            f"got {qualifier!r}"
        )
    if not _HOUR <= session_seconds <= _MAX_SESSION_SECONDS or session_seconds % 1:
        raise ValueError(
            f"max_session_duration must be whole seconds from 1 to 12 hours, as IAM takes it; got {session_seconds:g} "
            "seconds"
        )


@checked
def check_provider(trust: JobTrust, issuer: str) -> None:
    """Check that a provider is the one of the trusted issuer.

    :param issuer: What its ARN ends with.
    :raises ValueError: It is another's.
    """
    if not is_token(issuer) and issuer.removeprefix("https://") != trust.provider_name:
        raise ValueError(
            f"provider must be the one of {trust.provider_name}, whose tokens are trusted; got that of {issuer}"
        )


def _check_issuer(issuer: str) -> None:
    try:
        parts = urlsplit(issuer)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = not (parts.query or parts.fragment or parts.username or parts.password) and port is None
    if (
        parts.scheme != "https"
        or not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", parts.hostname or "")
        or not plain
        or not re.fullmatch(r"[!-~]+[^/]", issuer)
        or set(issuer) & set("?#@*")
        or len(issuer) > _MAX_LENGTH
    ):
        raise ValueError(
            "issuer must be the https URL that tokens have in iss, without port, query and slash at its end, and with "
            f"at most {_MAX_LENGTH} characters, such as {GITHUB_ISSUER}; got {_got(issuer)}"
        )


def _check_exact(what: str, value: str, maximum: int) -> None:
    if is_token(value):
        raise ValueError(f"{what} must be known at synth, as nobody could review whom the role trusts; got a token")
    if not value.strip() or value != value.strip() or not value.isprintable():
        raise ValueError(
            f"{what} must not be empty, nor have spaces around it or what cannot be printed; got {value!r}"
        )
    if wildcards := sorted(set(value) & set(_WILDCARDS)):
        raise ValueError(
            f"{what} {value!r} contains {' '.join(wildcards)}, and jobs are trusted by their full names; make a role "
            "for each"
        )
    if len(value) > maximum:
        raise ValueError(f"{what} must have at most {maximum} characters; got {len(value)}")


def _check_repository(repository: str) -> None:
    if is_token(repository):
        raise ValueError("repository must be known at synth, as nobody could review whom the role trusts; got a token")
    if wildcards := sorted(set(repository) & set(_WILDCARDS)):
        raise ValueError(
            f"repository {_got(repository)} contains {' '.join(wildcards)}: whoever may make a repository that fits "
            "could take the role; name one repository, and make a role for each"
        )
    found = _REPOSITORY.fullmatch(repository)
    if found is None:
        raise ValueError(
            "repository must be OWNER/NAME as GitHub writes it, such as acme/etl, or acme@123/etl@456 where subject "
            f"claims are immutable; got {_got(repository)}"
        )
    if (found["owner"] is None) != (found["name"] is None):
        raise ValueError(
            f"repository {repository!r} has one id only; immutable subject claims have that of the owner and that of "
            "the repository, OWNER@ID/NAME@ID"
        )


def _check_environment(environment: str) -> None:
    _check_exact("environment", environment, _MAX_LENGTH)
    if ":" in environment:
        raise ValueError(
            f"environment {environment!r} contains a colon, which separates the parts of a subject; give the "
            "environment another name on GitHub"
        )


def _check_branch(branch: str) -> None:
    _check_exact("branch", branch, _MAX_LENGTH)
    if branch.startswith("refs/"):
        raise ValueError(f"branch must be the name alone, such as main, without refs/heads/; got {branch!r}")
    if _NOT_IN_A_BRANCH.search(branch):
        raise ValueError(f"branch must be a name that git takes, such as main or release/2; got {branch!r}")


def _got(value: str) -> str:
    return "a token" if is_token(value) else repr(value[:_MAX_LENGTH])
