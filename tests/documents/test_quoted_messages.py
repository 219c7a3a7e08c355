"""The messages that docs/reasons.md quotes are messages of the server."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
REASONS_PAGE = ROOT / "docs" / "reasons.md"
_QUOTE = re.compile(r'"([^"]+)"')


def find_quotes(page: str) -> list[str]:
    """The texts in double quotes of a page, outside of code."""
    return _QUOTE.findall(re.sub(r"`[^`]*`", "", page))


def read_server_texts() -> list[str]:
    """The strings of the server's modules, without docstrings. An f-string counts as its constant parts."""
    modules = [ast.parse(file.read_text()) for file in sorted((ROOT / "state_api").rglob("*.py"))]
    nodes = [node for module in modules for node in ast.walk(module)]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_the_page_quotes_messages() -> None:
    assert find_quotes(REASONS_PAGE.read_text())


@pytest.mark.parametrize("quote", find_quotes(REASONS_PAGE.read_text()))
def test_a_message_that_the_page_quotes_is_in_the_code_of_the_server(quote: str) -> None:
    assert any(quote in text for text in read_server_texts()), f"no message of the server contains {quote!r}"


def test_a_quote_in_code_is_not_a_quoted_message() -> None:
    assert find_quotes('Send `"force": true`. If it says "busy", wait.') == ["busy"]
