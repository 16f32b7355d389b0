"""Whom a role may be given to: jobs by their full names, and nobody by a pattern."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from cdk_prefect_ecs import JobTrust
from cdk_prefect_ecs.job_trust import check_deploy_settings, check_provider

GITHUB = "token.actions.githubusercontent.com"
TOKEN = "${Token[TOKEN.42]}"


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"environment": "prod"}, "repo:acme/etl:environment:prod"),
        ({"environment": "prod eu"}, "repo:acme/etl:environment:prod eu"),
        ({"branch": "main"}, "repo:acme/etl:ref:refs/heads/main"),
        ({"branch": "release/2.x"}, "repo:acme/etl:ref:refs/heads/release/2.x"),
        ({"pull_requests": True}, "repo:acme/etl:pull_request"),
    ],
)
def test_the_subject_is_the_one_that_github_signs(settings: dict[str, Any], subject: str) -> None:
    trust = JobTrust.github("acme/etl", **settings)
    assert trust == JobTrust(f"https://{GITHUB}", "sts.amazonaws.com", subject)
    assert trust.conditions == {"StringEquals": {f"{GITHUB}:aud": "sts.amazonaws.com", f"{GITHUB}:sub": subject}}


@pytest.mark.parametrize(
    "repository", ["a/b", "Acme-Inc/My.Repo_1", "jane_corp/x", "acme@123456/etl@456789", "a/.github"]
)
def test_repositories_as_github_writes_them(repository: str) -> None:
    assert JobTrust.github(repository, branch="main").subject == f"repo:{repository}:ref:refs/heads/main"


def test_the_audience_may_be_another() -> None:
    trust = JobTrust.github("acme/etl", branch="main", audience="sts.amazonaws.com.cn")
    assert trust.conditions["StringEquals"][f"{GITHUB}:aud"] == "sts.amazonaws.com.cn"


def test_another_issuer() -> None:
    trust = JobTrust("https://ghe.acme.com/_services/token", "sts.amazonaws.com", "repo:acme/etl:pull_request")
    assert trust.provider_name == "ghe.acme.com/_services/token"
    assert set(trust.conditions["StringEquals"]) == {
        "ghe.acme.com/_services/token:aud",
        "ghe.acme.com/_services/token:sub",
    }


def test_jobs_of_pull_requests_are_known_as_such() -> None:
    assert JobTrust.github("acme/etl", pull_requests=True).is_of_pull_requests
    assert not JobTrust.github("acme/etl", environment="pull_request").is_of_pull_requests
    assert not JobTrust.github("acme/etl", branch="main").is_of_pull_requests


def github(repository: str = "acme/etl", **settings: Any) -> Callable[[], object]:
    return lambda: JobTrust.github(repository, **(settings or {"branch": "main"}))


def jobs(**change: str) -> Callable[[], object]:
    given = {"issuer": "https://gitlab.com", "audience": "sts.amazonaws.com", "subject": "project_path:acme/etl"}
    return lambda: JobTrust(**(given | change))


REFUSED: list[tuple[Callable[[], object], str]] = [
    (
        github("acme/*"),
        r"repository 'acme/\*' contains \*: whoever may make a repository that fits could take the role",
    ),
    (github("*/*"), r"contains \*: .*; name one repository, and make a role for each"),
    (github("acme/etl-?"), r"contains \?: whoever may make a repository"),
    (github("acme"), r"must be OWNER/NAME as GitHub writes it, such as acme/etl, .*; got 'acme'"),
    (github("/etl"), r"must be OWNER/NAME as GitHub writes it, .*; got '/etl'"),
    (github("acme/"), r"must be OWNER/NAME as GitHub writes it, .*; got 'acme/'"),
    (github(""), r"must be OWNER/NAME as GitHub writes it, .*; got ''"),
    (github("acme/etl/x"), r"must be OWNER/NAME"),
    (github("acme/etl:ref"), r"must be OWNER/NAME"),
    (github("https://github.com/acme/etl"), r"must be OWNER/NAME"),
    (github("acme@12/etl"), r"'acme@12/etl' has one id only; .* OWNER@ID/NAME@ID"),
    (github("acme/etl@12"), r"'acme/etl@12' has one id only"),
    (github(TOKEN), r"repository must be known at synth, as nobody could review whom the role trusts; got a token"),
    (
        github(environment=None),
        r"which jobs of acme/etl are trusted by one of environment, branch and pull_requests; got none, which would be "
        "all of them",
    ),
    (github(environment="prod", branch="main"), r"by one of environment, .*; got environment and branch"),
    (github(branch="main", pull_requests=True), r"got branch and pull_requests"),
    (github(environment="*"), r"environment '\*' contains \*, and jobs are trusted by their full names"),
    (github(environment=""), r"environment must not be empty, nor have spaces around it"),
    (github(environment="prod "), r"environment must not be empty, nor have spaces around it"),
    (github(environment="prod:eu"), r"environment 'prod:eu' contains a colon, which separates the parts of a subject"),
    (github(environment="x" * 256), r"environment must have at most 255 characters; got 256"),
    (github(branch="refs/heads/main"), r"branch must be the name alone, such as main, without refs/heads/; got"),
    (github(branch="release/*"), r"branch 'release/\*' contains \*, and jobs are trusted by their full names"),
    (github(branch="a..b"), r"branch must be a name that git takes, such as main or release/2; got 'a\.\.b'"),
    (github(branch="a b"), r"branch must be a name that git takes"),
    (github(branch="main:pull_request"), r"branch must be a name that git takes"),
    (github(branch="/main"), r"branch must be a name that git takes"),
    (github(branch="main", audience=""), r"audience must not be empty"),
    (github(branch="main", audience="*"), r"audience '\*' contains \*"),
    (jobs(issuer="http://gitlab.com"), r"issuer must be the https URL that tokens have in iss, .*; got 'http://gitlab"),
    (jobs(issuer="gitlab.com"), r"issuer must be the https URL that tokens have in iss"),
    (jobs(issuer="https://gitlab.com/"), r"without port, query and slash at its end"),
    (jobs(issuer="https://gitlab.com:8443"), r"without port, query and slash at its end"),
    (jobs(issuer="https://gitlab.com?x=1"), r"without port, query and slash at its end"),
    (jobs(issuer="https://u:p@gitlab.com"), r"issuer must be the https URL"),
    (jobs(issuer="https://*.gitlab.com"), r"issuer must be the https URL"),
    (jobs(issuer=TOKEN), r"issuer must be the https URL .*; got a token"),
    (jobs(subject="project_path:acme/*"), r"subject 'project_path:acme/\*' contains \*, and jobs are trusted by their"),
    (jobs(subject=""), r"subject must not be empty"),
    (jobs(subject=TOKEN), r"subject must be known at synth, as nobody could review whom the role trusts; got a token"),
    (jobs(subject="x" * 1025), r"subject must have at most 1024 characters; got 1025"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


SETTINGS: dict[str, Any] = {
    "trust": JobTrust.github("acme/etl", branch="main"),
    "account": "123456789012",
    "regions": ["us-east-1", "eu-west-1"],
    "qualifier": "hnb659fds",
    "read_only": False,
    "publishes_images": True,
    "session_seconds": 12 * 3600,
}


@pytest.mark.parametrize(
    "change",
    [{}, {"account": TOKEN}, {"regions": [TOKEN]}, {"qualifier": TOKEN}, {"session_seconds": 3600}],
)
def test_settings_that_a_role_is_made_with(change: dict[str, Any]) -> None:
    check_deploy_settings(**(SETTINGS | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"trust": JobTrust.github("acme/etl", pull_requests=True)},
            r"'repo:acme/etl:pull_request' are jobs that run what nobody has reviewed: .* pass read_only=True, or "
            "trust an environment or a branch",
        ),
        ({"read_only": True}, r"read_only is for cdk diff, which publishes nothing; leave out publishes_images"),
        ({"account": "12345"}, r"account must be the 12 digits of an AWS account; got '12345'"),
        ({"regions": []}, r"regions must name one region at least, such as us-east-1; got none"),
        ({"regions": ["Frankfurt"]}, r"regions must hold names of regions such as eu-west-1; got 'Frankfurt'"),
        ({"regions": ["us-east-1"] * 2}, r"regions must name each region once; got us-east-1, us-east-1"),
        ({"regions": ["#{Token[TOKEN.3]}"]}, r"regions must be a list that is known at synth"),
        ({"qualifier": ""}, r"qualifier is that of cdk bootstrap: up to 10 letters, .*; got ''"),
        ({"qualifier": "elevenchars"}, r"qualifier is that of cdk bootstrap: up to 10 letters, .*; got 'elevenchars'"),
        (
            {"session_seconds": 1800},
            r"max_session_duration must be whole seconds from 1 to 12 hours, .*; got 1800 seconds",
        ),
        ({"session_seconds": 12 * 3600 + 1}, r"max_session_duration must be whole seconds from 1 to 12 hours"),
        ({"session_seconds": 3600.5}, r"max_session_duration must be whole seconds"),
    ],
)
def test_settings_that_no_role_is_made_with(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_deploy_settings(**(SETTINGS | change))


def test_a_provider_is_the_one_of_the_issuer() -> None:
    trust = JobTrust.github("acme/etl", branch="main")
    for issuer in (GITHUB, f"https://{GITHUB}", TOKEN):
        check_provider(trust, issuer)
    with pytest.raises(ValueError, match=re.escape(f"provider must be the one of {GITHUB}, whose tokens are trusted")):
        check_provider(trust, "gitlab.com")
