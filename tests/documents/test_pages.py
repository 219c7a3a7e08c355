"""Every command of the pages, run in order, and its stated answer compared with the real one."""

from pathlib import Path

from tests.documents.documented_environment import azure_environment, local_environment
from tests.documents.fake_programs import ROOT


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    with local_environment(tmp_path) as environment:
        assert environment.run_page(ROOT / "README.md") >= 8


def test_the_commands_of_the_walk_through_with_curl_do_what_it_says(tmp_path: Path) -> None:
    with local_environment(tmp_path) as environment:
        (tmp_path / "make-run").touch()
        assert environment.run_page(ROOT / "docs" / "curl-walkthrough.md") >= 13


def test_the_commands_that_set_up_azure_do_what_the_page_says(tmp_path: Path) -> None:
    with azure_environment(tmp_path) as environment:
        assert environment.run_page(ROOT / "docs" / "azure.md") >= 15
