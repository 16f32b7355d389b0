"""The role that CI takes: who may, and what it may do with it."""

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk.assertions import Template
from library_helpers import allow, assert_refused, cloud_api, in_order, new_stack, only, plain, resource, statements

from cdk_prefect_ecs import DeployRole, FlowStorage, JobTrust, PrefectApi, PrefectExecutionLayer

PROD = JobTrust.github("acme/etl", environment="prod")
PULL_REQUESTS = JobTrust.github("acme/etl", pull_requests=True)
GITHUB = "token.actions.githubusercontent.com"
PROVIDER_ARN = f"arn:aws:iam::123456789012:oidc-provider/{GITHUB}"
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
HERE = cdk.Environment(account="123456789012", region="us-east-1")


def bootstrap_role(name: str, account: str = "<AWS::AccountId>", region: str = "<AWS::Region>", **of: str) -> str:
    qualifier, partition = of.get("qualifier", "hnb659fds"), of.get("partition", "<AWS::Partition>")
    return f"arn:{partition}:iam::{account}:role/cdk-{qualifier}-{name}-{account}-{region}"


def trust_policy(template: Template, role: str = "DeployRole") -> list[dict[str, Any]]:
    policy = resource(template, role)["Properties"]["AssumeRolePolicyDocument"]
    return list(plain(policy)["Statement"])


def provider_of(stack: cdk.Stack, name: str = GITHUB) -> iam.IOpenIdConnectProvider:
    arn = f"arn:aws:iam::123456789012:oidc-provider/{name}"
    return iam.OpenIdConnectProvider.from_open_id_connect_provider_arn(stack, f"Provider of {name}", arn)


# Who may take it


def test_default_role_trusts_these_jobs_and_nobody_else() -> None:
    stack = new_stack()
    deploy = DeployRole(stack, "Deploy", trust=PROD)
    template = Template.from_stack(stack)
    assert trust_policy(template) == [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Principal": {"Federated": "<DeployProvider>"},
            "Condition": {
                "StringEquals": {
                    f"{GITHUB}:aud": "sts.amazonaws.com",
                    f"{GITHUB}:sub": "repo:acme/etl:environment:prod",
                }
            },
        }
    ]
    assert only(template, "AWS::IAM::OIDCProvider") == {
        "Url": f"https://{GITHUB}",
        "ClientIdList": ["sts.amazonaws.com"],
    }
    template.resource_count_is("AWS::IAM::User", 0)
    template.resource_count_is("AWS::Lambda::Function", 0)  # the provider is CloudFormation's own
    assert deploy.trust is PROD
    assert stack.resolve(deploy.role_arn) == stack.resolve(deploy.role.role_arn)


def test_role_of_another_ci_system() -> None:
    stack = new_stack()
    DeployRole(stack, "Deploy", trust=JobTrust("https://gitlab.com", "aws", "project_path:acme/etl:ref_type:tag:ref:1"))
    template = Template.from_stack(stack)
    (statement,) = trust_policy(template)
    assert statement["Condition"] == {
        "StringEquals": {"gitlab.com:aud": "aws", "gitlab.com:sub": "project_path:acme/etl:ref_type:tag:ref:1"}
    }
    assert only(template, "AWS::IAM::OIDCProvider") == {"Url": "https://gitlab.com", "ClientIdList": ["aws"]}


def test_imported_provider_is_used_and_none_is_made() -> None:
    stack = new_stack()
    deploy = DeployRole(stack, "Deploy", trust=PROD, provider=provider_of(stack))
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::IAM::OIDCProvider", 0)
    assert trust_policy(template)[0]["Principal"] == {"Federated": PROVIDER_ARN}
    assert deploy.provider.open_id_connect_provider_arn == PROVIDER_ARN


def test_two_in_one_stack_share_the_provider_of_the_first() -> None:
    stack = new_stack()
    deploy = DeployRole(stack, "Deploy", trust=PROD)
    DeployRole(stack, "Diff", trust=PULL_REQUESTS, provider=deploy.provider, read_only=True)
    template = Template.from_stack(stack)
    template.resource_count_is("AWS::IAM::OIDCProvider", 1)
    (statement,) = trust_policy(template, "DiffRole")
    assert statement["Principal"] == {"Federated": "<DeployProvider>"}
    assert statement["Condition"]["StringEquals"][f"{GITHUB}:sub"] == "repo:acme/etl:pull_request"
    assert resource(template, "DiffRole")["Properties"]["Description"] == "CI: cdk diff"


# What it may do


@pytest.mark.parametrize(
    ("settings", "roles"),
    [
        ({}, ["lookup-role", "deploy-role", "file-publishing-role"]),
        (
            {"publishes_images": True},
            ["lookup-role", "deploy-role", "file-publishing-role", "image-publishing-role"],
        ),
        ({"read_only": True}, ["lookup-role"]),
        ({"read_only": True, "trust": PULL_REQUESTS}, ["lookup-role"]),
    ],
)
def test_it_may_take_roles_of_the_bootstrap_and_nothing_else(settings: dict[str, Any], roles: list[str]) -> None:
    stack = new_stack()
    DeployRole(stack, "Deploy", **({"trust": PROD} | settings))
    assert statements(Template.from_stack(stack), "DeployRole") == [
        allow("sts:AssumeRole", [bootstrap_role(name) for name in roles])
    ]


def test_everything_set() -> None:
    stack = new_stack(env=HERE)
    DeployRole(
        stack,
        "Deploy",
        trust=PROD,
        provider=provider_of(stack),
        account="210987654321",
        regions=["eu-west-1", "eu-central-1"],
        qualifier="data",
        publishes_images=True,
        max_session_duration=cdk.Duration.hours(3),
    )
    template = Template.from_stack(stack)
    assert resource(template, "DeployRole")["Properties"]["MaxSessionDuration"] == 3 * 3600
    (statement,) = statements(template, "DeployRole")
    assert statement["Resource"] == sorted(
        bootstrap_role(f"{name}-role", "210987654321", region, qualifier="data", partition="aws")
        for name in ("lookup", "deploy", "file-publishing", "image-publishing")
        for region in ("eu-west-1", "eu-central-1")
    )


def test_qualifier_is_that_of_the_app() -> None:
    app = cdk.App(context={"@aws-cdk/core:bootstrapQualifier": "team"}, analytics_reporting=False)
    stack = cdk.Stack(app, "Test")
    DeployRole(stack, "Deploy", trust=PROD, read_only=True)
    (statement,) = statements(Template.from_stack(stack), "DeployRole")
    assert statement["Resource"] == [bootstrap_role("lookup-role", qualifier="team")]


def test_a_token_passes() -> None:
    stack = new_stack()
    parameters = {
        name: cdk.CfnParameter(stack, name.title(), default="x").value_as_string
        for name in ("account", "region", "qualifier")
    }
    DeployRole(
        stack,
        "Deploy",
        trust=PROD,
        account=parameters["account"],
        regions=[parameters["region"]],
        qualifier=parameters["qualifier"],
        read_only=True,
    )
    (statement,) = statements(Template.from_stack(stack), "DeployRole")
    assert statement["Resource"] == [bootstrap_role("lookup-role", "<Account>", "<Region>", qualifier="<Qualifier>")]


def test_what_is_granted_to_it_is_granted_to_the_role() -> None:
    stack = new_stack()
    deploy = DeployRole(stack, "Deploy", trust=PROD, read_only=True)
    bucket = s3.Bucket.from_bucket_name(stack, "Reports", "reports")
    bucket.grant_put(deploy, "ci/*").assert_success()
    assert len(statements(Template.from_stack(stack), "DeployRole")) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trust": PULL_REQUESTS}, ["run what nobody has reviewed", "pass read_only=True"]),
        ({"read_only": True, "publishes_images": True}, ["leave out publishes_images"]),
        ({"account": "1"}, ["12 digits", "'1'"]),
        ({"regions": []}, ["one region at least"]),
        ({"qualifier": "-" * 11}, ["that of cdk bootstrap"]),
        ({"max_session_duration": cdk.Duration.minutes(30)}, ["from 1 to 12 hours", "1800 seconds"]),
        ({"trust": "repo:acme/etl"}, ["trust must be a JobTrust", "got a string"]),
    ],
)
def test_refused(settings: dict[str, Any], words: list[str]) -> None:
    stack = new_stack()
    assert_refused(stack, lambda: DeployRole(stack, "Deploy", **({"trust": PROD} | settings)), *words)


def test_a_synthesizer_that_hides_its_qualifier_is_refused_without_one() -> None:
    stack = new_stack(synthesizer=cdk.DefaultStackSynthesizer(qualifier="team"))
    assert_refused(stack, lambda: DeployRole(stack, "Deploy", trust=PROD), "qualifier must be given", "hnb659fds")
    DeployRole(stack, "Deploy", trust=PROD, qualifier="team")


def test_a_provider_of_another_issuer_is_refused() -> None:
    stack = new_stack()
    provider = provider_of(stack, "gitlab.com")
    assert_refused(
        stack,
        lambda: DeployRole(stack, "Deploy", trust=PROD, provider=provider),
        f"provider must be the one of {GITHUB}",
        "got that of gitlab.com",
    )


# Flows


def test_code_can_be_written_and_nothing_else_of_the_bucket() -> None:
    stack = new_stack()
    storage = FlowStorage(stack, "Storage")
    deploy = DeployRole(stack, "Deploy", trust=PROD, read_only=True)
    storage.grant_deploy_code(deploy).assert_success()
    found = statements(Template.from_stack(stack), "DeployRole")
    assert allow(["s3:PutObject", "s3:AbortMultipartUpload"], "<StorageBucket.Arn>/code/*") in found
    assert len(found) == 2


def test_code_of_a_bucket_with_a_key_takes_the_key_through_s3() -> None:
    stack = new_stack()
    key = kms.Key.from_key_arn(stack, "Key", KEY_ARN)
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())
    FlowStorage(stack, "Storage", encryption_key=key).grant_deploy_code(role).assert_success()
    through_s3 = {"StringEquals": {"kms:ViaService": "s3.<AWS::Region>.amazonaws.com"}}
    assert statements(Template.from_stack(stack), "Role") == in_order(
        [
            allow(["s3:PutObject", "s3:AbortMultipartUpload"], "<StorageBucket.Arn>/code/*"),
            allow(["kms:Decrypt", "kms:GenerateDataKey"], KEY_ARN, through_s3),
        ]
    )


def test_deploying_flows_takes_outputs_code_and_credential() -> None:
    stack = new_stack()
    layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api())
    role = iam.Role(stack, "Ci", assumed_by=iam.AccountRootPrincipal())
    layer.grant_deploy_flows(role).assert_success()
    own = "<AWS::Region>:<AWS::AccountId>"
    assert statements(Template.from_stack(stack), "Ci") == in_order(
        [
            allow("cloudformation:DescribeStacks", f"arn:<AWS::Partition>:cloudformation:{own}:stack/Test/*"),
            allow(["s3:PutObject", "s3:AbortMultipartUpload"], "<PrefectStorageBucket.Arn>/code/*"),
            allow("ssm:GetParameter", f"arn:<AWS::Partition>:ssm:{own}:parameter/prefect/api-key"),
        ]
    )


def test_deploying_flows_to_a_bucket_of_another_stack_with_a_secret() -> None:
    stack = new_stack(env=HERE)
    data = cdk.Stack(cdk.App.of(stack), "Data", env=HERE)
    secret = secretsmanager.Secret.from_secret_complete_arn(
        stack, "Secret", "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect-AbCdEf"
    )
    layer = PrefectExecutionLayer(
        cdk.NestedStack(stack, "Nested"),
        "Prefect",
        work_pool_name="etl",
        api=PrefectApi.self_hosted("https://prefect.example.com/api", auth_string=PrefectApi.secrets_manager(secret)),
        storage=FlowStorage(data, "Storage"),
    )
    role = iam.Role(stack, "Ci", assumed_by=iam.AccountRootPrincipal())
    layer.grant_deploy_flows(role).assert_success()
    found = statements(Template.from_stack(stack), "Ci")
    stacks = [f"arn:aws:cloudformation:us-east-1:123456789012:stack/{name}/*" for name in ("Data", "Test")]
    assert allow("cloudformation:DescribeStacks", stacks) in found
    assert allow("secretsmanager:GetSecretValue", secret.secret_arn) in found
    assert len(found) == 3


def test_deploying_flows_to_a_server_without_a_credential() -> None:
    stack = new_stack()
    layer = PrefectExecutionLayer(
        stack, "Prefect", work_pool_name="etl", api=PrefectApi.self_hosted("http://prefect.internal:4200/api")
    )
    role = iam.Role(stack, "Ci", assumed_by=iam.AccountRootPrincipal())
    layer.grant_deploy_flows(role).assert_success()
    assert len(statements(Template.from_stack(stack), "Ci")) == 2
