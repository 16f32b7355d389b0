"""AWS::SecretsManager::Secret whose Ref is the ARN, as on AWS; MiniStack's is the name.

CDK writes ``{"Ref": secret}`` wherever it means the ARN: in ``valueFrom`` of containers and in policies. For a secret
with nothing but defaults it writes ``GenerateSecretString: {}``, which MiniStack takes for none: the secret is empty.
"""

from collections.abc import Callable
from typing import Any

from embedded.emulator.cloudformation.handlers import Created
from embedded.emulator.inner import Json, provisioners, secretsmanager


def install() -> None:
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"]
    handlers.update(
        create=_by_arn(handlers["create"]), update=_updated(handlers["update"]), delete=_deleted(handlers["delete"])
    )


def _by_arn(create: Callable[..., Any]) -> Callable[..., Created]:
    def created(logical_id: str, properties: Json, stack_name: str) -> Created:
        if properties.get("GenerateSecretString") == {}:
            properties = {**properties, "GenerateSecretString": {"PasswordLength": 32}}
        _, attributes = create(logical_id, properties, stack_name)
        return str(attributes["Arn"]), attributes

    return created


def _updated(update: Callable[..., Any]) -> Callable[..., Created]:
    def updated(physical_id: str, *args: Any) -> Created:
        _, attributes = update(_name(physical_id), *args)
        return str(attributes["Arn"]), attributes

    return updated


def _deleted(delete: Callable[..., Any]) -> Callable[[str, Json], None]:
    def deleted(physical_id: str, properties: Json) -> None:
        delete(_name(physical_id), properties)

    return deleted


def _name(physical_id: str) -> str:
    name, _ = secretsmanager._resolve(physical_id, use_arn_scope=True)
    return str(name or physical_id)
