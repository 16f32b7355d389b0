"""What MiniStack's CloudFormation drops from AWS::S3::Bucket: tags, lifecycle, encryption and access logs.

The tags matter at once: CDK's auto-delete function empties only buckets that carry its tag.
"""

from xml.sax.saxutils import escape

from embedded.emulator.cloudformation.handlers import checked, extend
from embedded.emulator.inner import Json, s3


def install() -> None:
    extend("AWS::S3::Bucket", _tags_and_lifecycle)
    extend("AWS::S3::Bucket", _encryption_and_access_logs)


def _tags_and_lifecycle(bucket: str, properties: Json) -> Json:
    s3._bucket_tags[bucket] = {tag["Key"]: str(tag["Value"]) for tag in properties.get("Tags") or []}
    rules = (properties.get("LifecycleConfiguration") or {}).get("Rules") or []
    if rules:
        body = "".join(_rule(rule, number) for number, rule in enumerate(rules))
        s3._put_bucket_lifecycle(bucket, f"<LifecycleConfiguration>{body}</LifecycleConfiguration>".encode())
    else:
        s3._bucket_lifecycle.pop(bucket, None)
    return {}


def _encryption_and_access_logs(bucket: str, properties: Json) -> Json:
    rules = (properties.get("BucketEncryption") or {}).get("ServerSideEncryptionConfiguration") or []
    defaults = [rule["ServerSideEncryptionByDefault"] for rule in rules]
    # MiniStack has no key aws/s3, which "aws:kms" without a key means, and refuses who would use it; `cdk bootstrap`
    # makes its bucket so.
    named = [default for default in defaults if default["SSEAlgorithm"] == "AES256" or default.get("KMSMasterKeyID")]
    if named:
        body = "".join(map(_encryption, named))
        configuration = f"<ServerSideEncryptionConfiguration>{body}</ServerSideEncryptionConfiguration>"
        checked(s3._put_bucket_encryption(bucket, configuration.encode()), "PutBucketEncryption")
    else:
        checked(s3._delete_bucket_encryption(bucket), "DeleteBucketEncryption")
    target = properties.get("LoggingConfiguration") or {}
    logged = (
        f"<LoggingEnabled><TargetBucket>{escape(str(target['DestinationBucketName']))}</TargetBucket>"
        f"<TargetPrefix>{escape(str(target.get('LogFilePrefix') or ''))}</TargetPrefix></LoggingEnabled>"
        if target
        else ""
    )
    status = f"<BucketLoggingStatus>{logged}</BucketLoggingStatus>"
    checked(s3._put_bucket_logging(bucket, status.encode()), "PutBucketLogging")
    return {}


def _encryption(default: Json) -> str:
    key = default.get("KMSMasterKeyID")
    named = f"<KMSMasterKeyID>{escape(str(key))}</KMSMasterKeyID>" if key else ""
    return (
        f"<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>{default['SSEAlgorithm']}</SSEAlgorithm>{named}"
        "</ApplyServerSideEncryptionByDefault></Rule>"
    )


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
