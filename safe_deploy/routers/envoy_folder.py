"""The folder that Envoy and its follower share: Envoy's files, and the last routing document. Each file is replaced by
rename, so that no reader sees half of one."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safe_deploy.client import Json
from safe_deploy.errors import CommandError
from safe_deploy.routers.documents import InvalidRoutingDocument, build_app_key, parse_routing_document
from safe_deploy.routers.envoy import (
    ADMIN_SOCKET,
    BOOTSTRAP_FILE,
    CLUSTERS_FILE,
    ROUTES_FILE,
    EnvoyConfiguration,
    render_bootstrap,
    render_clusters_file,
    render_routes_file,
)

_DOCUMENT_FILE = "routing.json"

_READABLE = 0o644
"""Envoy can run as another user than the follower. The folder's own mode protects the tokens in the routes."""
_PRIVATE = 0o600
_FOLDER_MODE = 0o700
"""The mode of a folder that does not exist yet. To run Envoy as another user, create it with a mode for both."""


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """The last routing document of the server, with its ETag."""

    etag: str
    body: Json


@dataclass(frozen=True, slots=True)
class EnvoyFiles:
    """What Envoy's files say: their versions, and the clusters by name. Versions are empty without a file."""

    routes_version: str
    clusters_version: str
    clusters: dict[str, Json]


class EnvoyFolder:
    """Reads and writes the files of an app's router that listens on an address and port. The methods that write create
    the folder, and raise CommandError if it cannot be used."""

    def __init__(self, path: Path, *, app: str, listen: tuple[str, int]) -> None:
        self.path = path.resolve()
        self._app = app
        self._listen = listen

    @property
    def admin_socket(self) -> Path:
        return self.path / ADMIN_SOCKET

    def read_files(self) -> EnvoyFiles:
        """What Envoy's files contain at the moment; empty parts for files that do not exist."""
        routes, clusters = self._read_file(ROUTES_FILE), self._read_file(CLUSTERS_FILE)
        return EnvoyFiles(
            routes_version=routes.get("version_info", ""),
            clusters_version=clusters.get("version_info", ""),
            clusters={cluster["name"]: cluster for cluster in clusters.get("resources", [])},
        )

    def read_document(self) -> KeptDocument | None:
        """The last document of the app; None without one that this version of safe-deploy can use."""
        kept = self._read_file(_DOCUMENT_FILE)
        try:
            document = parse_routing_document(kept["document"])
            etag = str(kept["etag"])
        except (KeyError, InvalidRoutingDocument):
            return None
        # The folder may have served another app, whose ETags are alike.
        return KeptDocument(etag, kept["document"]) if document.app_key == build_app_key(self._app) else None

    def keep_document(self, document: KeptDocument) -> None:
        """Keep a document, so that the next start of the follower has one while the server is down."""
        self._replace_file(_DOCUMENT_FILE, {"etag": document.etag, "document": document.body}, _PRIVATE)

    def write_bootstrap(self) -> None:
        """Write the file that Envoy is started with. Envoy needs the other files then, so this comes after them."""
        bootstrap = render_bootstrap(app=self._app, listen=self._listen, folder=str(self.path))
        self._replace_file(BOOTSTRAP_FILE, bootstrap, _READABLE)

    def write_clusters(self, clusters: dict[str, Json]) -> None:
        self._replace_file(CLUSTERS_FILE, render_clusters_file(clusters), _READABLE)

    def write_routes(self, configuration: EnvoyConfiguration) -> None:
        self._replace_file(ROUTES_FILE, render_routes_file(configuration), _READABLE)

    def _read_file(self, name: str) -> Json:
        """The JSON object in a file; empty without a file that can be used, which is then written anew."""
        try:
            body = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    def _replace_file(self, name: str, body: Json, mode: int) -> None:
        """Replace a file by rename, so that no reader sees half of it. Raises CommandError."""
        try:
            self.path.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=self.path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(body, file)
                os.fchmod(descriptor, mode)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(self.path / name)
        except OSError as error:
            raise CommandError(f"{name} cannot be written to --out: {error}") from None
