"""The app's embedded environment, deployed by workflows on GitHub: an assembly for each name in DELIVERIES, whose JSON
says what differs in GitHubConfig, below the folder OUT."""

import dataclasses
import json
import os
from pathlib import Path

import aws_cdk as cdk

from stacks.config import GitHubConfig
from stacks.environments import environment
from stacks.stage import PrefectStage

GITHUB = GitHubConfig("acme/etl", "prod", makes_provider=True)
CONTEXT = json.loads((Path(__file__).parents[3] / "cdk.json").read_text())["context"]

for name, changes in json.loads(os.environ["DELIVERIES"]).items():
    app = cdk.App(context=CONTEXT, outdir=str(Path(os.environ["OUT"]) / name))
    config = dataclasses.replace(
        environment("embedded", api_url=os.environ["PREFECT_API_URL"]),
        deployed_by=dataclasses.replace(GITHUB, **changes),
    )
    PrefectStage(app, "PrefectEmbedded", config=config)
    app.synth()
