"""The app's embedded environment with one thing changed: VARIANT is JSON of fields to replace in its configuration."""

import dataclasses
import json
import os
from typing import Any

import aws_cdk as cdk

from stacks.config import MonitoringConfig
from stacks.environments import environment
from stacks.stage import PrefectStage

#: What an environment may have and embedded has not.
ABSENT = {"monitoring": MonitoringConfig()}


def replace(config: Any, changes: dict[str, Any]) -> Any:
    return dataclasses.replace(
        config,
        **{
            name: replace(getattr(config, name) or ABSENT[name], value)
            if isinstance(value, dict) and name != "tags"
            else value
            for name, value in changes.items()
        },
    )


app = cdk.App()
config = replace(
    environment("embedded", api_url=os.environ["PREFECT_API_URL"]), json.loads(os.environ.get("VARIANT", "{}"))
)
PrefectStage(app, "PrefectEmbedded", config=config)
app.synth()
