"""The main job, visibly: versions 1, 2 and 3 of an app; 3 is refused while version 1's orchestrations still run in the
slot it would overwrite, also one that no event told of. Real emulator, real server, the official Event Grid client.
Ends with 0 only if every step answered as it should."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import httpx
from azure.core.credentials import AzureKeyCredential
from azure.data.tables import TableServiceClient
from azure.eventgrid import EventGridEvent, EventGridPublisherClient

from dev.local import free_ports, stopped, until
from state_api.emulator import EmulatorPorts, answers, storage_emulator
from state_api.settings import KEYS, STORAGE

HOST = "127.0.0.1"
APP = "shop"
SETTLE_SECONDS = 3
PIPELINE = {"X-Actor": "demo pipeline"}


class Unexpected(Exception):
    """A step did not answer as it should."""


def say(text: str = "") -> None:
    print(text, flush=True)


class Pipeline:
    """What a pipeline does: asks the server, and shows what it asks and gets."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, method: str, path: str, expect: int, body: dict[str, Any] | None = None, run: int = 0) -> Any:
        """Send one request; show it and the answer; insist on the status."""
        shown = f" {json.dumps(body)}" if body is not None else ""
        say(f"    {method} {path}{shown}")
        headers = PIPELINE | ({"X-Run-Url": f"https://ci.example/runs/{run}"} if run else {})
        answer = self._client.request(method, path, json=body, headers=headers)
        content = answer.json()
        say(f"      → {answer.status_code} {summary(content)}")
        insist(answer.status_code == expect, f"{expect} was expected, not {answer.status_code}: {answer.text}")
        return content


def insist(fact: bool, otherwise: str) -> None:
    if not fact:
        raise Unexpected(otherwise)


def summary(content: dict[str, Any]) -> str:
    """The answer in a line or two, as a person would read it out."""
    if "ready" in content:
        reasons = "; ".join(f"{reason['code']}: {reason['message']}" for reason in content["reasons"])
        return f"{content['status']} ({reasons})" if reasons else f"{content['status']}, {content['assurance']}"
    if "code" in content:
        reasons = "; ".join(reason["message"] for reason in content.get("reasons", []))
        return f"{content['code']}: {content['detail']}" + (f" ({reasons})" if reasons else "")
    if "taskHubs" in content and "dryRun" in content:
        hubs = (f"{hub['taskHub']}: {hub['outcome']} {', '.join(hub['artifacts'])}" for hub in content["taskHubs"])
        return "; ".join(hubs) or "nothing to do"
    if "slots" in content:
        held = (f"{name} {slot['taskHub'] if slot else '(empty)'}" for name, slot in content["slots"].items())
        return ", ".join(held)
    if "history" in content:
        records = (f"{one['revision']} {one['operation']} by {one['by']}" for one in content["history"])
        return "; ".join(records)
    return json.dumps(content)


class DurableApp:
    """Stands in for the app's Durable Functions extension: publishes what it would publish, in its shape, and keeps the
    task hub's own table as the Azure Storage provider does."""

    def __init__(self, endpoint: str, key: str, storage: str) -> None:
        self._client = EventGridPublisherClient(endpoint, AzureKeyCredential(key))
        self._tables = TableServiceClient.from_connection_string(storage)

    def start(self, task_hub: str) -> None:
        """A version of the app starts: its task hub comes into being."""
        self._tables.create_table(f"{task_hub}Instances")

    def turn(self, task_hub: str, instance_id: str, status: str, times: int = 1) -> None:
        """An orchestration's status changes. Its event is delivered once, or more often, or it is lost."""
        now = datetime.now(UTC)
        row = {"PartitionKey": instance_id, "RowKey": "", "Name": "ProcessOrder", "RuntimeStatus": status}
        times_written = {"LastUpdatedTime": now} | ({"CreatedTime": now} if status == "Running" else {})
        self._tables.get_table_client(f"{task_hub}Instances").upsert_entity(row | times_written)
        event = EventGridEvent(
            subject=f"durable/orchestrator/{status}",
            event_type="orchestratorEvent",
            data={
                "hubName": task_hub,
                "functionName": "ProcessOrder",
                "instanceId": instance_id,
                "reason": "card declined" if status == "Failed" else "",
                "runtimeStatus": status,
            },
            data_version="1.0",
            event_time=datetime.now(UTC),
        )
        if times:
            self._client.send([event] * times)
        told = {0: " (the event is lost)", 1: ""}.get(times, f" (the event is delivered {times} times)")
        say(f"    {task_hub}: ProcessOrder {instance_id} {status}{told}")

    def close(self) -> None:
        self._client.close()
        self._tables.close()


def story(pipeline: Pipeline, app: DurableApp) -> None:
    say("Version 1 is the first: the staging slot is empty, so it may be deployed and swapped.")
    source = {"provider": "azureStorage", "connection": STORAGE}
    order = {"policy": {"settleSeconds": SETTLE_SECONDS}, "taskHubs": source}
    pipeline.ask("PUT", f"/api/apps/{APP}", 200, order)
    verdict = pipeline.ask("GET", f"/api/apps/{APP}/staging", 200)
    insist(verdict["ready"], "an empty slot is Ready")
    pipeline.ask("POST", f"/api/apps/{APP}/staging", 200, {"taskHub": "shopv1", "version": "1.0.0"}, run=1)
    say("    … the pipeline deploys version 1 into the staging slot and swaps the slots …")
    app.start("shopv1")
    pipeline.ask("POST", f"/api/apps/{APP}/swap", 200, {"taskHub": "shopv1"}, run=1)

    say("\nVersion 1 takes orders. They run for long. Events are lost, and events come twice.")
    app.turn("shopv1", "order-1001", "Running")
    app.turn("shopv1", "order-1002", "Running", times=2)
    app.turn("shopv1", "order-1003", "Running", times=0)

    say("\nVersion 2, with a task hub of its own, goes the same way. Version 1 is swapped out, its orders go on.")
    pipeline.ask("POST", f"/api/apps/{APP}/staging", 200, {"taskHub": "shopv2", "version": "2.0.0"}, run=2)
    app.start("shopv2")
    pipeline.ask("POST", f"/api/apps/{APP}/swap", 200, {"taskHub": "shopv2"}, run=2)
    app.turn("shopv2", "order-2001", "Running")

    say("\nVersion 3 would overwrite version 1 under its running orders. It is refused.")
    verdict = pipeline.ask("GET", f"/api/apps/{APP}/staging", 200)
    insist(not verdict["ready"] and verdict["hasRunning"] and verdict["activeCount"] >= 2, "two orders must block")
    refused = pipeline.ask("POST", f"/api/apps/{APP}/staging", 409, {"taskHub": "shopv3", "version": "3.0.0"}, run=3)
    insist(refused["code"] == "StagingNotReady", "the refusal must say why")

    drain(pipeline, app)
    deploy_and_go_back(pipeline, app)


def drain(pipeline: Pipeline, app: DurableApp) -> None:
    say("\nThe two orders that events told of end; one end is lost. The pipeline waits until the hub has settled.")
    app.turn("shopv1", "order-1001", "Completed", times=2)
    app.turn("shopv1", "order-1002", "Failed", times=0)
    verdict = pipeline.ask("GET", f"/api/apps/{APP}/staging", 200)
    insist(not verdict["ready"] and not verdict["hasRunning"], "a hub that has just fallen silent is settling")
    say("\nBy events it has drained. But the server looks at the task hub itself, and finds what no event told.")
    verdict = pipeline.ask("GET", f"/api/apps/{APP}/staging?wait={SETTLE_SECONDS + 3}", 200)
    found = [(one["instanceId"], one["source"]) for one in verdict["active"]]
    insist(found == [("order-1003", "probe")], "the probe must find the order whose event was lost")

    say("\nThat order ends, too, and again no event tells. The server sees it.")
    app.turn("shopv1", "order-1003", "Completed", times=0)
    began = time.monotonic()
    verdict = pipeline.ask("GET", f"/api/apps/{APP}/staging?wait=60", 200)
    insist(verdict["ready"] and verdict["assurance"] == "verified", "a drained and settled hub is Ready")
    say(f"      (answered after {time.monotonic() - began:.1f} s)")


def deploy_and_go_back(pipeline: Pipeline, app: DurableApp) -> None:
    say("\nNow version 3 may be deployed, and nobody else at the same time.")
    pipeline.ask("POST", f"/api/apps/{APP}/staging", 200, {"taskHub": "shopv3", "version": "3.0.0"}, run=3)
    other = pipeline.ask("POST", f"/api/apps/{APP}/staging", 409, {"taskHub": "shopv4", "version": "4.0.0"}, run=4)
    insist(other["code"] == "DeploymentInProgress", "another run must wait")
    app.start("shopv3")
    pipeline.ask("POST", f"/api/apps/{APP}/swap", 200, {"taskHub": "shopv3"}, run=3)

    say("\nVersion 1's hub is retired and drained: cleanup removes what was recorded of it, and the hub itself.")
    cleaned = pipeline.ask("POST", f"/api/apps/{APP}/cleanup", 200, {"deleteTaskHubs": True})
    insist([hub["outcome"] for hub in cleaned["taskHubs"]] == ["Removed"], "hub shopv1 must be removed")

    say("\nVersion 3 misbehaves: a rollback is a swap back to version 2, which is still in the slot.")
    back = pipeline.ask("POST", f"/api/apps/{APP}/swap", 200, {"taskHub": "shopv2"}, run=3)
    insist(back["slots"]["production"]["taskHub"] == "shopv2", "version 2 must be in production again")
    history = pipeline.ask("GET", f"/api/apps/{APP}/history", 200)["history"]
    insist(len(history) == 9, f"every transition must be on record, and {len(history)} are")


@contextmanager
def server(storage: str, port: int, keys: list[dict[str, str]], log: IO[bytes]) -> Iterator[None]:
    """`python -m state_api serve` until the block ends."""
    environment = os.environ | {STORAGE: storage, KEYS: json.dumps(keys)}
    command = [sys.executable, "-m", "state_api", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parent.parent)
    with stopped(process):
        until(lambda: answers(HOST, port) or process.poll() is not None, "the server listens")
        insist(process.poll() is None, "the server did not start")
        yield


def main() -> int:
    began = time.monotonic()
    keys = [{"name": f"demo-{role}", "role": role, "key": secrets.token_urlsafe(24)} for role in ("admin", "publisher")]
    *emulator, port = free_ports(4)
    ports = EmulatorPorts(*emulator)
    say("Starting the storage emulator and the state server …\n")
    with tempfile.TemporaryFile() as log, storage_emulator(ports, None):
        try:
            with (
                server(ports.connection(HOST), port, keys, log),
                httpx.Client(
                    base_url=f"http://{HOST}:{port}", headers={"x-functions-key": keys[0]["key"]}, timeout=90
                ) as client,
                closing(DurableApp(f"http://{HOST}:{port}/api/events", keys[1]["key"], ports.connection(HOST))) as app,
            ):
                story(Pipeline(client), app)
        except (Unexpected, httpx.HTTPError) as error:
            log.seek(0)
            say(f"\nNOT AS EXPECTED: {error}\n\nThe server's log:\n{log.read().decode(errors='replace')[-4000:]}")
            return 1
    say(f"\nEvery step answered as it should ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
