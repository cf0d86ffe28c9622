"""The built site, opened as files: its links lead to pages, its search finds, and nothing is asked of any server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_links_lead_to_pages(site: Path, open_page: Any) -> None:
    page = open_page(site / "index.html")
    page.get_by_role("link", name="tutorial").first.click()
    assert page.url == (site / "tutorial.html").as_uri()
    page.get_by_role("link", name="Keep house").first.click()
    assert page.url == (site / "how-to" / "housekeeping.html").as_uri() and "Keep house" in page.title()


def test_search_finds(site: Path, open_page: Any) -> None:
    page = open_page(site / "how-to" / "gate.html")
    box, found = page.get_by_role("textbox", name="Search"), page.locator(".md-search-result__link")

    def search() -> bool:
        # Again: a key that comes before the page's script listens is lost. A word that ends in a hyphen, as one does
        # that is being typed, is a warning of lunr's.
        box.fill("")
        box.press_sequentially("duplicates")
        page.wait_for_timeout(500)
        return found.count() > 0

    wait_until(search)
    assert all(link.startswith(site.as_uri()) for link in found.evaluate_all("links => links.map(link => link.href)"))
