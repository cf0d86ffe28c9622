"""What pages name exists, and how they are written."""

import re

import pytest

from docs import commands as documented
from docs import pictures

ROOT = documented.ROOT


def test_the_picture_of_the_pipeline_is_current():
    committed = (pictures.IMAGES / "pipeline.svg").read_text()
    assert committed == pictures.pipeline_svg(), "run `python -m docs.pictures pipeline`"


@pytest.mark.parametrize("page", documented.pages())
def test_files_that_a_page_names_exist(page: str):
    """In code, such as `flexunet/core/config/`; paths of a user's own folders have other beginnings."""
    text = (ROOT / page).read_text()
    packages = "flexunet pipeline transform_module trainer_module components kubeflow benchmarks docs tests"
    folders = "|".join(packages.split())
    for path in re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|toml|md|proto))`", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("page", documented.pages())
def test_links_of_a_page_lead_to_files(page: str):
    """Also from the README, which the site does not hold."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", [page for page in documented.pages() if page.startswith("docs/")])
def test_blocks_of_a_list_are_indented_as_the_site_needs(page: str):
    """By four: GitHub takes three, and the site would end the list there."""
    text = (ROOT / page).read_text()
    assert re.findall(r"^ {1,3}```.*", text, re.M) == []


def test_the_first_page_leads_to_every_other():
    linked = set(re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "docs" / "index.md").read_text()))
    pages = {page.removeprefix("docs/") for page in documented.pages() if page.startswith("docs/")}
    assert pages - {"index.md"} <= linked


@pytest.mark.parametrize("page", [page for page in documented.pages() if page.startswith("docs/decisions/")])
def test_a_decision_has_a_status_and_a_date(page: str):
    assert re.match(r"# \d{4}: .+\n\n\*(Accepted|Proposed|Superseded), \d{4}-\d\d-\d\d", (ROOT / page).read_text())
