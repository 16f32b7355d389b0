"""A data team's app: flow runs of their Prefect Cloud workspace, and everything else as the library chooses it."""

import dataclasses
import os

import aws_cdk as cdk

from cdk_prefect_ecs import PrefectApi, PrefectExecutionLayer

app = cdk.App()
stack = cdk.Stack(app, "ConsumerCloud")
api = PrefectApi.cloud(
    account_id="01234567-89ab-cdef-0123-456789abcdef",
    workspace_id="fedcba98-7654-3210-fedc-ba9876543210",
    api_key=PrefectApi.ssm_secure_string("/consumer/api-key"),
)
# Only the tests of this repository say this: Prefect Cloud itself is nothing to test against.
api = dataclasses.replace(api, url=os.environ.get("CLOUD_STAND_IN", api.url))
layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="consumer-cloud", api=api)
cdk.CfnOutput(stack, "Bucket", value=layer.storage.bucket_name)
app.synth()
