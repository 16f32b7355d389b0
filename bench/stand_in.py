"""An app of the size of the two stacks that prefect-aws 0.7.12 deploys (`prefect_aws/templates/ecs`).

It has the same kinds and numbers of resources, so that synthesis has as much to do; it is not a copy of their app.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from constructs import Construct


class EventsStack(cdk.Stack):
    """Four resources: a queue with a dead-letter queue, its policy, and a rule that fills it."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        queue_of_task_events(self)


class ServiceStack(cdk.Stack):
    """Seventeen resources: the same queues, and a worker service that scales."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        queue = queue_of_task_events(self)
        vpc = ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id="vpc-0123456789abcdef0",
            availability_zones=["us-east-1a", "us-east-1b"],
            public_subnet_ids=["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
        )
        cluster = ecs.Cluster.from_cluster_attributes(self, "Cluster", cluster_name="flows", vpc=vpc)
        definition = ecs.FargateTaskDefinition(self, "TaskDefinition", cpu=1024, memory_limit_mib=2048)
        definition.add_container(
            "worker",
            image=ecs.ContainerImage.from_registry("prefecthq/prefect-aws:0.7.12-python3.12-prefect3.8.8"),
            command=["prefect", "worker", "start", "--pool", "flows", "--type", "ecs"],
            environment={"PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME": queue.queue_name},
            secrets={
                name: ecs.Secret.from_secrets_manager(secretsmanager.Secret(self, construct_id))
                for name, construct_id in (("PREFECT_API_KEY", "ApiKey"), ("PREFECT_API_AUTH_STRING", "AuthString"))
            },
            logging=ecs.LogDrivers.aws_logs(
                stream_prefix="worker",
                log_group=logs.LogGroup(self, "LogGroup", retention=logs.RetentionDays.ONE_MONTH),
            ),
        )
        queue.grant_consume_messages(definition.task_role)
        service = ecs.FargateService(
            self,
            "Service",
            cluster=cluster,
            task_definition=definition,
            assign_public_ip=True,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
        )
        scaling = service.auto_scale_task_count(min_capacity=1, max_capacity=3)
        scaling.scale_on_cpu_utilization("Cpu", target_utilization_percent=70)
        scaling.scale_on_memory_utilization("Memory", target_utilization_percent=80)


def queue_of_task_events(scope: Construct) -> sqs.Queue:
    """A queue with a dead-letter queue, filled with the state changes of ECS tasks."""
    dead = sqs.Queue(scope, "DeadLetterQueue", enforce_ssl=False)
    queue = sqs.Queue(
        scope, "Queue", dead_letter_queue=sqs.DeadLetterQueue(queue=dead, max_receive_count=3), enforce_ssl=False
    )
    pattern = events.EventPattern(source=["aws.ecs"], detail_type=["ECS Task State Change"])
    events.Rule(scope, "Rule", event_pattern=pattern, targets=[targets.SqsQueue(queue)])
    return queue


if __name__ == "__main__":
    app = cdk.App()
    EventsStack(app, "Events")
    ServiceStack(app, "Service")
    app.synth()
