import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect.client.schemas.actions import BlockDocumentCreate, WorkPoolCreate
from pydantic import ValidationError

from cdk_prefect_ecs.names import block_name, check_work_pool_name, task_definition_family

FAMILY = re.compile(r"[A-Za-z0-9_-]{1,255}")
BLOCK = re.compile(r"[a-z0-9-]{1,100}")


@pytest.mark.parametrize("name", ["etl", "ETL nightly", "etl_dev-1.2", "données", "pre", "my-prefect"])
def test_takes_what_prefect_takes(name: str) -> None:
    check_work_pool_name(name)
    assert WorkPoolCreate(name=name, type="ecs").name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "work_pool_name must not be empty; got ''"),
        ("  ", "work_pool_name must not be empty"),
        ("\"' '\"", "work_pool_name must not be empty"),
        (" etl", "must not begin or end with a space; got ' etl'"),
        ("a/b", "'a/b' contains /; Prefect refuses any of / % & > <"),
        ("a<b>", "contains < >"),
        ("prefect-etl", "'prefect-etl' begins with 'prefect', which Prefect reserves"),
        ("Prefect", "begins with 'prefect'"),
        ("${Token[TOKEN.42]}", "work_pool_name must be known at synth"),
    ],
)
def test_refuses_what_prefect_refuses(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_work_pool_name(name)


@pytest.mark.parametrize("character", "/%&><")
def test_banned_characters_are_prefects(character: str) -> None:
    with pytest.raises(ValidationError):
        WorkPoolCreate(name=f"a{character}b", type="ecs")


def test_names_that_are_valid_stay_as_they_are() -> None:
    assert task_definition_family("Prod-Execution", "etl_1") == "Prod-Execution-etl_1"
    assert task_definition_family("Prod-Execution", "etl-1") == "Prod-Execution_etl-1"
    assert block_name("etl-dev") == "etl-dev-results"


def test_names_that_would_collide_do_not() -> None:
    assert task_definition_family("Prod", "etl a") != task_definition_family("Prod", "etl.a")
    assert task_definition_family("Prod-etl", "x") != task_definition_family("Prod", "etl-x")
    assert block_name("ETL") != block_name("etl")
    assert block_name("etl a") != block_name("etl_a")


@pytest.mark.parametrize("name", ["x" * 300, "é" * 300, "-", "données"])
def test_long_and_odd_names(name: str) -> None:
    assert FAMILY.fullmatch(task_definition_family("Stack", name))
    assert BLOCK.fullmatch(block_name(name))


#: Names of stacks; short ones of few letters meet each other often.
STACK_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,127}", fullmatch=True) | st.from_regex(
    r"[ab-]{1,4}", fullmatch=True
)
POOL_NAMES = st.text(min_size=1, max_size=300) | st.from_regex(r"[ab -]{1,4}", fullmatch=True)


@given(st.tuples(STACK_NAMES, POOL_NAMES), st.tuples(STACK_NAMES, POOL_NAMES))
@example(("Prod-etl", "x"), ("Prod", "etl-x"))
def test_a_family_is_valid_and_of_one_pool_of_one_stack(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert FAMILY.fullmatch(task_definition_family(*one))
    assert (task_definition_family(*one) == task_definition_family(*other)) == (one == other)


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_any_names_are_valid_and_apart(one: str, other: str) -> None:
    for make, valid in ((lambda name: task_definition_family("Stack", name), FAMILY), (block_name, BLOCK)):
        assert valid.fullmatch(make(one))
        assert make(one) == make(one)
        assert (make(one) == make(other)) == (one == other)


@pytest.mark.parametrize("pool", ["etl", "ETL nightly", "données", "x" * 300])
def test_prefect_takes_the_block_name(pool: str) -> None:
    document = BlockDocumentCreate(
        name=block_name(pool),
        data={},
        block_schema_id="00000000-0000-0000-0000-000000000001",  # type: ignore[arg-type]
        block_type_id="00000000-0000-0000-0000-000000000002",  # type: ignore[arg-type]
    )
    assert document.name == block_name(pool)
