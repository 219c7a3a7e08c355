"""Pulumi component resources for the state server and for the durable apps that it guards.

They create what the Bicep templates in infra/ create. docs/azure.md and docs/side-by-side.md say how they are used.
"""

from safe_deploy_pulumi.event_subscription import subscribe_state_server
from safe_deploy_pulumi.release import Release, ReleaseArgs
from safe_deploy_pulumi.shared_resources import SharedResources
from safe_deploy_pulumi.slots import DurableAppWithSlots, DurableAppWithSlotsArgs
from safe_deploy_pulumi.state_server import StateServer, StateServerArgs
from safe_deploy_pulumi.task_hubs import (
    AzureStorageTaskHubs,
    ManagementApiTaskHubs,
    SchedulerTaskHubs,
    TaskHubs,
    read_task_hubs,
)
from safe_deploy_pulumi.topics import LifecycleTopic

__all__ = [
    "AzureStorageTaskHubs",
    "DurableAppWithSlots",
    "DurableAppWithSlotsArgs",
    "LifecycleTopic",
    "ManagementApiTaskHubs",
    "Release",
    "ReleaseArgs",
    "SchedulerTaskHubs",
    "SharedResources",
    "StateServer",
    "StateServerArgs",
    "TaskHubs",
    "read_task_hubs",
    "subscribe_state_server",
]
