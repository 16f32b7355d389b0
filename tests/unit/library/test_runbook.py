"""The runbook: its rules, and docs/monitoring.md, which has to know every alarm and metric that there is."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import aws_cdk as cdk
import pytest
from library_helpers import cloud_api, new_stack

import cdk_prefect_ecs
from cdk_prefect_ecs import PrefectExecutionLayer
from cdk_prefect_ecs.functions.lazarus_metrics import DIMENSION, NAMESPACE, Counts, Observation
from cdk_prefect_ecs.runbook import ADVICE, check_email, check_monitoring_settings, described

TEXT = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text()
MANUAL, RUNBOOK = TEXT.split("\n# Runbook\n")
SECTIONS = {
    part.partition("\n")[0]: " ".join(part.partition("\n")[2].split())
    for part in re.split(r"^## ", RUNBOOK, flags=re.M)[1:]
}


def test_every_alarm_has_its_section_in_the_order_of_urgency_and_no_other() -> None:
    assert list(SECTIONS) == list(ADVICE)


@pytest.mark.parametrize("alarm", ADVICE)
def test_section_begins_with_what_the_alarm_means_and_says_what_to_do(alarm: str) -> None:
    section = SECTIONS[alarm]
    assert section.startswith((f"{ADVICE[alarm].means}.", f"{ADVICE[alarm].means},"))
    assert re.search(r"\bLook at: ", section)
    assert re.search(r"\bDo\b[^.]*: ", section)


@pytest.mark.parametrize("alarm", ADVICE)
def test_description_of_an_alarm(alarm: str) -> None:
    text = described(alarm, subject="Work pool etl", url="https://wiki.example.com/prefect")
    assert text.startswith(f"Work pool etl: {ADVICE[alarm].means}. {ADVICE[alarm].do}. ")
    assert text.endswith(f" https://wiki.example.com/prefect#{alarm.lower()}")
    assert len(text) <= 1024  # what CloudWatch takes


def test_metrics_in_the_document_are_those_that_lazarus_writes() -> None:
    counts = Counts(seconds_to_reschedule=[1.0], observation=Observation(1, 0.0, 2, 3))
    written = json.loads(counts.embedded_metrics("etl", datetime.now(UTC)))
    (definition,) = written["_aws"]["CloudWatchMetrics"]
    table = MANUAL.partition("| metric |")[2].partition("\n\n")[0]
    listed = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1:2][0] if "|" in line else "")
    }
    assert listed == {metric["Name"] for metric in definition["Metrics"]}
    assert f"`{NAMESPACE}`, by `{DIMENSION}`" in MANUAL
    assert len(listed) == 10  # the prices say so


def test_example_runs() -> None:
    stack = new_stack()
    names = {name: getattr(cdk_prefect_ecs, name) for name in cdk_prefect_ecs.__all__}
    names |= {"stack": stack, "layer": PrefectExecutionLayer(stack, "Prefect", work_pool_name="etl", api=cloud_api())}
    example = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)[0]
    exec(compile(example, "docs/monitoring.md", "exec"), names)  # noqa: S102 - our own example
    assert len(names["monitoring"].alarms) == 2 * 4 + 5
    assert cdk.Stack.of(names["monitoring"]) is stack


@pytest.mark.parametrize("address", ["on-call@example.com", "a.b+c@mail.example.co.uk"])
def test_addresses(address: str) -> None:
    check_email(address)


@pytest.mark.parametrize("address", ["", "on-call", "@example.com", "a@b", "a@b.c@d.e", "a b@example.com", "a\n@b.c"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"must be an address such as on-call@example\.com"):
        check_email(address)


def test_all_at_their_limits() -> None:
    check_monitoring_settings(None, has_topic=True, has_key=False, leave_out=ADVICE, shortage=1, wait_seconds=60)
