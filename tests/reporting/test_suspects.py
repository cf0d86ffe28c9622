"""The page of masks that are likely wrong: self-contained, escaped, and the picture behind both masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from html_page import Page
from pictures import encoded

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.whole import Config
from flexunet.core.results.suspects import FORMAT, Suspect, Suspects
from flexunet.reporting.gallery import Predicted
from flexunet.reporting.suspects import render_suspects


def document(*rows: Suspect, unlabelled: int = 0) -> Suspects:
    return {"format": FORMAT, "images": len(rows) + unlabelled, "unlabelled": unlabelled, "suspects": [*rows]}


def suspect(image_id: str, quality: float) -> Suspect:
    found: Suspect = {"id": image_id, "fold": 2, "quality": quality, "labelled": "patches", "predicted": "background"}
    return {**found, "pixels": 12, "share": 0.03}


def predicted(image_id: str, height: int = 20, width: int = 20) -> Predicted:
    truth = np.zeros((height, width), np.uint8)
    truth[5:9, 5:8] = 2
    return Predicted([], image_id, 0.1, encoded(np.full((height, width, 3), 90, np.uint8)), truth, truth * 0)


def test_masks_are_shown_over_the_image_which_the_page_holds_once(
    make_config: Callable[..., Config], tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    settings = part_of(make_config(), GateSettings)
    rows = [suspect("<b>one", 0.01), suspect("strip", 0.2), suspect("not shown", 1.0)]
    text = render_suspects(document(*rows, unlabelled=2), [predicted("<b>one"), predicted("strip", 10, 90)], settings)
    page = Page(text)
    assert "2 of 5" in page.text and "1. <b>one" in page.text and "not shown" not in page.text
    assert "2 images without a labelled pixel have no quality" in page.text
    assert text.count("data:image/jpeg") == 2 and len(page.all("img")) == 8
    (tmp_path / "suspects.html").write_text(text, encoding="utf-8")
    for width in (1280, 390):
        shown = open_page(tmp_path / "suspects.html", width)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        grounds = shown.eval_on_selector_all(".layers", "all => all.map(e => getComputedStyle(e).backgroundImage)")
        assert len(grounds) == 6 and all(ground.startswith('url("data:image/jpeg') for ground in grounds)
        sizes = shown.eval_on_selector_all(".layers", "all => all.map(e => e.offsetWidth / e.offsetHeight)")
        assert all(abs(ratio - wanted) < 0.1 * wanted for ratio, wanted in zip(sizes, [1] * 3 + [9] * 3, strict=True))


def test_no_image_with_a_label_is_a_page_too(make_config: Callable[..., Config]) -> None:
    text = render_suspects(document(unlabelled=1), [], part_of(make_config(), GateSettings))
    assert "No image has a labelled pixel" in Page(text).text
