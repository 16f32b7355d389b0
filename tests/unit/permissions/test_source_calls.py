"""AWS calls are found in source, however they are written; what cannot be read is an error."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tools.permissions.source_calls import Module, UnreadableSourceError, find_module, modules, source_calls

Calls = Callable[..., set[str]]


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """The calls of some source, as ``service:method function``."""

    def found(text: str, **options: object) -> set[str]:
        path = tmp_path / "module.py"
        path.write_text(dedent(text))
        made = source_calls([Module("module", path)], **options)  # type: ignore[arg-type]
        return {f"{call.service}:{call.method} {call.function}".rstrip() for call in made}

    return found


def test_a_call_of_a_client(calls: Calls) -> None:
    text = """
        import boto3

        def stop(arn):
            boto3.client("ecs").stop_task(task=arn)
    """
    assert calls(text) == {"ecs:stop_task stop"}


def test_clients_of_aiobotocore_and_of_sessions(calls: Calls) -> None:
    text = """
        async def look():
            async with get_session().create_client("sqs", region_name=None) as queue:
                await queue.get_queue_url(QueueName="q")
            session.client(service_name="logs").get_log_events()
    """
    assert calls(text) == {"sqs:get_queue_url look", "logs:get_log_events look"}


def test_an_operation_that_is_handed_on_counts(calls: Calls) -> None:
    text = """
        class Worker:
            def run(self, request):
                client = run_in_thread(self.credentials.client, "ecs")
                return run_in_thread(client.run_task, **request)
    """
    assert calls(text) == {"ecs:run_task Worker.run"}


def test_paginators_and_waiters_stand_for_what_they_call(calls: Calls) -> None:
    text = """
        ecs = boto3.client("ecs")

        def pages():
            yield from ecs.get_paginator("list_tasks").paginate()
            ecs.get_waiter("tasks_stopped").wait()
    """
    assert calls(text) == {"ecs:list_tasks pages", "ecs:describe_tasks pages"}


def test_a_function_that_makes_clients_of_any_service(calls: Calls) -> None:
    text = """
        def aws_client(region, service):
            return boto3.client(cast(Any, service), region_name=region)

        def cached(service):
            return aws_client("us-east-1", service=service)

        def read():
            cached("ssm").get_parameter(Name="n")
    """
    assert calls(text) == {"ssm:get_parameter read"}


def test_a_service_that_is_a_member_of_an_enumeration(calls: Calls) -> None:
    text = """
        class ClientType(Enum):
            S3 = "s3"

        def get():
            return session.client(ClientType.S3).get_object(Key="k")
    """
    assert calls(text) == {"s3:get_object get"}


def test_transfers_of_s3_are_calls(calls: Calls) -> None:
    assert calls("boto3.client('s3').upload_file('a', 'b', 'c')") == {"s3:upload_file"}


def test_only_operations_of_services_with_a_client_count(calls: Calls) -> None:
    text = """
        boto3.client("logs").put_log_events()
        api.delete_tags()
        engine.run_task()
    """
    assert calls(text) == {"logs:put_log_events"}


def test_a_function_inside_a_function_belongs_to_the_outer_one(calls: Calls) -> None:
    text = """
        def outer():
            def ack():
                boto3.client("sqs").delete_message()
    """
    assert calls(text) == {"sqs:delete_message outer"}


REACHING = """
    class Bucket:
        def read(self):
            return self._get()

        def _get(self):
            return self._client().get_object()

        def delete(self):
            return self._client().delete_object()

        def _client(self):
            return boto3.client("s3")
"""


def test_from_an_entry_only_what_it_may_reach_counts(calls: Calls) -> None:
    assert calls(REACHING, entries=["read"]) == {"s3:get_object Bucket._get"}
    assert calls(REACHING) == {"s3:get_object Bucket._get", "s3:delete_object Bucket.delete"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boto3.client(config.service).run()", "service that cannot be read: config.service"),
        ("boto3.client(**settings).run()", "service that cannot be read: boto3.client(**settings)"),
        ("boto3.client('ecs').get_paginator(name)", "cannot be read: boto3.client('ecs').get_paginator(name)"),
        ("boto3.client('ecs').get_waiter('rain')", "no service has it"),
        ("boto3.client('ecs'); boto3.client('sns').tag_resource()", "tag_resource may be of ecs or sns"),
        ("boto3.resource('s3').Bucket('b').delete()", "a resource of boto3"),
        ("boto3.client('teapot')", "no service that botocore knows"),
    ],
)
def test_what_cannot_be_read_is_an_error(calls: Calls, text: str, message: str) -> None:
    with pytest.raises((UnreadableSourceError, ValueError)) as error:
        calls(text)
    assert message in str(error.value)


def test_an_entry_that_is_not_there_is_an_error(calls: Calls) -> None:
    with pytest.raises(UnreadableSourceError, match="no function read_path in module"):
        calls(REACHING, entries=["read_path"])


def test_modules_are_found_without_running_them() -> None:
    found = find_module("prefect_aws.workers.ecs_worker")
    assert found is not None
    assert found.path.name == "ecs_worker.py"
    assert find_module("prefect_aws.workers").path.name == "__init__.py"  # type: ignore[union-attr]
    assert find_module("prefect_aws.nothing") is None
    assert find_module("no_such_package.at_all") is None


def test_imports_are_followed_within_a_package() -> None:
    package = "cdk_prefect_ecs.functions"
    names = {module.name.removeprefix(f"{package}.") for module in modules([f"{package}.lazarus"], within=[package])}
    assert {"lazarus", "lazarus_world", "lazarus_rules", "credential", "prefect_api"} <= names
    assert "work_pool_sync" not in names
    assert [module.name for module in modules([f"{package}.lazarus"], within=())] == [f"{package}.lazarus"]


def test_a_source_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UnreadableSourceError, match=r"no module prefect_aws\.gone"):
        modules(["prefect_aws.gone"], within=())
