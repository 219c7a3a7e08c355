"""Sets app settings and runtime versions of apps that have other owners, too: pipelines, operators and swaps.

Azure replaces all app settings at once. A program that owned them as a resource would undo what others have set, and
would give a slot its old task hub back after a swap. Pulumi's `ignore_changes` does not help: for what it ignores,
Pulumi sends the value of its own last update, not the one that Azure has.

So the program hands its settings to a template, which Azure runs when these settings change. The template reads what
the app has at that moment, adds the settings of the program, and writes only if that makes a difference.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi_azure_native.resources import Deployment, DeploymentMode

Settings = Mapping[str, pulumi.Input[str]]

_TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_DEPLOYMENT_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOfApp:
    """A Function App, or one of its slots.

    `site` is the resource of the app or slot: if it is replaced, the new one gets the settings again."""

    app: str
    resource_group: pulumi.Input[str]
    site: pulumi.Resource
    slot: str = ""

    @property
    def label(self) -> str:
        """The name of app and slot in names of resources."""
        return f"{self.app}-{self.slot}" if self.slot else self.app


def set_app_settings(
    slot: SlotOfApp, *, initial: Settings, owned: Settings, opts: pulumi.ResourceOptions
) -> Deployment:
    """Set app settings, and keep the others.

    `initial` are set only if the app does not have them yet. `owned` always get these values, which are secrets to
    Pulumi."""
    values = {"initial": initial, "owned": pulumi.Output.secret(owned)}
    return _deploy(f"{slot.label}-settings", "app-settings.json", slot, values, opts)


def set_runtime_version(slot: SlotOfApp, *, initial: str, opts: pulumi.ResourceOptions) -> Deployment:
    """Set the runtime version of a slot that has none, as in `linuxFxVersion`."""
    return _deploy(f"{slot.label}-runtime", "runtime-version.json", slot, {"initial": initial}, opts)


def _deploy(
    name: str, template: str, slot: SlotOfApp, values: Mapping[str, Any], opts: pulumi.ResourceOptions
) -> Deployment:
    """Let Azure run a template for a slot when its parameters change."""
    parameters = {"app": slot.app, "slot": slot.slot, **values}
    return Deployment(
        name,
        deployment_name=f"pulumi-{name}"[:_LONGEST_DEPLOYMENT_NAME],
        resource_group_name=slot.resource_group,
        properties={
            "mode": DeploymentMode.INCREMENTAL,
            "template": json.loads((_TEMPLATES / template).read_text()),
            "parameters": {parameter: {"value": value} for parameter, value in parameters.items()},
        },
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(depends_on=[slot.site], replace_with=[slot.site])
        ),
    )
