"""The examples in docs/capacity.md are code: they run, in one stack, in their order."""

import re
from pathlib import Path
from typing import Any

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk.assertions import Template
from library_helpers import cloud_api, imported_vpc, new_stack

import cdk_prefect_ecs
from cdk_prefect_ecs.fargate import MAX_EPHEMERAL_STORAGE_GIB, MIN_EPHEMERAL_STORAGE_GIB
from cdk_prefect_ecs.instance_types import MIN_INSTANCE_CPU, MIN_INSTANCE_MEMORY_MIB

TEXT = (Path(__file__).parents[3] / "docs" / "capacity.md").read_text()


def test_the_examples_run() -> None:
    stack = new_stack()
    names: dict[str, Any] = {name: getattr(cdk_prefect_ecs, name) for name in cdk_prefect_ecs.__all__}
    existing = ecs.Cluster.from_cluster_attributes(stack, "Existing", cluster_name="c", vpc=imported_vpc(stack))
    names |= {"ec2": ec2, "stack": stack, "api": cloud_api(), "existing": existing}
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/capacity.md", "exec"), names)  # noqa: S102 - our own examples
    pools = Template.from_stack(stack).find_resources("Custom::PrefectWorkPool").values()
    assert [pool["Properties"]["Name"] for pool in pools] == ["etl", "gpu", "nightly"]
    assert names["gpu"].capacity_providers == ("gpu", "gpu-spot")


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"`flow_storage_gib`, {MIN_EPHEMERAL_STORAGE_GIB} to {MAX_EPHEMERAL_STORAGE_GIB};" in TEXT
    assert f"{MIN_INSTANCE_CPU} CPU units and {MIN_INSTANCE_MEMORY_MIB} MiB" in TEXT


def test_what_it_names_exists() -> None:
    layer, cluster = cdk_prefect_ecs.PrefectExecutionLayer, cdk_prefect_ecs.FlowCluster
    for name in re.findall(r"`cluster\.(\w+)`", TEXT):
        assert hasattr(cluster, name) or name in cluster.__annotations__, name
    for name in ("flow_storage_gib", "flow_volumes", "flow_secrets", "flow_tags", "worker_max_count"):
        assert f"`{name}" in TEXT
        assert name in layer.add_work_pool.__annotations__
