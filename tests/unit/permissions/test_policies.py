"""Roles and statements as templates have them, with references resolved as CloudFormation would."""

import json
from pathlib import Path

import pytest

from tools.permissions.policies import Templates

TRUST = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}]}
BASE = {
    "Outputs": {"Logs": {"Value": {"Fn::GetAtt": ["LogGroup", "Arn"]}}},
    "Resources": {"LogGroup": {"Type": "AWS::Logs::LogGroup"}},
}
MAIN = {
    "Resources": {
        "Cluster": {"Type": "AWS::ECS::Cluster"},
        "Secret": {"Type": "AWS::SecretsManager::Secret"},
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": TRUST,
                "Description": "worker",
                "ManagedPolicyArns": ["arn:aws:iam::aws:policy/P"],
                "Policies": [
                    {
                        "PolicyDocument": {
                            "Statement": [
                                {
                                    "Effect": "Allow",
                                    "Action": "ecs:ListTasks",
                                    "Resource": "*",
                                    "Condition": {"ArnEquals": {"ecs:cluster": {"Fn::GetAtt": ["Cluster", "Arn"]}}},
                                }
                            ]
                        }
                    }
                ],
            },
        },
        "Policy": {
            "Type": "AWS::IAM::Policy",
            "Properties": {
                "Roles": [{"Ref": "Role"}],
                "PolicyDocument": {
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Action": ["logs:PutLogEvents"],
                            "Resource": {"Fn::GetStackOutput": {"StackName": "Base", "OutputName": "Logs"}},
                        },
                        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": {"Ref": "Secret"}},
                        {
                            "Effect": "Deny",
                            "Action": "s3:*",
                            "Resource": [{"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":s3:::", "b"]]}],
                        },
                    ]
                },
            },
        },
        "QueuePolicy": {
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {
                "PolicyDocument": {
                    "Statement": [
                        {
                            "Effect": "Deny",
                            "Action": "sqs:*",
                            "Principal": "*",
                            "Resource": {"Fn::Sub": "${AWS::Region}"},
                        }
                    ]
                }
            },
        },
    }
}


@pytest.fixture(scope="module")
def templates() -> Templates:
    return Templates({"Base": BASE, "Main": MAIN})


def test_a_role_has_all_its_statements(templates: Templates) -> None:
    (role,) = templates.roles()
    assert role == templates.role("Main", "Role")
    assert (role.arn, role.description) == ("arn:aws:iam::111122223333:role/Role", "worker")
    assert role.trusted == ("ec2.amazonaws.com",)
    assert role.managed_policies == ("arn:aws:iam::aws:policy/P",)
    assert [statement.document() for statement in role.statements] == [
        {
            "Effect": "Allow",
            "Action": ["ecs:ListTasks"],
            "Resource": ["*"],
            "Condition": {"ArnEquals": {"ecs:cluster": "arn:aws:ecs:us-east-1:111122223333:cluster/Cluster"}},
        },
        {
            "Effect": "Allow",
            "Action": ["logs:PutLogEvents"],
            "Resource": ["arn:aws:logs:us-east-1:111122223333:log-group:LogGroup:*"],
        },
        {
            "Effect": "Allow",
            "Action": ["secretsmanager:GetSecretValue"],
            "Resource": ["arn:aws:secretsmanager:us-east-1:111122223333:secret:Secret"],
        },
        {"Effect": "Deny", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::b"]},
    ]
    assert role.actions == {"ecs:ListTasks", "logs:PutLogEvents", "secretsmanager:GetSecretValue"}


def test_every_statement_of_every_policy_is_found(templates: Templates) -> None:
    found = [(statement.source, statement.kind) for statement in templates.statements()]
    assert sorted(found) == [
        ("Main.Policy", "identity"),
        ("Main.Policy", "identity"),
        ("Main.Policy", "identity"),
        ("Main.QueuePolicy", "resource"),
        ("Main.Role", "identity"),
        ("Main.Role", "trust"),
    ]


def test_an_arn_that_is_not_known_is_an_error() -> None:
    text = json.dumps(MAIN).replace("AWS::ECS::Cluster", "AWS::Teapot::Pot")
    with pytest.raises(ValueError, match=r"ARN of a AWS::Teapot::Pot \(Main\.Cluster\)"):
        Templates({"Base": BASE, "Main": json.loads(text)}).roles()


def test_templates_are_read_from_an_assembly_and_those_nested_in_it(tmp_path: Path) -> None:
    nested = tmp_path / "assembly-Stage"
    nested.mkdir()
    for folder, name, template in ((tmp_path, "Base", BASE), (nested, "Main", MAIN)):
        artifact = {"type": "aws:cloudformation:stack", "properties": {"templateFile": f"{name}.json"}}
        others = {"Tree": {"type": "cdk:tree", "properties": {}}}
        (folder / "manifest.json").write_text(json.dumps({"artifacts": {name: artifact, **others}}))
        (folder / f"{name}.json").write_text(json.dumps(template))
    assert Templates.read(tmp_path).by_stack == {"Base": BASE, "Main": MAIN}
