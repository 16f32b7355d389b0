"""The app's embedded environment with its secrets elsewhere: the credential in a field in Secrets Manager; with a
customer's key a flow secret in another field, and one in a parameter. PLANTED is JSON of their addresses."""

import dataclasses
import json
import os

import aws_cdk as cdk

from stacks.config import SelfHostedApi
from stacks.environments import environment
from stacks.stage import PrefectStage
from stacks.stored_secrets import ManagedSecret, SecureString

planted = json.loads(os.environ["PLANTED"])
config = environment("embedded", api_url=os.environ["PREFECT_API_URL"])
config = dataclasses.replace(
    config,
    api=SelfHostedApi(os.environ["PREFECT_API_URL"], auth_string_secret=ManagedSecret(planted["api"], "auth")),
    pool=dataclasses.replace(
        config.pool,
        flow_secrets={
            "PLANTED_PASSWORD": ManagedSecret(planted["password"], "password", planted["key"]),
            "PLANTED_TOKEN": SecureString(planted["token"], planted["key"]),
        },
        patience_seconds=25,
    ),
    dask=None,
)
app = cdk.App()
PrefectStage(app, "PrefectEmbedded", config=config)
app.synth()
