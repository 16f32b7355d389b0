"""What this package relies on in MiniStack, so that an upgrade fails with a list and not with a riddle.

Names with an underscore are MiniStack's own business. Each is listed with the parameters that we pass, or with ``None``
where it is data.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Mapping

VERSION = "1.5.33"

PROMISES: Mapping[str, tuple[str, ...] | None] = {
    # What we call
    "core.concurrency.run_reentrant": ("fn", "thread_name"),
    "core.iam_actions.access_denied_response": (
        "service", "action", "principal_arn", "request_id", "error_code", "message", "headers", "resource_arn",
        "explicit_deny", "resource_policy_arn",
    ),
    "core.iam_actions.extract_iam_action": ("service", "method", "path", "headers", "body", "query_params"),
    "core.iam_actions.extract_resource_arn": (
        "service", "method", "path", "headers", "body", "query_params", "account_id", "region",
    ),
    "core.iam_actions.identity_denial_message": ("action", "principal_arn", "resource", "explicit_deny"),
    "core.iam_actions.request_tag_context": ("service", "iam_action", "body", "params"),
    "core.iam_evaluator.AuthError": ("code", "message"),
    "core.iam_evaluator.EvalContext": (
        "principal_arn", "principal_type", "principal_account", "action", "resource_arn", "region",
        "secure_transport", "service_context", "principal_keys",
    ),
    "core.iam_evaluator.EvalResult": ("decision", "principal_arn"),
    "core.iam_evaluator._resource_policy": ("service", "resource_arn"),
    "core.iam_evaluator.combine_resource_policy": ("identity", "ctx", "policy", "owner_account", "required", "limits"),
    "core.iam_evaluator.enforce": (
        "access_key_id", "iam_action", "service", "region", "resource_arn", "service_context",
    ),
    "core.iam_evaluator.evaluate": ("ctx", "policies", "limits"),
    "core.iam_evaluator.evaluate_trust_policy": ("trust_doc", "caller_arn", "ctx"),
    "core.iam_evaluator.pin_request_origin": ("source_ip", "secure_transport"),
    "core.iam_evaluator.resolve_principal": ("access_key_id", "account_id"),
    "core.responses.error_response_json": ("code", "message", "status"),
    "core.responses.get_account_id": (),
    "core.responses.get_region": (),
    "core.responses.json_response": ("data",),
    "core.responses.now_iso": (),
    "core.responses.request_scope": ("account_id", "region"),
    "core.router.extract_access_key_id": ("headers", "query_params"),
    "services.cloudwatch._dims_key": ("dims",),
    "services.cloudwatch._dispatch_alarm_actions": ("alarm", "old_state", "new_state", "reason"),
    "services.cloudwatch._evaluate_parent_alarms": ("child", "seen"),
    "services.cloudwatch._record_history": ("alarm_name", "old_state", "new_state", "reason"),
    "services.cloudwatch._store_datum": (
        "namespace", "name", "dims", "ts", "unit", "value", "values", "counts", "stat_values",
    ),
    "services.cloudwatch.record_metric": ("namespace", "metric_name", "value", "unit", "dimensions"),
    "services.cloudwatch_logs._create_log_group": ("data",),
    "services.cloudwatch_logs._create_log_stream": ("data",),
    "services.cloudwatch_logs._put_log_events": ("data",),
    "services.ec2._allocate_address": ("p",),
    "services.ec2._create_flow_logs": ("params",),
    "services.ec2._create_nat_gateway": ("params",),
    "services.ec2._create_network_interface": ("p",),
    "services.ec2._delete_flow_logs": ("params",),
    "services.ec2._delete_nat_gateway": ("params",),
    "services.ec2._delete_network_interface": ("p",),
    "services.ec2._release_address": ("p",),
    "services.ecr._find_image": ("repo_name", "image_id"),
    "services.ecs._bump_task_version": ("task",),
    "services.ecs._create_capacity_provider": ("data",),
    "services.ecs._create_service": ("data",),
    "services.ecs._delete_service": ("data",),
    "services.ecs._finalize_ecs_response": ("response",),
    "services.ecs._put_cluster_capacity_providers": ("data",),
    "services.ecs._recount_cluster": ("cluster_name",),
    "services.ecs._refresh_service_state": ("cluster_name", "group"),
    "services.ecs._register_task_definition": ("data",),
    "services.ecs._resolve_cluster_name": ("ref",),
    "services.ecs._resolve_task": ("ref", "cluster_name"),
    "services.ecs._resolve_td_key": ("ref",),
    "services.ecs._sanitize": ("obj",),
    "services.ecs._update_capacity_provider": ("data",),
    "services.ecs._ts_to_epoch": ("value",),
    "services.ecs._update_service": ("data",),
    "services.ecs.handle_request": ("method", "path", "headers", "body", "query_params"),
    "services.eventbridge._put_events": ("data", "allow_aws_source"),
    "services.iam._make_aws_managed_record": ("name", "document"),
    "services.kms._resolve_key": ("key_id_or_arn",),
    "services.lambda_svc._delete_function_concurrency": ("func_name",),
    "services.lambda_svc._put_function_concurrency": ("func_name", "data"),
    "services.iam._put_role_permissions_boundary": ("p",),
    "services.rds._pg_server_material": ("names", "ips"),
    "services.rds.pg_ca_cert_pem": (),
    "services.s3._delete_bucket_encryption": ("name",),
    "services.s3._put_bucket_encryption": ("name", "body"),
    "services.s3._put_bucket_lifecycle": ("name", "body"),
    "services.s3._put_bucket_logging": ("name", "body"),
    "services.secretsmanager._resolve": ("secret_id", "use_arn_scope"),
    "services.secretsmanager.resolve_secret_string": ("secret_id", "version_stage", "version_id"),
    "services.servicediscovery._deregister_instance": ("data",),
    "services.servicediscovery._register_instance": ("data",),
    "services.ssm._lookup_parameter": ("name_or_arn", "allow_arn_region", "flexible_name"),
    "services.ssm.resolve_parameter_value": ("name_or_arn", "decrypt"),
    "services.sts.handle_request": ("method", "path", "headers", "body", "query_params"),
    "services.sts.register_session": ("access_key", "session"),
    "services.cloudformation.provisioners._ec2_sg_permissions": ("rules",),
    # What we replace: MiniStack looks these up by name when it calls them
    "app.pin_request_origin": ("source_ip", "secure_transport"),
    "app.SERVICE_HANDLERS": None,
    "services.cloudwatch._evaluate_alarm": ("alarm",),
    "services.cloudwatch_logs._append_log_events": ("stream", "events"),
    "services.cloudwatch_logs._filter_log_events": ("data",),
    "services.ec2._eni_fields_xml": ("eni", "tag"),
    "services.ec2._matches_vpc_filters": ("vpc", "filters"),
    "services.ecr._describe_images": ("data",),
    "services.lambda_svc._acquire_execution_slot": ("func", "config"),
    "services.lambda_svc._emit_lambda_metrics": ("function_name", "duration_ms", "error", "throttle"),
    "services.lambda_svc._execute_function": ("func", "event"),
    "services.lambda_svc._execute_function_dispatch": ("func", "config", "event", "request_id", "started"),
    "services.lambda_svc._run_sqs_batch": ("esm", "func_rec", "event", "batch", "queue_url", "queue_name"),
    "services.cloudformation.provisioners._RESOURCE_HANDLERS": None,
    "services.cloudformation.provisioners._ecs_task_def_create": ("logical_id", "props", "stack_name"),
    "services.cloudformation.stacks._runs_on_worker_thread": ("resource_type",),
    "services.ecs._get_docker": (),
    "services.ecs._reconcile_service_tasks": ("cluster_name", "svc_key"),
    "services.ecs._run_task": ("data",),
    "services.ecs._stop_task": ("data",),
    # What we read and write
    "app.AUTH": None,
    "app.app": ("scope", "receive", "send"),
    "services.autoscaling._asgs": None,
    "services.cloudwatch._alarms": None,
    "services.cloudwatch._metrics": None,
    "services.cloudwatch_logs._log_groups": None,
    "services.ec2._addresses": None,
    "services.ec2._network_interfaces": None,
    "services.ec2._security_groups": None,
    "services.ecr._repositories": None,
    "services.ecs._capacity_providers": None,
    "services.ecs._clusters": None,
    "services.ecs._services": None,
    "services.ecs._tags": None,
    "services.ecs._task_defs": None,
    "services.ecs._tasks": None,
    "services.iam._aws_managed_policies": None,
    "services.iam._oidc_providers": None,
    "services.iam._roles": None,
    "services.rds._instances": None,
    "services.s3._bucket_lifecycle": None,
    "services.s3._bucket_tags": None,
    "services.sqs._queues": None,
    "services.servicediscovery._namespaces": None,
    "services.servicediscovery._services": None,
}  # fmt: skip


def broken() -> list[str]:
    """One line for every promise that the installed MiniStack does not keep."""
    installed = importlib.metadata.version("ministack")
    problems = [] if installed == VERSION else [f"version is {installed}, not {VERSION}"]
    for path, parameters in PROMISES.items():
        module_name, _, name = path.rpartition(".")
        module = importlib.import_module(f"ministack.{module_name}")
        if not hasattr(module, name):
            problems.append(f"{path} is gone")
        elif parameters is not None:
            problems += _signature_problems(path, getattr(module, name), parameters)
    return problems


def _signature_problems(path: str, function: object, expected: tuple[str, ...]) -> list[str]:
    if not callable(function):
        return [f"{path} cannot be called any more"]
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return []
    missing = [name for name in expected if name not in parameters]
    unknown = [
        name
        for name, p in parameters.items()
        if name not in expected and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return [f"{path} has no parameter {name}" for name in missing] + [
        f"{path} now also needs {name}" for name in unknown
    ]
