import json
import re

import pytest

from cdk_prefect_ecs.dashboard import GuardView, PoolView, View
from cdk_prefect_ecs.functions.lazarus_metrics import GIVEN_UP, RESCHEDULED, intervention
from cdk_prefect_ecs.runbook import ADVICE

GUARD = GuardView("lazarus", "events", ["dead-events", "dead-calls"], "/lazarus")
SPOT = PoolView("etl", guarded=True, uses_spot=True, service=("cluster", "worker"))
ON_DEMAND = PoolView("ml", guarded=True, uses_spot=False, group="host")
UNGUARDED = PoolView("own", guarded=False, uses_spot=True, service=("cluster", "own"))


def view(*pools: PoolView, guard: GuardView | None = GUARD, **more: object) -> View:
    return View("Prefect", "us-east-1", "/logs", guard=guard, pools=list(pools), **more)  # type: ignore[arg-type]


def graphs(shown: View) -> dict[str, list[list[object]]]:
    """Metrics by the titles of their graphs."""
    widgets = shown.body()["widgets"]
    return {w["properties"]["title"]: w["properties"]["metrics"] for w in widgets if w["type"] == "metric"}


@pytest.mark.parametrize("pools", [(), (SPOT,), (SPOT, ON_DEMAND, UNGUARDED)])
@pytest.mark.parametrize("alarms", [0, 1, 90])
def test_widgets_fill_their_rows_and_never_overlap(pools: tuple[PoolView, ...], alarms: int) -> None:
    widgets = view(*pools, alarms=["arn"] * alarms, named=list(ADVICE)).body()["widgets"]
    taken = set()
    for widget in widgets:
        assert widget["height"] >= 1
        assert widget["width"] >= 6
        places = {
            (x, y)
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        }
        assert not places & taken
        taken |= places
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


def test_a_pool_on_spot() -> None:
    shown = graphs(view(SPOT))
    assert list(shown) == [
        "Flow runs that lost their task",
        "Seconds that runs wait",
        "Tasks of flow runs, by capacity",
        "Workers",
        "Lazarus: invocations",
        "Lazarus: milliseconds (its time-out is a minute)",
        "Task events that wait, and dead letters",
    ]
    spot, on_demand, (share,) = shown["Tasks of flow runs, by capacity"]
    assert (spot[:4], on_demand[:4]) == (
        ["PrefectOnEcs", "TasksOnSpot", "WorkPool", "etl"],
        ["PrefectOnEcs", "TasksOnDemand", "WorkPool", "etl"],
    )
    assert share == {"expression": "100 * m1 / (m1 + m2)", "label": "% on Spot", "yAxis": "right", "color": "#1f77b4"}
    online, running, *_ = shown["Workers"]
    assert online[:4] == ["PrefectOnEcs", "WorkersOnline", "WorkPool", "etl"]
    assert running[:6] == ["AWS/ECS", "CPUUtilization", "ClusterName", "cluster", "ServiceName", "worker"]
    assert running[-1] == {"label": "running in ECS", "stat": "SampleCount", "color": "#1f77b4"}


def test_a_pool_on_demand_with_a_host() -> None:
    shown = graphs(view(ON_DEMAND))
    assert [metric[1] for metric in shown["Tasks of flow runs, by capacity"]] == ["TasksOnDemand"]
    assert [metric[:4] for metric in shown["Workers"]] == [
        ["PrefectOnEcs", "WorkersOnline", "WorkPool", "ml"],
        ["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", "host"],
    ]


def test_a_pool_without_a_lazarus_shows_its_worker() -> None:
    shown = graphs(view(UNGUARDED, guard=None))
    assert list(shown) == ["Workers"]
    assert {metric[0] for metric in shown["Workers"]} == {"AWS/ECS"}


def test_text_on_top_explains_the_alarms_that_there_are_and_leads_to_the_runbook() -> None:
    (text, *_) = view(named=["GivenUp"], runbook="https://wiki.example.com/p").body()["widgets"]
    markdown = text["properties"]["markdown"]
    assert f"| [GivenUp](https://wiki.example.com/p#givenup) | {ADVICE['GivenUp'].means} |" in markdown
    assert "NoWorker" not in markdown
    (text, *_) = view(named=["GivenUp"]).body()["widgets"]
    assert "| GivenUp |" in text["properties"]["markdown"]  # a path of this repository leads nowhere in a console


@pytest.mark.parametrize(("number", "what"), [(0, GIVEN_UP), (1, RESCHEDULED)])
def test_tables_name_the_fields_that_lazarus_logs(number: int, what: str) -> None:
    line = json.loads(intervention(what, work_pool="etl", run_id="0-1", run_name="merry otter", why='it\'s "gone"'))
    tables = [each["properties"] for each in view(SPOT).body()["widgets"] if each["type"] == "log"]
    query = tables[number]["query"]
    assert query == (
        "SOURCE '/lazarus' | fields @timestamp, workPool, flowRun, why, flowRunId "
        f'| filter intervention = "{what}" | sort @timestamp desc | limit 20'
    )
    named = re.search(r"fields @timestamp, ([^|]+) \|", query)
    assert named is not None
    assert {*named[1].split(", "), "intervention"} == set(line)
    assert line["intervention"] == what
