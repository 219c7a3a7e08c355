"""The Bicep template of the Container App, compiled by the real compiler."""

from typing import Any

import pytest

from tests.routers.container_templates import compile_container_app, read_compose_file, read_container_app


@pytest.fixture(scope="module")
def app() -> dict[str, Any]:
    """The template of the Container App, as Bicep compiles it."""
    return compile_container_app()


def test_container_app_and_compose_file_have_the_same_containers(app: dict[str, Any]) -> None:
    assert read_container_app(app) == read_compose_file()


def test_there_is_always_exactly_one_replica_with_a_local_volume(app: dict[str, Any]) -> None:
    template = app["properties"]["template"]
    assert template["scale"] == {"minReplicas": 1, "maxReplicas": 1}
    assert template["volumes"] == [{"name": "routing", "storageType": "EmptyDir"}]


def test_the_key_comes_from_a_secret_and_the_ingress_ends_tls(app: dict[str, Any]) -> None:
    configuration, (follower, _) = app["properties"]["configuration"], app["properties"]["template"]["containers"]
    (secret,) = configuration["secrets"]
    assert "value" not in secret
    assert {"name": "SAFE_DEPLOY_KEY", "secretRef": secret["name"]} in follower["env"]
    assert configuration["ingress"]["allowInsecure"] is False
