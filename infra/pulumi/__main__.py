"""The Pulumi program of the state server: reads the configuration of the stack and creates what it says."""

import json

import pulumi
from safe_deploy_pulumi import StateServer, StateServerArgs, read_task_hubs, subscribe_state_server

config = pulumi.Config()
args = StateServerArgs(
    resource_group=config.require("resourceGroup"),
    location=config.require("location"),
    state_app=config.require("stateApp"),
    storage_account=config.require("storageAccount"),
    vault=config.require("vault"),
    topic=config.require("topic"),
    operator_principal_id=config.get("operatorPrincipalId", ""),
    operator_principal_type=config.get("operatorPrincipalType", "User"),
    alert_email=config.get("alertEmail", ""),
    python_version=config.get("pythonVersion", "3.11"),
    guarded_task_hubs=read_task_hubs(json.loads(config.get("guardedTaskHubs", "[]"))),
    delete_task_hubs=config.get_bool("deleteTaskHubs", default=False),
)
server = StateServer("state-server", args)
if config.get_bool("codeIsPublished", default=False):
    subscribe_state_server(
        "state-server",
        resource_group=args.resource_group,
        state_app=args.state_app,
        topic=args.topic,
        storage_account=args.storage_account,
        opts=pulumi.ResourceOptions(depends_on=[server]),
    )

# The names are those of docs/azure.md.
pulumi.export("RG", args.resource_group)
pulumi.export("STATE_APP", args.state_app)
pulumi.export("STORAGE", args.storage_account)
pulumi.export("VAULT", args.vault)
pulumi.export("TOPIC", args.topic)
pulumi.export("HOST", server.host_name)
pulumi.export("PRINCIPAL", server.principal_id)
