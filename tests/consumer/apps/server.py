"""An app of a company that has no Prefect server: it gets one, with its database, and flow runs beside it."""

import aws_cdk as cdk

from cdk_prefect_ecs import FlowNetwork, PrefectExecutionLayer, PrefectServer, ServerDatabase

app = cdk.App()
stack = cdk.Stack(app, "ConsumerServer")
network = FlowNetwork(stack, "Network", mode="nat")
database = ServerDatabase(stack, "Database", network=network, multi_az=True)
server = PrefectServer(stack, "Server", network=network, database=database)
layer = PrefectExecutionLayer(stack, "Prefect", work_pool_name="consumer-server", api=server.api, network=network)
cdk.CfnOutput(stack, "ApiUrl", value=server.api.url)
app.synth()
