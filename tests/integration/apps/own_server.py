"""A Prefect server in three stacks: what is kept, the server, and a layer that uses it.

DATABASE_CA is the file of the certificate that the database's is signed by.
"""

import os

import aws_cdk as cdk
from aws_cdk import aws_logs as logs

from cdk_prefect_ecs import FlowNetwork, FlowStorage, PrefectExecutionLayer, PrefectServer, ServerDatabase

app = cdk.App()
env = cdk.Environment(account="000000000000", region="us-east-1")
data, serving, flows = (cdk.Stack(app, f"Own-{name}", env=env) for name in ("Data", "Server", "Flows"))


def log_group(stack: cdk.Stack) -> logs.LogGroup:
    return logs.LogGroup(
        stack, "LogGroup", retention=logs.RetentionDays.ONE_DAY, removal_policy=cdk.RemovalPolicy.DESTROY
    )


network = FlowNetwork(data, "Network", mode="nat", max_azs=2, nat_gateways=1)
database = ServerDatabase(
    data, "Database", network=network, deletion_protection=False, removal_policy=cdk.RemovalPolicy.DESTROY
)
server = PrefectServer(
    serving,
    "Server",
    network=network,
    database=database,
    log_group=log_group(serving),
    database_ca_file=os.environ["DATABASE_CA"],
    environment={"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
)
layer = PrefectExecutionLayer(
    flows,
    "Prefect",
    work_pool_name="own",
    api=server.api,
    network=network,
    storage=FlowStorage(flows, "Storage", removal_policy=cdk.RemovalPolicy.DESTROY, auto_delete_objects=True),
    log_group=log_group(flows),
    flow_environment={"DO_NOT_TRACK": "1"},
)
assert server.auth_secret is not None
for name, stack, value in (
    ("DatabaseSecret", data, database.secret.secret_arn),
    ("DatabaseHost", data, database.host),
    ("DatabasePort", data, database.port),
    ("AuthSecret", serving, server.auth_secret.secret_arn),
    ("ApiUrl", serving, server.api.url),
    ("Cluster", serving, server.cluster.cluster_name),
    ("Service", serving, server.service.service_name),
    ("ServerGroup", serving, server.security_group.security_group_id),
    ("DatabaseGroup", data, database.connections.security_groups[0].security_group_id),
    ("FlowGroup", data, network.security_group.security_group_id),
    ("Bucket", flows, layer.storage.bucket_name),
):
    cdk.CfnOutput(stack, name, value=value)
app.synth()
