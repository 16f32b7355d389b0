"""What MiniStack's CloudFormation drops from AWS::Lambda::Function: its reserved concurrency."""

from embedded.emulator.cloudformation.handlers import checked, extend
from embedded.emulator.inner import Json, lambda_svc


def install() -> None:
    extend("AWS::Lambda::Function", _reserved_concurrency)


def _reserved_concurrency(name: str, properties: Json) -> Json:
    reserved = properties.get("ReservedConcurrentExecutions")
    if reserved is not None:
        settings = {"ReservedConcurrentExecutions": int(reserved)}
        checked(lambda_svc._put_function_concurrency(name, settings), "PutFunctionConcurrency")
    else:
        checked(lambda_svc._delete_function_concurrency(name), "DeleteFunctionConcurrency")
    return {}
