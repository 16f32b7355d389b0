"""The roles of templates and what they may do, with every reference resolved as CloudFormation would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.permissions.reference import filled_arn

ACCOUNT: Final = "111122223333"
REGION: Final = "us-east-1"

Json = dict[str, Any]

#: What ``Fn::GetAtt`` of ``Arn`` is, by the type of the resource: service and resource type of the reference.
_ARNS: Final = {
    "AWS::CloudWatch::Alarm": ("cloudwatch", "alarm"),
    "AWS::DynamoDB::Table": ("dynamodb", "table"),
    "AWS::ECR::Repository": ("ecr", "repository"),
    "AWS::ECS::CapacityProvider": ("ecs", "capacity-provider"),
    "AWS::ECS::Cluster": ("ecs", "cluster"),
    "AWS::EFS::AccessPoint": ("elasticfilesystem", "access-point"),
    "AWS::EFS::FileSystem": ("elasticfilesystem", "file-system"),
    "AWS::Events::Rule": ("events", "rule-on-default-event-bus"),
    "AWS::IAM::InstanceProfile": ("iam", "instance-profile"),
    "AWS::IAM::OIDCProvider": ("iam", "oidc-provider"),
    "AWS::IAM::Role": ("iam", "role"),
    "AWS::KMS::Key": ("kms", "key"),
    "AWS::Lambda::Function": ("lambda", "function"),
    "AWS::Logs::LogGroup": ("logs", "log-group"),
    "AWS::S3::Bucket": ("s3", "bucket"),
    "AWS::SecretsManager::Secret": ("secretsmanager", "Secret"),
    "AWS::ServiceDiscovery::Service": ("servicediscovery", "service"),
    "AWS::SNS::Topic": ("sns", "topic"),
    "AWS::SQS::Queue": ("sqs", "queue"),
}
#: Resources whose ``Ref`` is their ARN.
_REF_IS_ARN: Final = (
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::OIDCProvider",
    "AWS::SecretsManager::Secret",
    "AWS::SNS::Topic",
)
#: Resources whose ARN, as ``Fn::GetAtt`` gives it, ends so.
_SUFFIXES: Final = {"AWS::Logs::LogGroup": ":*"}
_PSEUDO: Final = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "Stack",
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/Stack/id",
}


@dataclass(frozen=True)
class Statement:
    """A statement of a policy.

    :param source: Where it is: the stack and the logical id.
    :param kind: ``identity`` for what a role may do, ``trust`` for who may take it, ``resource`` for the rest.
    """

    source: str
    kind: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Any]]

    def document(self) -> Json:
        """The statement as JSON of an identity policy."""
        found: Json = {"Effect": self.effect, "Action": list(self.actions), "Resource": list(self.resources)}
        return {**found, "Condition": self.conditions} if self.conditions else found

    @property
    def condition_keys(self) -> set[str]:
        return {key for keys in self.conditions.values() for key in keys}


@dataclass(frozen=True)
class Role:
    """A role with all that it may do by the templates.

    :param stack: The stack that it is in.
    :param logical_id: Its logical id.
    """

    stack: str
    logical_id: str
    arn: str
    description: str
    trusted: tuple[str, ...]
    """The services of AWS and the issuers of tokens that may take it."""
    trust: tuple[Statement, ...]
    """What its trust policy says."""
    managed_policies: tuple[str, ...]
    statements: tuple[Statement, ...]

    @property
    def issuers(self) -> tuple[str, ...]:
        """The issuers whose tokens take it."""
        return tuple(name for name in self.trusted if not name.endswith(".amazonaws.com"))

    @property
    def actions(self) -> set[str]:
        """What it is allowed to do somewhere."""
        return {action for statement in self.statements if statement.effect == "Allow" for action in statement.actions}


@dataclass
class Templates:
    """The templates of an app, by the names of their stacks, together: one refers to another's outputs."""

    by_stack: Mapping[str, Json]
    account: str = ACCOUNT
    region: str = REGION
    _concrete: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def read(cls, assembly: Path) -> Templates:
        """The templates of a cloud assembly, and of those nested in it."""
        found: dict[str, Json] = {}
        for manifest in sorted(assembly.rglob("manifest.json")):
            for name, artifact in json.loads(manifest.read_text()).get("artifacts", {}).items():
                if artifact["type"] == "aws:cloudformation:stack":
                    properties = artifact["properties"]
                    path = manifest.parent / properties["templateFile"]
                    found[properties.get("stackName", name)] = json.loads(path.read_text())
        return cls(found)

    def resources(self, stack: str) -> Json:
        """The resources of a stack, without references."""
        if stack not in self._concrete:
            self._concrete[stack] = {
                logical_id: self.resolve(stack, resource)
                for logical_id, resource in self.by_stack[stack]["Resources"].items()
            }
        return self._concrete[stack]

    def roles(self) -> list[Role]:
        """Every role."""
        return [
            self._role(stack, logical_id, resource)
            for stack in self.by_stack
            for logical_id, resource in self.resources(stack).items()
            if resource["Type"] == "AWS::IAM::Role"
        ]

    def role(self, stack: str, logical_id: str) -> Role:
        """One role."""
        return self._role(stack, logical_id, self.resources(stack)[logical_id])

    def statements(self) -> list[Statement]:
        """Every statement of every policy, whatever it belongs to."""
        return [
            statement
            for stack in self.by_stack
            for logical_id, resource in self.resources(stack).items()
            for kind, document in _documents(resource)
            for statement in _statements(document, f"{stack}.{logical_id}", kind)
        ]

    def _role(self, stack: str, logical_id: str, resource: Json) -> Role:
        properties = resource.get("Properties", {})
        name = properties.get("RoleName", logical_id)
        held = [
            (holder_id, holder)
            for holder_id, holder in self.resources(stack).items()
            if holder["Type"] in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy")
            and name in holder["Properties"].get("Roles", ())
        ]
        return Role(
            stack=stack,
            logical_id=logical_id,
            arn=f"arn:aws:iam::{self.account}:role{properties.get('Path', '/')}{name}",
            description=properties.get("Description", ""),
            trusted=tuple(
                sorted(
                    str(name).rpartition(":oidc-provider/")[2]
                    for statement in properties["AssumeRolePolicyDocument"]["Statement"]
                    for kind in ("Service", "Federated")
                    for name in _listed(statement["Principal"].get(kind, ()))
                )
            ),
            trust=tuple(_statements(properties["AssumeRolePolicyDocument"], f"{stack}.{logical_id}", "trust")),
            managed_policies=tuple(properties.get("ManagedPolicyArns", ())),
            statements=tuple(
                statement
                for source, owner in [(logical_id, resource), *held]
                for kind, document in _documents(owner)
                if kind == "identity"
                for statement in _statements(document, f"{stack}.{source}", kind)
            ),
        )

    def resolve(self, stack: str, value: Any) -> Any:
        """A piece of a stack's template without references: a logical id stands for the id that AWS would give."""
        if isinstance(value, list):
            return [self.resolve(stack, item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument) = next(iter(value.items()))
            if name == "Ref":
                return self._ref(stack, argument)
            if name == "Fn::GetAtt":
                return self._attribute(stack, *argument)
            if name == "Fn::Join":
                return argument[0].join(str(self.resolve(stack, item)) for item in argument[1])
            if name == "Fn::Sub" and isinstance(argument, str):
                return re.sub(r"\$\{([^}!]+)\}", lambda found: self._ref(stack, found.group(1)), argument)
            if name == "Fn::GetStackOutput":
                output = self.by_stack[argument["StackName"]]["Outputs"][argument["OutputName"]]
                return self.resolve(argument["StackName"], output["Value"])
            if name == "Fn::Split":
                return str(self.resolve(stack, argument[1])).split(argument[0])
            if name == "Fn::Select":
                chosen = self.resolve(stack, argument[1])
                return chosen[int(argument[0])] if isinstance(chosen, list) else f"{chosen}-{argument[0]}"
            if name == "Fn::Base64":
                return self.resolve(stack, argument)
            if name.startswith("Fn::"):
                return f"{name.removeprefix('Fn::')}-of-{stack}"
        return {key: self.resolve(stack, item) for key, item in value.items()}

    def _type(self, stack: str, logical_id: str) -> str:
        return str(self.by_stack[stack]["Resources"].get(logical_id, {}).get("Type", "Parameter"))

    def _ref(self, stack: str, name: str) -> str:
        if name in _PSEUDO:
            return {**_PSEUDO, "AWS::AccountId": self.account, "AWS::Region": self.region}[name]
        return self._attribute(stack, name, "Arn") if self._type(stack, name) in _REF_IS_ARN else name

    def _attribute(self, stack: str, name: str, attribute: str) -> str:
        """An attribute: the ARN of what the logical id stands for, or the id itself, also for every other attribute."""
        kind = self._type(stack, name)
        if not attribute.endswith("Arn"):
            return name
        if kind not in _ARNS:
            raise ValueError(f"the ARN of a {kind} ({stack}.{name}) is not known; say in policies.py what it is like")
        service, resource_type = _ARNS[kind]
        properties = self.by_stack[stack]["Resources"][name].get("Properties", {})
        if kind == "AWS::IAM::OIDCProvider":
            name = str(properties["Url"]).removeprefix("https://")
        path = properties.get("Path", "/").lstrip("/")
        arn = filled_arn(service, resource_type, name=f"{path}{name}", account=self.account, region=self.region)
        return arn + _SUFFIXES.get(kind, "")


def _documents(resource: Json) -> Iterator[tuple[str, Json]]:
    """The policies anywhere in a resource, with their kind."""
    identity = resource["Type"].startswith("AWS::IAM::")

    def look(value: Any, key: str) -> Iterator[tuple[str, Json]]:
        if isinstance(value, str) and value.startswith("{") and '"Statement"' in value:
            value = json.loads(value)
        if isinstance(value, list):
            for item in value:
                yield from look(item, key)
        elif isinstance(value, dict):
            if isinstance(value.get("Statement"), list):
                trust = key == "AssumeRolePolicyDocument"
                yield ("trust" if trust else "identity" if identity else "resource"), value
            else:
                for inner, item in value.items():
                    yield from look(item, inner)

    yield from look(resource.get("Properties", {}), "")


def _statements(document: Json, source: str, kind: str) -> Iterator[Statement]:
    for statement in document["Statement"]:
        yield Statement(
            source=source,
            kind=kind,
            effect=statement["Effect"],
            actions=tuple(_listed(statement["Action"])),
            resources=tuple(_listed(statement.get("Resource", ()))),
            conditions=statement.get("Condition", {}),
        )


def _listed(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
