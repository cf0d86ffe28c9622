"""The card of a version: what it says, and that other programs read its metadata and its page."""

from dataclasses import replace
from typing import Any, cast

import pytest
from html_page import Page
from huggingface_hub import ModelCard

from components.model_card import CardFacts, card_page, card_text
from flexunet.core.config.card import CardConfig

# Markdown, HTML and Jinja, as a class may be called.
HOSTILE = "<img src=x> | `a` {{ 1 }}"
NOTHING = {"a90_95": None, "false_regions_per_megapixel": None}


@pytest.fixture
def facts() -> CardFacts:
    row = {"dice": 0.8, "iou": 2 / 3, "precision": 0.9, "recall": 0.7, "pixels": 100.0}
    empty = dict.fromkeys(row)
    scores = {
        "blessed": True,
        "examples": 40,
        "groups": 12,
        "gate": [{"passed": True, "words": "foreground Dice 0.8000 of at least 0.5000"}],
        "foreground_dice": 0.8,
        "foreground_dice_interval": [0.71, 0.86],
        "mean_iou": 2 / 3,
        "calibration_error": 0.02,
        "classes": {"background": row, HOSTILE: row, "scratches": empty},
        "defects": {"found_share": 0.9, "present": 20.0, "false_alarm_share": None} | NOTHING,
        "slices": [{"slice": "size=smallest", "images": 9, "groups": 5, "foreground_dice": 0.6, "gated": False}],
    }
    names = ["background", HOSTILE, "scratches"]
    split = {"images": 40, "images_with": dict.fromkeys(names, 7), "shares": dict.fromkeys(names, 0.25)}
    found: Any = {
        "card": CardConfig(),
        "classes": names,
        "scores": scores,
        "details": {"intervals": {f"dice/{HOSTILE}": [0.7, 0.9]}, "warnings": ["12 groups: the interval is rough"]},
        "baseline": None,
        "splits": {"train": split, "test": split},
        "provenance": {"run": "run-1", "pushed": "2026-11-26T05:00:00+00:00", "data": {"span": 3, "fingerprint": "f"}},
        "config": {"image": {"height": 32, "width": 48}, "train": {"seed": 137}},
        "training": {"parameters": 1234, "epochs": 4, "train_seconds": 60.0, "code": "c0de"},
        "point": None,
        "sha256": "abc",
    }
    return CardFacts(**found)


def test_other_tools_read_the_metadata(facts: CardFacts) -> None:
    card = ModelCard(card_text(replace(facts, card=CardConfig(name="Strip 3 ---", license="apache-2.0"))))
    data = cast("Any", card.data)
    assert (data.license, data.pipeline_tag, data.model_name) == ("apache-2.0", "image-segmentation", "Strip 3 ---")
    assert {(one.metric_type, one.metric_value, one.dataset_split) for one in data.eval_results} == {
        ("dice", 0.8, "test"),
        ("mean_iou", 0.666667, "test"),
    }
    # What is not defined is no result.
    unmeasured = replace(facts, scores=cast("Any", facts.scores | {"foreground_dice": None, "mean_iou": None}))
    assert cast("Any", ModelCard(card_text(unmeasured)).data).eval_results is None


def test_an_ensemble_says_that_it_is_one(facts: CardFacts) -> None:
    assert "Type: FlexUNet, 1,234 parameters" in card_text(facts)
    ensemble = replace(facts, training={**facts.training, "members": 5})
    assert "Type: the mean of 5 FlexUNets, 1,234 parameters" in card_text(ensemble)


def test_the_page_has_the_sections_of_the_paper_and_shows_hostile_names_as_they_are(facts: CardFacts) -> None:
    text = card_text(facts)
    page = Page(card_page(text, facts.name))
    for section in (
        *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"),
        *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations"),
    ):
        assert section in page.text
    # A row for each slice, class of `test` and `train`, and class with scores; and the four heads.
    assert len(page.all("tr")) == 1 + 3 + 3 + 3 + 4
    assert HOSTILE in page.text and not page.all("img") and not page.all("script")
    for words in ("0.8000, 95 % interval 0.7100 to 0.8600", "40 images in 12 groups", "scratches was not measured"):
        assert words in " ".join(page.text.split())
    assert "card.owner" in page.text and "undefined" in page.text


def test_who_overruled_the_gate_stands_in_it(facts: CardFacts) -> None:
    provenance = facts.provenance | {"accepted_refused": "the line *stands* still"}
    refused = replace(facts, provenance=cast("Any", provenance), scores=cast("Any", facts.scores | {"blessed": False}))
    text = Page(card_page(card_text(refused), facts.name)).text
    assert "refused by the gate and pushed all the same, for this reason: the line *stands* still" in text


def test_what_people_said_and_the_operating_point_stand_in_it(facts: CardFacts) -> None:
    point = {
        "target": "found >= 0.9", "thresholds": {HOSTILE: 0.25}, "smallest_regions": {HOSTILE: 12},
        "problems": ["eval shows no scratches"],
    }  # fmt: skip
    baseline = {"difference": 0.01, "difference_interval": [-0.02, 0.04]}
    said = CardConfig(owner="Line 3", intended_use="Sorting of *hot* strip", considerations="A person looks again.")
    told = replace(facts, card=said, point=cast("Any", point), baseline=cast("Any", baseline))
    text = " ".join(Page(card_page(card_text(told), facts.name)).text.split())
    for words in ("Line 3", "Sorting of hot strip", "A person looks again.", f"{HOSTILE} 0.2500, regions from 12"):
        assert words in text
    assert "0.0100, 95 % interval -0.0200 to 0.0400" in text and "eval shows no scratches" in text
