"""The templates of `make templates`: for people who have neither the CDK nor its bootstrap stack."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs

from tools import templates

ROOT = Path(__file__).parents[3]
NAMES = [shape.name for shape in templates.SHAPES]
#: Rules of cfn-lint that are wrong here, each with the reason.
IGNORED = {"W3005": "DependsOn that a GetAtt implies already: the CDK writes both for a role, which is harmless."}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("templates")
    templates.main(["--out", str(out)])
    return out


@pytest.fixture(scope="module", params=NAMES)
def template(request: pytest.FixtureRequest, written: Path) -> dict[str, Any]:
    return dict(json.loads((written / f"{request.param}.json").read_text()))


def inside(value: Any) -> Iterator[Any]:
    """Everything in a tree."""
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(item)


def properties(template: dict[str, Any], resource_type: str) -> list[dict[str, Any]]:
    return [found["Properties"] for found in template["Resources"].values() if found["Type"] == resource_type]


def resolved(value: Any, parameters: dict[str, str]) -> Any:
    """A piece of a template as CloudFormation resolves its parameters; other references stay."""
    if isinstance(value, list):
        return [resolved(item, parameters) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return parameters.get(value["Ref"], value)
    if set(value) == {"Fn::Sub"}:
        return re.sub(
            r"\$\{(!?)([A-Za-z:]+)\}",
            lambda found: f"${{{found[2]}}}" if found[1] else parameters.get(found[2], found[0]),
            value["Fn::Sub"],
        )
    if set(value) == {"Fn::Join"}:
        separator, items = value["Fn::Join"]
        parts = resolved(items, parameters)
        if all(isinstance(part, str) for part in parts):
            return separator.join(parts)
        return {"Fn::Join": [separator, parts]}
    return {key: resolved(item, parameters) for key, item in value.items()}


def test_files(written: Path) -> None:
    assert {path.name for path in written.glob("*.json")} == {f"{name}.json" for name in NAMES}
    # The code of our functions, and that of the CDK's which closes the default security group of a new VPC.
    assert len(list(written.glob("*.zip"))) == len(list(written.iterdir())) - len(NAMES) == 2


def test_cfn_lint_has_nothing_to_say(template: dict[str, Any]) -> None:
    matches = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1", "eu-central-1"]))
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []


def test_nothing_of_the_cdk_is_left(template: dict[str, Any]) -> None:
    text = json.dumps(template)
    for trace in ("cdk-hnb", "Bootstrap", "aws:cdk:", "CDKMetadata", "stand-in", "subnet-0", "Token["):
        assert trace not in text, trace
    assert str(ROOT) not in text


def test_every_parameter_is_described_and_used(template: dict[str, Any]) -> None:
    parameters = template["Parameters"]
    pieces = list(inside([template["Resources"], template["Outputs"]]))
    referred = {piece["Ref"] for piece in pieces if isinstance(piece, dict) and isinstance(piece.get("Ref"), str)}
    formulas = [piece["Fn::Sub"] for piece in pieces if isinstance(piece, dict) and "Fn::Sub" in piece]
    referred |= {name for formula in formulas for name in re.findall(r"\$\{([A-Za-z]+)\}", formula)}
    assert {*parameters} <= referred
    assert all(len(parameter["Description"]) > 20 for parameter in parameters.values())
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in groups for name in group["Parameters"]]
    assert sorted(shown) == sorted(parameters)


def test_defaults_are_what_their_own_rules_allow(template: dict[str, Any]) -> None:
    for name, parameter in template["Parameters"].items():
        if "Default" in parameter and "AllowedPattern" in parameter:
            assert re.fullmatch(parameter["AllowedPattern"], parameter["Default"]), name
        if "Default" in parameter and "AllowedValues" in parameter:
            assert parameter["Default"] in parameter["AllowedValues"], name


@pytest.mark.parametrize(
    ("name", "taken"),
    [("etl", True), ("etl-2", True), ("prefect-etl", False), ("ETL", False), ("a b", False), ("", False)],
)
def test_work_pool_names(template: dict[str, Any], name: str, taken: bool) -> None:
    assert bool(re.fullmatch(template["Parameters"]["WorkPoolName"]["AllowedPattern"], name)) == taken


GIVEN = {
    "WorkPoolName": "etl",
    "AWS::StackName": "prefect-prod",
    "CredentialName": "/team/key",
    "CodeBucket": "code-bucket",
    "WorkerCount": "2",
    "LogRetentionDays": "90",
    "VpcId": "vpc-1",
    "AssignPublicIp": "ENABLED",
    "Image": "acme/flows:1",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
}


def test_the_work_pool_is_made_of_the_parameters(template: dict[str, Any]) -> None:
    (raw,) = properties(template, "Custom::PrefectWorkPool")
    pool = resolved(raw, GIVEN)
    assert pool["Name"] == "etl"
    assert pool["ResultStorage"]["BlockName"] == "etl-results"
    assert pool["Owner"] == "123456789012/eu-west-1/prefect-prod"
    variables = pool["BaseJobTemplate"]["variables"]["properties"]
    assert variables["image"]["default"] == "acme/flows:1"
    job = pool["BaseJobTemplate"]["job_configuration"]
    assert job["task_definition"]["family"] == "prefect-prod_etl"
    if "VpcId" in template["Parameters"]:
        assert job["vpc_id"] == "vpc-1"


def test_numbers_are_parameters(template: dict[str, Any]) -> None:
    (service,) = properties(template, "AWS::ECS::Service")
    assert resolved(service["DesiredCount"], GIVEN) == "2"
    kept = [resolved(group["RetentionInDays"], GIVEN) for group in properties(template, "AWS::Logs::LogGroup")]
    assert kept == ["90", "90", "90"]


def test_worker_and_flow_runs_have_an_address_where_they_need_one(template: dict[str, Any]) -> None:
    (service,) = properties(template, "AWS::ECS::Service")
    network = resolved(service["NetworkConfiguration"]["AwsvpcConfiguration"], GIVEN)
    expected = "ENABLED"
    if "VpcId" in template["Parameters"]:
        assert network["Subnets"] == {"Ref": "SubnetIds"}
        expected = GIVEN["AssignPublicIp"] if "AssignPublicIp" in template["Parameters"] else "DISABLED"
    (pool,) = properties(template, "Custom::PrefectWorkPool")
    flow_runs = resolved(pool["BaseJobTemplate"]["variables"]["properties"]["network_configuration"]["default"], GIVEN)
    assert network["AssignPublicIp"] == flow_runs["assignPublicIp"] == expected
    assert network["Subnets"] == flow_runs["subnets"]


def test_the_credential_is_read_from_the_parameter_alone(template: dict[str, Any]) -> None:
    arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/team/key"
    read = [
        resolved(statement, GIVEN)
        for policy in properties(template, "AWS::IAM::Policy")
        for statement in policy["PolicyDocument"]["Statement"]
        if "ssm:" in json.dumps(statement)
    ]
    assert len(read) == 3  # the ECS agent, the function of the pool, Lazarus
    assert {statement["Resource"] for statement in read} == {arn}
    (pool,) = properties(template, "Custom::PrefectWorkPool")
    assert resolved(pool["Credential"], GIVEN)["Id"] == "/team/key"
    (definition,) = properties(template, "AWS::ECS::TaskDefinition")
    (secret,) = definition["ContainerDefinitions"][0]["Secrets"]
    assert resolved(secret["ValueFrom"], GIVEN) == arn


def test_the_worker_polls_the_pool_and_finds_no_queue_of_an_observer(template: dict[str, Any]) -> None:
    (definition,) = properties(template, "AWS::ECS::TaskDefinition")
    container = resolved(definition["ContainerDefinitions"][0], GIVEN)
    assert container["Command"][-2:] == ["etl", "--with-healthcheck"]
    variables = {item["Name"]: item["Value"] for item in container["Environment"]}
    queue = variables["PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME"]
    assert queue == "etl-no-observer"
    granted = json.dumps(resolved(properties(template, "AWS::IAM::Policy"), GIVEN))
    assert f":{queue}" in granted


def test_lazarus_guards_the_pool(template: dict[str, Any]) -> None:
    settings = [
        function["Environment"]["Variables"]["POOLS"]
        for function in properties(template, "AWS::Lambda::Function")
        if "POOLS" in function.get("Environment", {}).get("Variables", {})
    ]
    (pools,) = (json.loads(resolved(value, GIVEN)) for value in settings)
    assert pools["etl"]["family"] == "prefect-prod_etl"
    assert pools["etl"]["onDemand"] == "FARGATE"


def test_functions_are_in_the_bucket_of_the_parameter(template: dict[str, Any], written: Path) -> None:
    functions = properties(template, "AWS::Lambda::Function")
    assert len(functions) == (2 if "VpcId" in template["Parameters"] else 3)
    for function in functions:
        assert resolved(function["Code"]["S3Bucket"], GIVEN) == "code-bucket"
        with zipfile.ZipFile(written / function["Code"]["S3Key"]) as archive:
            module = function["Handler"].rpartition(".")[0]
            suffix = ".js" if function["Runtime"].startswith("nodejs") else ".py"
            assert f"{module.replace('.', '/')}{suffix}" in archive.namelist()


def test_functions_are_inside_the_vpc_where_the_server_is(template: dict[str, Any]) -> None:
    ours = [f for f in properties(template, "AWS::Lambda::Function") if f["Runtime"].startswith("python")]
    expected = {"Ref": "SubnetIds"} if "ApiUrl" in template["Parameters"] else None
    assert [f.get("VpcConfig", {}).get("SubnetIds") for f in ours] == [expected, expected]


def test_what_is_existing_is_not_made(template: dict[str, Any]) -> None:
    made = {resource["Type"] for resource in template["Resources"].values()}
    assert ("AWS::EC2::VPC" in made) == ("VpcId" not in template["Parameters"])


def test_bucket_and_log_group_are_retained(template: dict[str, Any]) -> None:
    kept = [resource for resource in template["Resources"].values() if resource.get("DeletionPolicy") == "Retain"]
    assert sorted(resource["Type"] for resource in kept) == ["AWS::Logs::LogGroup", "AWS::S3::Bucket"]
    assert [resource["UpdateReplacePolicy"] for resource in kept] == ["Retain", "Retain"]


def test_written_twice_they_are_the_same_byte_for_byte(written: Path, tmp_path: Path) -> None:
    templates.write(tmp_path)
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_code_is_the_same_on_every_machine(tmp_path: Path) -> None:
    for folder, mode in (("a", 0o600), ("b", 0o777)):
        for name in ("z.py", "sub/a.py"):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("pass\n")
            file.chmod(mode)
    zipped = templates.zipped(tmp_path / "a")
    assert zipped == templates.zipped(tmp_path / "b")
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert archive.namelist() == ["sub/a.py", "z.py"]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_only_looks_like_a_reference_stays_as_it_is() -> None:
    assert templates._without_stand_ins("${HOME} of stand-in-pool") == {"Fn::Sub": "${!HOME} of ${WorkPoolName}"}
    assert templates._without_stand_ins("${HOME}") == "${HOME}"
    assert templates._without_stand_ins("stand-in-pool") == {"Ref": "WorkPoolName"}


def test_old_files_go(tmp_path: Path) -> None:
    (tmp_path / "old.zip").touch()
    (tmp_path / "notes.txt").touch()
    templates.write(tmp_path)
    assert not (tmp_path / "old.zip").exists()
    assert (tmp_path / "notes.txt").exists()
