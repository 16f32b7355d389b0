"""cfn-lint: no errors and no warnings in any template."""

import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from policy_helpers import EVERY_STACK, synthesised

from stacks.environments import environment

#: Rules that are wrong for us, each with the reason.
IGNORED = {
    "W3005": "DependsOn that a GetAtt implies already: the CDK writes both for a role, which is harmless.",
}


@pytest.mark.parametrize(("name", "stack"), EVERY_STACK)
def test_template_is_right(name: str, stack: str) -> None:
    template = synthesised(name).template_path(stack).read_text()
    matches = lint(template, config=ManualArgs(regions=[environment(name).region]))
    said = [str(match) for match in matches if match.rule.id not in IGNORED]
    assert said == []


def test_every_ignored_rule_is_met() -> None:
    met = {
        match.rule.id
        for name, stack in EVERY_STACK[:2]
        for match in lint(
            synthesised(name).template_path(stack).read_text(), config=ManualArgs(regions=[environment(name).region])
        )
    }
    assert set(IGNORED) <= met
    assert all(reason.endswith(".") for reason in IGNORED.values())


def test_a_wrong_template_is_seen() -> None:
    wrong = '{"Resources": {"Group": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 8}}}}'
    assert [match.rule.id for match in lint(wrong, config=ManualArgs(regions=["us-east-1"]))] == ["E3030"]
