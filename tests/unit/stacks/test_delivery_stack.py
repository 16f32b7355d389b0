"""The roles of the workflows that deploy an environment, and docs/pipeline.md, whose workflow takes them."""

import dataclasses
import json
import re
from typing import Any

import aws_cdk as cdk
import pytest
import yaml
from aws_cdk.assertions import Template
from stack_helpers import ROOT, new_stage

import cdk_prefect_ecs
from cdk_prefect_ecs import DeployRole, JobTrust
from stacks.config import EnvironmentConfig, GitHubConfig, SelfHostedApi
from stacks.delivery import SESSION_HOURS
from stacks.environments import ENVIRONMENTS, environment

TEXT = (ROOT / "docs" / "pipeline.md").read_text()
GITHUB = GitHubConfig("acme/etl", "prod", makes_provider=True)
ISSUER = "token.actions.githubusercontent.com"


def delivered(name: str = "prod", github: GitHubConfig = GITHUB, **changes: Any) -> Template:
    stage = new_stage(dataclasses.replace(environment(name), deployed_by=github, **changes))
    assert stage.delivery is not None
    return Template.from_stack(stage.delivery)


@pytest.fixture(scope="module")
def template() -> Template:
    return delivered()


def subjects(template: Template) -> dict[str, str]:
    """The subjects that the roles trust, by what the roles are described as."""
    return {
        role["Properties"]["Description"]: role["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Condition"][
            "StringEquals"
        ][f"{ISSUER}:sub"]
        for role in template.find_resources("AWS::IAM::Role").values()
    }


def policies(template: Template) -> list[dict[str, Any]]:
    return [policy["Properties"] for policy in template.find_resources("AWS::IAM::Policy").values()]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_nobody_delivers_an_environment_that_does_not_say_so(name: str) -> None:
    assert new_stage(environment(name)).delivery is None


def test_the_stacks_of_an_environment_are_the_same_with_and_without() -> None:
    without, with_it = (
        new_stage(environment("prod")),
        new_stage(dataclasses.replace(environment("prod"), deployed_by=GITHUB)),
    )
    for one, other in ((without.foundation, with_it.foundation), (without.execution, with_it.execution)):
        assert Template.from_stack(one).to_json() == Template.from_stack(other).to_json()


def test_two_roles_for_two_kinds_of_jobs(template: Template) -> None:
    assert subjects(template) == {
        "CI: cdk deploy": "repo:acme/etl:environment:prod",
        "CI: cdk diff": "repo:acme/etl:pull_request",
    }


def test_pull_requests_get_none_where_they_are_not_to() -> None:
    template = delivered(github=dataclasses.replace(GITHUB, diff_on_pull_requests=False))
    assert list(subjects(template)) == ["CI: cdk deploy"]
    assert set(template.to_json()["Outputs"]) == {"DeployRoleArn"}


def test_the_provider_is_made_or_taken(template: Template) -> None:
    template.resource_count_is("AWS::IAM::OIDCProvider", 1)
    taken = delivered(github=dataclasses.replace(GITHUB, makes_provider=False), account="123456789012")
    taken.resource_count_is("AWS::IAM::OIDCProvider", 0)
    for role in taken.find_resources("AWS::IAM::Role").values():
        (statement,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"}


@pytest.mark.parametrize(("name", "builds"), [("prod", True), ("dev", False)])
def test_images_are_published_only_where_they_are_built(name: str, builds: bool) -> None:
    text = json.dumps(delivered(name).to_json())
    assert ("image-publishing-role" in text) == builds


def test_flows_are_deployed_by_the_deploy_role_only(template: Template) -> None:
    deploy, diff = sorted(policies(template), key=lambda policy: str(policy["PolicyName"]))
    actions = [statement["Action"] for statement in deploy["PolicyDocument"]["Statement"]]
    assert actions == [
        "sts:AssumeRole",
        "cloudformation:DescribeStacks",
        ["s3:AbortMultipartUpload", "s3:PutObject"],
        "ssm:GetParameter",
    ]
    assert [statement["Action"] for statement in diff["PolicyDocument"]["Statement"]] == ["sts:AssumeRole"]


def test_boundary_path_and_tags_reach_the_roles() -> None:
    template = delivered(permissions_boundary="team", role_path="/team/", tags={"Team": "data"})
    for role in template.find_resources("AWS::IAM::Role").values():
        assert role["Properties"]["Path"] == "/team/"
        assert "policy/team" in json.dumps(role["Properties"]["PermissionsBoundary"])
        assert {"Key": "Team", "Value": "data"} in role["Properties"]["Tags"]


@pytest.mark.parametrize(
    ("repository", "github_environment", "message"),
    [
        ("acme/*", "prod", r"repository 'acme/\*' contains \*"),
        ("acme", "prod", "must be OWNER/NAME"),
        ("acme/etl", "", "environment must not be empty"),
    ],
)
def test_a_repository_that_cannot_be_trusted_is_refused(repository: str, github_environment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GitHubConfig(repository, github_environment)


# docs/pipeline.md


def example(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[number]


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    return dict(yaml.safe_load(example("yaml")))


@pytest.fixture(scope="module")
def documented() -> GitHubConfig:
    """The configuration that the page shows."""
    (call,) = re.findall(r"deployed_by=(GitHubConfig\(.*?\)),", example("python"))
    config = eval(call, {"GitHubConfig": GitHubConfig})  # noqa: S307 - our own example
    assert isinstance(config, GitHubConfig)
    return config


def subject_of(workflow: dict[Any, Any], job: dict[str, Any], repository: str) -> str:
    """The subject of a job's token. Source: "OpenID Connect reference", GitHub documentation."""
    if "environment" in job:
        return f"repo:{repository}:environment:{job['environment']}"
    event = re.fullmatch(r"github\.event_name == '(\w+)'", job["if"])
    assert event is not None
    triggers = workflow[True]  # YAML 1.1 reads the key "on" so
    assert event[1] in triggers
    if event[1] == "pull_request":
        return f"repo:{repository}:pull_request"
    return f"repo:{repository}:ref:refs/heads/{triggers[event[1]]['branches'][0]}"


def takes_role(job: dict[str, Any]) -> dict[str, Any]:
    (step,) = [step for step in job["steps"] if "configure-aws-credentials" in step.get("uses", "")]
    return dict(step["with"])


@pytest.mark.parametrize(
    ("job", "kind", "output"), [("deploy", "deploy", "DeployRoleArn"), ("diff", "diff", "DiffRoleArn")]
)
def test_each_job_takes_the_role_that_trusts_it(
    workflow: dict[Any, Any], documented: GitHubConfig, job: str, kind: str, output: str
) -> None:
    template = delivered(github=documented)
    assert subject_of(workflow, workflow["jobs"][job], documented.repository) == subjects(template)[f"CI: cdk {kind}"]
    named = re.fullmatch(r"\$\{\{ vars\.(\w+) \}\}", takes_role(workflow["jobs"][job])["role-to-assume"])
    assert named is not None
    assert f"variable {named[1]} of" in template.to_json()["Outputs"][output]["Description"]
    assert f"`{named[1]}`" in TEXT


def test_the_workflow_asks_for_a_token_and_the_code_and_nothing_else(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"id-token": "write", "contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "secrets." not in example("yaml")
    assert "pull_request_target" not in example("yaml")


def test_no_job_keeps_the_role_longer_than_it_may(workflow: dict[Any, Any]) -> None:
    assert takes_role(workflow["jobs"]["deploy"])["role-duration-seconds"] <= SESSION_HOURS * 3600
    assert "role-duration-seconds" not in takes_role(workflow["jobs"]["diff"])  # an hour, the default of both


def test_actions_are_pinned_by_commit_and_say_their_version() -> None:
    used = re.findall(r"uses: (.*)", example("yaml"))
    assert len(used) == 4
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_what_the_jobs_run_is_there(workflow: dict[Any, Any]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, job in workflow["jobs"].items():
        commands = "\n".join(step["run"] for step in job["steps"] if "run" in step)
        for target in re.findall(r"make (\w+)", commands):
            assert f"\n{target}: " in makefile
        assert ("make deploy" in commands) == (name == "deploy")
    diff = " ".join(step.get("run", "") for step in workflow["jobs"]["diff"]["steps"])
    assert "--method=template" in diff
    assert "CREDENTIAL=stored" in example("yaml")
    assert "$(filter stored,$(CREDENTIAL))" in makefile


def test_the_examples_run() -> None:
    stage = new_stage(environment("dev"))
    stack = cdk.Stack(stage, "Ci")
    names: dict[str, Any] = {
        "stack": stack,
        "layer": stage.execution.layer,
        "DeployRole": DeployRole,
        "JobTrust": JobTrust,
    }
    exec(compile(example("python", 1), "docs/pipeline.md", "exec"), names)  # noqa: S102 - our own example
    trust = eval(example("python", 2), {"JobTrust": JobTrust})  # noqa: S307 - our own example
    assert trust.provider_name == "gitlab.com"
    assert {"Deploy", "Diff"} <= {child.node.id for child in stack.node.children}
    assert set(re.findall(r"`(\w*Role)\b", TEXT)) <= {*cdk_prefect_ecs.__all__}


def test_configured_environment_is_one_that_can_be_made() -> None:
    """The page leaves out what every environment has; with it, its example is a configuration."""
    shown = example("python").replace("…,", 'region="us-east-1", api=api, pool=prod.pool,')
    prod = environment("prod")
    given = {
        "prod": prod,
        "api": SelfHostedApi("https://prefect.example.com/api"),
        "EnvironmentConfig": EnvironmentConfig,
    }
    config = eval(shown, given | {"GitHubConfig": GitHubConfig})  # noqa: S307 - our own example
    assert config.deployed_by == GITHUB
