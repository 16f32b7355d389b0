"""Types that only need to exist: recorded, given back by Ref and Fn::GetAtt, deleted again. Nothing acts on them."""

import uuid

from embedded.emulator.cloudformation.handlers import Created, add
from embedded.emulator.inner import Json, arn_of, iam, responses


def install() -> None:
    add("AWS::ApplicationAutoScaling::ScalableTarget", create=_target_create, update=_same, delete=_forget)
    add("AWS::ApplicationAutoScaling::ScalingPolicy", create=_policy_create, update=_same, delete=_forget)
    add("AWS::CloudWatch::CompositeAlarm", create=_composite_create, update=_same, delete=_forget)
    add("AWS::EC2::Instance", create=_instance_create, update=_same, delete=_forget)
    add("AWS::IAM::OIDCProvider", create=_oidc_create, update=_oidc_update, delete=_oidc_delete)


def _same(physical_id: str, _old: Json, _new: Json, _stack: str) -> Created:
    return physical_id, {"Id": physical_id, "Arn": physical_id}


def _forget(_physical_id: str, _properties: Json) -> None:
    return None


def _target_create(_logical_id: str, properties: Json, _stack: str) -> Created:
    physical_id = "|".join(str(properties[k]) for k in ("ResourceId", "ScalableDimension", "ServiceNamespace"))
    return physical_id, {"Id": physical_id}


def _policy_create(_logical_id: str, properties: Json, _stack: str) -> Created:
    arn = arn_of("autoscaling", f"scalingPolicy:{uuid.uuid4()}:policyName/{properties['PolicyName']}")
    return arn, {"Arn": arn}


def _composite_create(logical_id: str, properties: Json, stack: str) -> Created:
    name = str(properties.get("AlarmName") or f"{stack}-{logical_id}-{uuid.uuid4().hex[:12]}")
    return name, {"Arn": arn_of("cloudwatch", f"alarm:{name}")}


def _instance_create(_logical_id: str, _properties: Json, _stack: str) -> Created:
    """A record only: no machine is started, so nothing that its user data would run does run."""
    physical_id = f"i-{uuid.uuid4().hex[:17]}"
    addresses = {"PrivateIp": "127.0.0.1", "PublicIp": "127.0.0.1"}
    return physical_id, {"InstanceId": physical_id, "AvailabilityZone": "us-east-1a", **addresses}


def _oidc_create(_logical_id: str, properties: Json, stack: str) -> Created:
    url = str(properties["Url"])
    arn = f"arn:aws:iam::{responses.get_account_id()}:oidc-provider/{url.removeprefix('https://').rstrip('/')}"
    if iam._oidc_providers.get(arn) is not None:
        raise ValueError(f"Provider with url {url} already exists.")
    return _oidc_update(arn, {}, properties, stack)


def _oidc_update(arn: str, _old: Json, new: Json, _stack: str) -> Created:
    iam._oidc_providers[arn] = {
        "Arn": arn,
        "Url": str(new["Url"]),
        "ClientIDList": list(new.get("ClientIdList") or []),
        "ThumbprintList": list(new.get("ThumbprintList") or []),
        "CreateDate": responses.now_iso(),
        "Tags": list(new.get("Tags") or []),
    }
    return arn, {"Arn": arn}


def _oidc_delete(arn: str, _properties: Json) -> None:
    iam._oidc_providers.pop(arn, None)
