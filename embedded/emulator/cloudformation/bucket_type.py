"""What MiniStack's CloudFormation drops from AWS::S3::Bucket: tags and lifecycle.

The tags matter at once: CDK's auto-delete function empties only buckets that carry its tag.
"""

from xml.sax.saxutils import escape

from embedded.emulator.cloudformation.handlers import extend
from embedded.emulator.inner import Json, s3


def install() -> None:
    extend("AWS::S3::Bucket", _tags_and_lifecycle)


def _tags_and_lifecycle(bucket: str, properties: Json) -> Json:
    s3._bucket_tags[bucket] = {tag["Key"]: str(tag["Value"]) for tag in properties.get("Tags") or []}
    rules = (properties.get("LifecycleConfiguration") or {}).get("Rules") or []
    if rules:
        body = "".join(_rule(rule, number) for number, rule in enumerate(rules))
        s3._put_bucket_lifecycle(bucket, f"<LifecycleConfiguration>{body}</LifecycleConfiguration>".encode())
    else:
        s3._bucket_lifecycle.pop(bucket, None)
    return {}


def _rule(rule: Json, number: int) -> str:
    """One rule in the S3 API's XML."""
    parts = [
        f"<ID>{escape(str(rule.get('Id') or f'rule-{number}'))}</ID>",
        f"<Status>{rule['Status']}</Status>",
        f"<Filter><Prefix>{escape(str(rule.get('Prefix') or ''))}</Prefix></Filter>",
    ]
    if days := rule.get("ExpirationInDays"):
        parts.append(f"<Expiration><Days>{days}</Days></Expiration>")
    noncurrent = rule.get("NoncurrentVersionExpiration") or {}
    if days := noncurrent.get("NoncurrentDays") or rule.get("NoncurrentVersionExpirationInDays"):
        parts.append(
            f"<NoncurrentVersionExpiration><NoncurrentDays>{days}</NoncurrentDays></NoncurrentVersionExpiration>"
        )
    if days := (rule.get("AbortIncompleteMultipartUpload") or {}).get("DaysAfterInitiation"):
        parts.append(
            "<AbortIncompleteMultipartUpload>"
            f"<DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
        )
    for transition in rule.get("Transitions") or []:
        if days := transition.get("TransitionInDays"):
            parts.append(
                f"<Transition><Days>{days}</Days><StorageClass>{transition['StorageClass']}</StorageClass></Transition>"
            )
    return f"<Rule>{''.join(parts)}</Rule>"
