"""The page at `/`: valid, readable on a small screen, without anything from elsewhere, and the same without a key."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from state_api import __version__
from state_api.http.home import HOME_PAGE
from state_api.http.middleware import SECURITY_HEADERS
from tests.http.test_keys_and_roles import KEYS, client_with_keys

__all__ = ["client_with_keys"]  # a fixture

pytestmark = pytest.mark.anyio

_REPOSITORY = Path(__file__).parent.parent.parent
_VOID_ELEMENTS = {"meta"}


class _PageParser(HTMLParser):
    """Collects the elements of a page, and fails if they are not nested properly."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open_elements: list[str] = []
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect an element. One that has an end tag is open until then."""
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID_ELEMENTS:
            self.open_elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last. Fails for the end tag of any other."""
        assert self.open_elements.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect the style."""
        if self.open_elements[-1:] == ["style"]:
            self.style += data


@pytest.fixture
def page() -> _PageParser:
    """The elements of the page."""
    parser = _PageParser()
    parser.feed(HOME_PAGE)
    parser.close()
    return parser


async def test_the_page_names_the_server_and_its_version_to_everyone(client_with_keys: httpx.AsyncClient) -> None:
    for headers in ({}, {"x-functions-key": KEYS["admin"]}, {"x-functions-key": "unknown"}):
        response = await client_with_keys.get("/", headers=headers)
        assert (response.status_code, response.text) == (200, HOME_PAGE)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<h1>Task hub state server</h1>\n<p>Version {__version__}." in HOME_PAGE


async def test_every_link_of_the_page_works_without_a_key(
    client_with_keys: httpx.AsyncClient, page: _PageParser
) -> None:
    links = [attributes["href"] or "" for tag, attributes in page.elements if tag == "a"]
    assert links == ["/api/openapi.json", "/api/health", "/api/health/ready"]
    for link in links:
        assert (await client_with_keys.get(link)).status_code == 200


def test_every_document_that_the_page_names_exists() -> None:
    documents = re.findall(r"<code>([^<]+\.md)</code>", HOME_PAGE)
    assert documents
    assert [document for document in documents if not (_REPOSITORY / document).is_file()] == []


def test_the_page_is_valid(page: _PageParser) -> None:
    """Every element is closed. The parts that HTML demands are there, once each."""
    assert HOME_PAGE.startswith("<!DOCTYPE html>\n")
    assert page.open_elements == []
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("html", "head", "title", "body", "main", "h1")] == [1] * 6
    assert ("html", {"lang": "en"}) in page.elements
    assert ("meta", {"charset": "utf-8"}) in page.elements


def test_the_page_fits_a_screen_of_320_pixels(page: _PageParser) -> None:
    """The width is that of the screen, no element has a fixed width, and long words are broken."""
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    assert re.findall(r"(?<!max-)width:", page.style) == []
    assert "px" not in page.style
    assert "overflow-wrap: anywhere" in page.style


async def test_the_page_allows_its_own_style_and_nothing_else(
    client_with_keys: httpx.AsyncClient, page: _PageParser
) -> None:
    response = await client_with_keys.get("/")
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert response.headers["content-security-policy"].split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    others = {name: value for name, value in SECURITY_HEADERS.items() if name != "Content-Security-Policy"}
    assert {name: response.headers.get(name) for name in others} == others
    assert {"script", "link", "img", "iframe", "form"}.isdisjoint(tag for tag, _ in page.elements)
    assert all("style" not in attributes and "src" not in attributes for _, attributes in page.elements)
    assert "url(" not in page.style
    assert "@import" not in page.style


async def test_the_page_can_only_be_read(client_with_keys: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        response = await client_with_keys.request(method, "/")
        assert (response.status_code, response.json()["code"]) == (405, "MethodNotAllowed")
