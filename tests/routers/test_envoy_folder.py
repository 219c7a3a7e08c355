"""The folder that Envoy and its follower share."""

import json
import stat
from pathlib import Path

import pytest

from safe_deploy.errors import CommandError
from safe_deploy.routers.documents import parse_routing_document
from safe_deploy.routers.envoy import render_configuration
from safe_deploy.routers.envoy_folder import EnvoyFiles, EnvoyFolder, KeptDocument
from tests.routers.examples import ACTIVE


@pytest.fixture
def folder(tmp_path: Path) -> EnvoyFolder:
    """The folder of an Envoy that listens on loopback. It does not exist yet."""
    return EnvoyFolder(tmp_path / "envoy", app="shop", listen=("127.0.0.1", 8080))


def test_an_empty_folder_has_nothing(folder: EnvoyFolder) -> None:
    assert folder.read_files() == EnvoyFiles("", "", {})
    assert folder.read_document() is None


def test_a_new_folder_keeps_tokens_and_the_admin_socket_from_other_users(folder: EnvoyFolder) -> None:
    folder.write_routes(render_configuration(parse_routing_document(ACTIVE)))
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_what_was_written_is_read(folder: EnvoyFolder) -> None:
    configuration = render_configuration(parse_routing_document(ACTIVE))
    folder.keep_document(KeptDocument('"12"', ACTIVE))
    folder.write_clusters(configuration.clusters)
    folder.write_routes(configuration)
    files = folder.read_files()
    assert (files.routes_version, files.clusters) == (configuration.routes_version, configuration.clusters)
    assert folder.read_document() == KeptDocument('"12"', ACTIVE)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"etag": "\\"12\\"", "docu', id="cut off"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="no document"),
        pytest.param(json.dumps({"etag": '"12"', "document": ACTIVE | {"revision": "12"}}), id="another version's"),
        pytest.param(json.dumps({"etag": '"12"', "document": ACTIVE | {"app": "other"}}), id="another app's"),
    ],
)
def test_a_document_that_cannot_be_used_is_fetched_again(folder: EnvoyFolder, text: str) -> None:
    folder.path.mkdir()
    (folder.path / "routing.json").write_text(text)
    assert folder.read_document() is None


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = EnvoyFolder(tmp_path / "file", app="shop", listen=("127.0.0.1", 8080))
    with pytest.raises(CommandError, match="--out"):
        folder.write_bootstrap()


def test_no_temporary_file_stays(folder: EnvoyFolder) -> None:
    folder.write_bootstrap()
    folder.write_bootstrap()
    assert [path.name for path in folder.path.iterdir()] == ["envoy.yaml"]
