"""The library in somebody else's app: installed from its wheel, with the oldest and the newest CDK of its ranges."""

import json
import re
from pathlib import Path

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from consumer_helpers import APPS, DEPENDENCIES, ROOT, Consumer, build_wheel, minimum

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Rules of cfn-lint that are wrong here, each with the reason.
IGNORED = {
    "W3005": "DependsOn that a GetAtt implies already: the CDK writes both for a role, which is harmless.",
    "W3010": "Zones that are written down: those of an existing VPC.",
    "W3691": "RDS takes a major version by itself, and has its newest minor ones; cfn-lint takes it for the oldest.",
}
RANGES = {"minimum": minimum(), "newest": []}
VERSIONS = "import importlib.metadata as m; print(*(m.version(name) for name in ('aws-cdk-lib', 'constructs')))"


@pytest.fixture(scope="module", params=RANGES)
def consumer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    directory = tmp_path_factory.mktemp(request.param)
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    return Consumer.install(directory, wheel, RANGES[request.param])


def test_the_oldest_versions_are_those_that_the_ranges_name() -> None:
    assert minimum(["aws-cdk-lib>=2.1.3,<3", "constructs>=10.5.0,<11"]) == ["aws-cdk-lib==2.1.3", "constructs==10.5.0"]
    assert [name.partition(">=")[0] for name in DEPENDENCIES] == ["aws-cdk-lib", "constructs"]


def test_versions(consumer: Consumer, request: pytest.FixtureRequest) -> None:
    installed = consumer.run(VERSIONS).split()
    oldest = [requirement.partition("==")[2] for requirement in minimum()]
    if request.node.callspec.params["consumer"] == "minimum":
        assert installed == oldest
    else:
        assert [_numbers(version) for version in installed] >= [_numbers(version) for version in oldest]


def test_nothing_of_this_repository_is_in_reach(consumer: Consumer) -> None:
    path = consumer.run("import sys; print(*sys.path, sep='\\n')").splitlines()
    assert [entry for entry in path if Path(entry).is_relative_to(ROOT / "constructs")] == []
    file = consumer.run("import cdk_prefect_ecs; print(cdk_prefect_ecs.__file__)")
    assert Path(file).is_relative_to(consumer.directory / "venv")


def test_nothing_but_the_cdk_comes_with_it(consumer: Consumer) -> None:
    code = "import importlib.metadata as m; print(*sorted(d.metadata['Name'].lower() for d in m.distributions()))"
    installed = consumer.run(code).split()
    assert not {"prefect", "boto3", "cdk-nag", "hypothesis"} & {*installed}
    assert "cdk-prefect-ecs" in installed


@pytest.mark.parametrize("name", sorted(app.stem for app in APPS.glob("*.py")))
def test_apps_make_templates_that_cfn_lint_accepts(consumer: Consumer, name: str) -> None:
    template = consumer.synth(name)
    assert {found["Type"] for found in template["Resources"].values()} >= {
        "Custom::PrefectWorkPool",
        "AWS::ECS::Service",
    }
    matches = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []
    assert str(ROOT) not in json.dumps(template)


def test_every_role_of_the_app_with_a_boundary_has_it(consumer: Consumer) -> None:
    roles = [r["Properties"] for r in consumer.synth("existing")["Resources"].values() if r["Type"] == "AWS::IAM::Role"]
    assert len(roles) >= 2
    for role in roles:
        assert "policy/company-boundary" in json.dumps(role["PermissionsBoundary"])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
