"""What runs on a worker host: set-up, systemd units, and the standard library and boto3 beside Prefect.

The asset holds this folder and what it imports of ``functions`` below a folder ``cdk_prefect_ecs`` of their own, so the
imports are the same here and there.
"""
