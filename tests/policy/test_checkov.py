"""checkov: in every template it finds what is listed here, with the reason why it stays, and nothing else."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aws_cdk as cdk
import pytest
from policy_helpers import CONTEXT, EVERY_STACK, synthesised
from test_capacity_template import synthesised as capacity_template
from test_network_policy import Networks, networks  # noqa: F401 - a fixture
from test_server_policy import synthesised_server
from test_worker_host_policy import out  # noqa: F401 - a fixture

from stacks.config import OWN_KEY, GitHubConfig, MonitoringConfig
from stacks.environments import environment
from stacks.stage import PrefectStage
from tools.templates import SHAPES, render

pytestmark = pytest.mark.checkov

CHECKOV = Path(sys.prefix) / "checkov" / "bin" / "checkov"
#: An environment with everything on that a security team asks for.
STRICT = "strict"


@dataclass(frozen=True)
class Skip:
    """A check that some resources do not pass."""

    check: str
    resources: str
    """Logical ids, as a regular expression."""
    reason: str


_SYNC = r"WorkPoolSync\w+"
_OF_THE_CDK = r"Custom(VpcRestrictDefaultSG|S3AutoDeleteObjects)CustomResourceProviderHandler\w+"
_LAZARUS = r"\w*LazarusFunction\w+"

SKIPPED = (
    Skip(
        "CKV_AWS_18",
        r"\w*StorageBucket\w+",
        "Access logs are off outside production; EnvironmentConfig.access_logs or FlowStorage(access_logs=True).",
    ),
    Skip(
        "CKV_AWS_18",
        r"\w*StorageAccessLogs\w+",
        "It is the bucket of the access logs: logging it to itself would log every delivery.",
    ),
    Skip(
        "CKV_AWS_27",
        r"\w*(Queue|DeadLetterQueue)\w+",
        "Encrypted by SQS with keys of its own (SSE-SQS), which checkov ignores; EnvironmentConfig.encryption_key.",
    ),
    Skip(
        "CKV_AWS_88",
        r"\w*LaunchTemplate\w+",
        "Network mode public: an instance without a public address reaches nothing there. Nothing is let in.",
    ),
    Skip(
        "CKV_AWS_111",
        r"(\w*Lazarus|WorkPoolSync[0-9A-F]{8})RoleDefaultPolicy\w+",
        "Of a function in a VPC: the actions with which Lambda manages network interfaces support no resource.",
    ),
    Skip(
        "CKV_AWS_111",
        r"\w*WorkerHostRoleDefaultPolicy\w+",
        "The five actions of Session Manager support no resource that is known before the host runs.",
    ),
    Skip(
        "CKV_AWS_115",
        f"{_SYNC}|{_OF_THE_CDK}",
        "CloudFormation alone invokes it; reserved concurrency is taken from the account's quota, 10 in new accounts.",
    ),
    Skip(
        "CKV_AWS_116",
        f"{_SYNC}|{_OF_THE_CDK}",
        "CloudFormation waits for its answer and fails without one; a queue would keep what nobody waits for any more.",
    ),
    Skip(
        "CKV_AWS_117",
        f"{_SYNC}|{_OF_THE_CDK}|{_LAZARUS}",
        "It calls AWS and, but for a private API, the internet; a VPC would add a NAT gateway and no protection.",
    ),
    Skip(
        "CKV_AWS_118",
        r"ServerDatabaseInstance\w+",
        "CloudWatch has CPU, memory and storage by the minute; more is turned on at ServerDatabase.instance.",
    ),
    Skip("CKV_AWS_149", r"Password\w+", "A secret that the test makes for its own flow runs, not one of the library."),
    Skip(
        "CKV_AWS_149",
        r"ServerAuthString\w+|ServerDatabaseSecret\w+",
        "Encrypted by Secrets Manager with a key of AWS; encryption_key of PrefectServer has one of the account.",
    ),
    Skip(
        "CKV_AWS_157",
        r"ServerDatabaseInstance\w+",
        "One zone by default, as the server is in one at a time; ServerDatabase(multi_az=True) has two.",
    ),
    Skip(
        "CKV_AWS_158",
        r"(\w*LogGroup|Logs)\w+",
        "Encrypted by CloudWatch Logs with a key of its own; EnvironmentConfig.encryption_key has one of the account.",
    ),
    Skip(
        "CKV_AWS_161",
        r"ServerDatabaseInstance\w+",
        "A Prefect server logs in with a password: it makes no tokens of IAM, which are valid for 15 minutes.",
    ),
    Skip(
        "CKV_AWS_173",
        _LAZARUS,
        "Its variables are ids and settings, as in the template; the credential is read from SSM or Secrets Manager.",
    ),
)


@pytest.fixture(scope="module")
def failed(
    networks: Networks,  # noqa: F811
    out: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> frozenset[tuple[str, str, str]]:
    """Check, logical id and template of whatever checkov does not let pass."""
    templates = tmp_path_factory.mktemp("templates")
    for name, stack in EVERY_STACK:
        (templates / f"{name}-{stack}.json").write_text(synthesised(name).template_path(stack).read_text())
    for file in [*networks.out.glob("*.template.json"), *out.glob("*.template.json")]:
        (templates / file.name).write_text(file.read_text())
    (templates / "server.json").write_text((synthesised_server() / "Serving.template.json").read_text())
    (templates / "capacity.json").write_text(capacity_template())
    for stack, text in strict_templates(tmp_path_factory.mktemp("strict")):
        (templates / f"{STRICT}-{stack}.json").write_text(text)
    for shape in SHAPES:
        (templates / f"plain-{shape.name}.json").write_text(json.dumps(render(shape)[0]))
    assert len(list(templates.iterdir())) == len(EVERY_STACK) + 3 + 1 + 1 + 1 + 3 + len(SHAPES)
    return frozenset(run_checkov(templates))


def strict_templates(assembly: Path) -> Iterator[tuple[str, str]]:
    config = dataclasses.replace(
        environment("prod"),
        encryption_key=OWN_KEY,
        access_logs=True,
        monitoring=MonitoringConfig(alarm_email="on-call@example.com"),
        deployed_by=GitHubConfig("acme/etl", "prod", makes_provider=True),
    )
    app = cdk.App(context=CONTEXT, analytics_reporting=False, outdir=str(assembly))
    stage = PrefectStage(app, config.stage_name, config=config)
    app.synth()
    assert stage.delivery is not None
    for stack in (stage.foundation, stage.execution, stage.delivery):
        yield stack.node.id, (assembly / f"assembly-{stage.node.id}" / stack.template_file).read_text()


def run_checkov(templates: Path) -> list[tuple[str, str, str]]:
    """Run checkov on a folder of templates; it may fetch nothing."""
    assert CHECKOV.exists(), f"{CHECKOV} is missing: run `make checkov`"
    nowhere = "http://127.0.0.1:9"
    variables = {key: value for key, value in os.environ.items() if key.upper() not in ("BC_API_KEY", "NO_PROXY")}
    done = subprocess.run(
        [
            *(str(CHECKOV), "--directory", str(templates), "--framework", "cloudformation"),
            *("--skip-download", "--compact", "--quiet", "--output", "json"),
        ],
        env=variables | {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["check_type"] == "cloudformation", done.stderr
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 0
    return [
        (check["check_id"], check["resource"].rpartition(".")[2], Path(check["file_path"]).stem)
        for check in report["results"]["failed_checks"]
    ]


def skipped(check: str, logical_id: str) -> list[Skip]:
    return [skip for skip in SKIPPED if skip.check == check and re.fullmatch(skip.resources, logical_id)]


def test_nothing_is_found_that_is_not_listed(failed: frozenset[tuple[str, str, str]]) -> None:
    unknown = sorted(found for found in failed if not skipped(*found[:2]))
    assert unknown == [], "mend it, or list it with its reason"


def test_everything_listed_is_found_and_says_why(failed: frozenset[tuple[str, str, str]]) -> None:
    met = {skip for check, logical_id, _ in failed for skip in skipped(check, logical_id)}
    assert [skip for skip in SKIPPED if skip not in met] == []
    assert all(re.fullmatch(r"\S+( \S+){4,}\.", skip.reason) for skip in SKIPPED)


def test_a_key_and_access_logs_are_all_it_takes_for_data_at_rest(failed: frozenset[tuple[str, str, str]]) -> None:
    strict = {(check, logical_id) for check, logical_id, template in failed if template.startswith(STRICT)}
    assert {check for check, _ in strict} & {"CKV_AWS_27", "CKV_AWS_158"} == set()
    assert [logical_id for check, logical_id in strict if check == "CKV_AWS_18"] == ["StorageAccessLogs96FB524C"]


def test_a_wrong_template_is_seen(tmp_path: Path) -> None:
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"AccessControl": "PublicRead"}}
    (tmp_path / "wrong.json").write_text(json.dumps({"Resources": {"Open": bucket, "Closed": {**bucket}}}))
    found = run_checkov(tmp_path)
    assert ("CKV_AWS_20", "Open", "wrong") in found
    assert not skipped("CKV_AWS_20", "Open")
