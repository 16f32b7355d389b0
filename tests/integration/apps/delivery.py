"""The app's embedded environment, deployed by workflows on GitHub: DELIVERY is JSON of fields of GitHubConfig."""

import dataclasses
import json
import os

import aws_cdk as cdk

from stacks.config import GitHubConfig
from stacks.environments import environment
from stacks.stage import PrefectStage

app = cdk.App()
github = GitHubConfig("acme/etl", "prod", makes_provider=True)
config = dataclasses.replace(
    environment("embedded", api_url=os.environ["PREFECT_API_URL"]),
    deployed_by=dataclasses.replace(github, **json.loads(os.environ.get("DELIVERY", "{}"))),
)
PrefectStage(app, "PrefectEmbedded", config=config)
app.synth()
