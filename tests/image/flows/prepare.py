"""Wait for the API, deploy slow.py and print the id of a run of it."""

import asyncio
import sys

from prefect import get_client


async def main() -> None:
    async with get_client() as client:
        while await client.api_healthcheck():
            await asyncio.sleep(0.3)
        flow_id = await client.create_flow_from_name("slow")
        deployment_id = await client.create_deployment(
            flow_id=flow_id, name="slow", path="/code", entrypoint="slow.py:slow"
        )
        run = await client.create_flow_run_from_deployment(deployment_id)
        sys.stdout.write(str(run.id))


asyncio.run(main())
