"""index.html as text: self-contained, escaped, bounded, complete, and readable without seeing it."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import exit_code
from html_page import Page
from PIL import Image, PngImagePlugin

from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.files import read_json, write_json
from flexunet.core.root import ReportFolder
from flexunet.reporting import gallery
from flexunet.reporting.comparison import write_comparison
from flexunet.reporting.gallery import Predicted
from flexunet.reporting.report import read_report, render_report, write_page
from flexunet.reporting.training import strips

Write = Callable[..., ReportFolder]


def page_of(folder: ReportFolder) -> Page:
    return Page(write_page(folder).read_text(encoding="utf-8"))


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path, write_report_folder: Write) -> None:
    page = page_of(write_report_folder(tmp_path))
    references = [v for _, attributes in page.tags for k, v in attributes.items() if k in {"src", "href", "srcset"}]
    assert all((reference or "").startswith(("data:image/", "#")) for reference in references)
    assert len(page.all("img")) > 20 and not page.all("link")
    assert "url(http" not in (ReportFolder(tmp_path).page).read_text()


def test_each_picture_is_stored_once(tmp_path: Path, write_report_folder: Write) -> None:
    page = page_of(write_report_folder(tmp_path))
    panels = [image["src"] for image in page.all("img") if image["alt"] == "" and image.get("src")]
    photos = [source for source in panels if (source or "").startswith("data:image/jpeg")]
    # Each mask with its outline.
    assert len(photos) == 5 and len(panels) == 7 * 5


def test_every_part_is_there_for_an_accepted_model(tmp_path: Path, write_report_folder: Write) -> None:
    page = page_of(write_report_folder(tmp_path))
    ids = {attributes.get("id") for _, attributes in page.tags}
    links = {(a["href"] or "")[1:] for a in page.all("a")}
    assert links <= ids and {"gate", "scores", "images", "mistakes", "training", "lineage"} <= links
    for words in (
        "Accepted: version 2",
        "0.8000",
        "95 % interval 0.7000 to 0.9000",
        "108 of 144",
        "95 % interval 66.0 % to 82.0 %",
        "+0.0500",
        "5 groups of test images: below 50 the interval is rough",
        "images with patches",
        "epoch 20, kept",
        "brightness moved (114 before, 154 now",
        "/runs/Trainer/model/9",
        "12 ms median",
        "b" * 64,
        "split:train,num_files:1",
        "train.epochs",
    ):
        assert words in page.text, words


def test_a_search_and_symmetries_are_shown_where_there_are_some(
    tmp_path: Path, write_report_folder: Write, make_config: Any
) -> None:
    page = page_of(write_report_folder(tmp_path))
    assert "Search for settings" not in page.text and "symmetries:" not in page.text
    folder = write_report_folder(tmp_path, config=make_config(serving={"symmetries": 8}))
    trials = [
        {"trial": 1, "values": {"train.loss": "focal", "augment.zoom": 0.25}, "foreground_dice": 0.5},
        {"trial": 2, "values": {"train.loss": "<b>", "augment.zoom": 0.0}, "foreground_dice": None},
        {"trial": 3, "values": {"train.loss": "focal_dice", "augment.zoom": 0.5}, "foreground_dice": 0.75},
    ]
    rows = [{**trial, "epochs": 4, "seconds": 30.0, "problem": None} for trial in trials]
    rows[1]["problem"] = "training diverged"
    write_json(folder.tuning, {"format": 1, "budget_seconds": 120.0, "trials": rows, "best": 3})
    page = page_of(folder)
    for words in (
        "3 trials in",
        "with the values of trial 3",
        "augment.zoom",
        "focal_dice",
        "<b>",
        "training diverged",
    ):
        assert words in page.text, words
    assert "the mean over 8 symmetries" in page.text and "about 2 ms" in page.text
    table = page.text.partition("with the values of trial 3")[2]
    assert table.index("0.7500") < table.index("0.5000") < table.index("training diverged")


def test_the_page_of_an_ensemble_tells_the_parameters_of_all_and_of_each(
    tmp_path: Path, write_report_folder: Write
) -> None:
    folder = write_report_folder(tmp_path)
    facts = {"parameters": 6170, "multiply_accumulates": 10**9, "activation_bytes": 2**20, "layers": []}
    write_json(folder.model, facts)
    assert "networks" not in page_of(folder).text
    write_json(folder.model, {**facts, "members": 5})
    words = " ".join(page_of(folder).text.split())
    assert (
        "6,170 parameters" in words
        and "the mean of 5 networks of the layers below, with 1,234 parameters each" in words
    )


def test_a_refused_model_has_the_same_page_and_the_reasons_come_first(
    tmp_path: Path, write_report_folder: Write
) -> None:
    page = page_of(write_report_folder(tmp_path, blessed=False))
    first = page.text[: page.text.index("Foreground Dice")]
    assert "Refused by the gate" in first and "its lower end must be at least 0.9900" in first
    assert "Next: look at the worst images." in first
    assert len(page.all("article")) == 5
    assert "failed" in page.text


@pytest.mark.parametrize(
    ("changes", "serving", "title"),
    [
        ({"pushed_version": None, "verdict": "refused_by_serving"}, {}, "Refused by the serving validator"),
        ({"pushed_version": None}, {"rolled_back": 2}, "Accepted, but rolled back as version 2"),
        (
            {"verdict": "accepted_though_refused", "pushed_version": 2},
            {},
            "Refused by the gate, pushed all the same as version 2",
        ),
        ({"pushed_version": None}, {}, "Accepted by the gate"),
    ],
)
def test_the_title_says_what_happened(
    tmp_path: Path, write_report_folder: Write, changes: dict[str, Any], serving: dict[str, Any], title: str
) -> None:
    write_report_folder(tmp_path, **changes)
    known = read_json(ReportFolder(tmp_path).serving)
    write_json(ReportFolder(tmp_path).serving, {**known, **serving})
    page = write_page(ReportFolder(tmp_path)).read_text()
    assert f"<h1>{title}</h1>" in page and f"<title>{title}" in page


def test_a_target_without_an_operating_point_is_told(
    tmp_path: Path, write_report_folder: Write, make_config: Any
) -> None:
    """As of an imported model. With one, its smallest regions are part of what the model's own size does not have."""
    config = make_config(operating_point={"target": "found >= 0.9"})
    none = page_of(write_report_folder(tmp_path / "none", config=config, operating_point=None)).text
    chosen = page_of(write_report_folder(tmp_path / "chosen", config=config)).text
    assert 'None was chosen: the configuration wants "found >= 0.9"' in none and "None was chosen" not in chosen
    assert "and what removing regions of fewer pixels" in chosen and "and what removing" not in none
    # Of 144 defects, in groups.
    assert "144 as 60.0, and fewer than 29 prove nothing" in chosen


def test_the_page_can_be_read_without_seeing_it(tmp_path: Path, write_report_folder: Write) -> None:
    page = page_of(write_report_folder(tmp_path))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("alt" in image for image in page.all("img"))
    assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(button.get("aria-label") or button.get("data-do") for button in page.all("button"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for _, a in page.tags if "aria-labelledby" in a)
    assert page.all("html")[0]["lang"] == "en"
    assert any(p.get("aria-live") == "polite" for p in page.all("p"))


def test_names_are_shown_and_never_run(tmp_path: Path, write_report_folder: Write) -> None:
    evil = '<img src=x onerror="alert(1)">"\'</script><script>alert(2)</script>'
    ids = np.ones((8, 8), np.uint8)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    image = Predicted(["worst"], evil, 0.5, (tmp_path / "p.png").read_bytes(), ids, ids)
    page = page_of(write_report_folder(tmp_path / "r", images=[image]))
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert evil in page.text


def test_the_same_report_gives_the_same_bytes(tmp_path: Path, write_report_folder: Write) -> None:
    folder = write_report_folder(tmp_path)
    assert render_report(read_report(folder)) == render_report(read_report(folder))


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_three_hundred_noisy_images_stay_below_fifteen_megabytes(
    tmp_path: Path, write_report_folder: Write, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """As many as `gate.listed_images` can ask for, of noise, which compresses least; or a tenth, with its bytes."""
    monkeypatch.setattr(gallery, "MOST_BYTES", gallery.MOST_BYTES * count // 300)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (160, 160, 3)).astype(np.uint8)).save(tmp_path / "p.png")
    encoded = (tmp_path / "p.png").read_bytes()
    ids = generator.integers(0, 4, (160, 160)).astype(np.uint8)
    images = [Predicted(["worst"], str(i), 0.5, encoded, ids, ids[::-1]) for i in range(count)]
    report = write_report_folder(tmp_path / "r", images=images)
    assert read_json(report.gallery_index)[0]["side"] < 640
    assert write_page(report).stat().st_size < 15_000_000 * count // 300


def test_many_classes_do_not_make_the_page_large(
    tmp_path: Path, write_report_folder: Write, make_config: Callable[..., Config]
) -> None:
    """Of 200 classes the confusion has those that are mistaken most."""
    classes = [{"name": f"class {i:03}", "color": [i, 255 - i, 7]} for i in range(200)]
    folder = write_report_folder(tmp_path, config=make_config(classes=classes), images=[])
    details = read_json(folder.details)
    details["confusion"][150][3] = 10_000
    write_json(folder.details, details)
    page = page_of(folder)
    assert folder.page.stat().st_size < 2_000_000
    assert "Not shown: 176 classes with fewer mistaken pixels" in page.text
    table = page.text[page.text.index("Confusion") : page.text.index("Calibration")]
    assert "class 150" in table and "class 003" in table and "class 199" not in table


def test_a_report_with_nothing_but_scores_still_has_a_page(tmp_path: Path, write_report_folder: Write) -> None:
    """A model that gives no numbers, records made elsewhere, a training without history."""
    folder = write_report_folder(
        tmp_path, images=[], baseline=None, foreground_dice=None, foreground_dice_interval=None
    )
    folder.data.unlink()
    folder.serving.unlink()
    shutil.rmtree(folder.training)
    details = read_json(folder.details)
    nothing = {"confusion": None, "baseline": None, "intervals": {}}
    write_json(folder.details, {**details, **nothing, "reliability": [], "detection": [], "curves": [], "warnings": []})
    page = page_of(folder)
    assert "no other comparable model was pushed" in page.text
    assert "no test image has a defect or a false alarm" in page.text
    # Three cards, defects, confusion and calibration; and none of the reasons that it is not.
    assert page.text.count("the model gave no numbers") == 6
    assert "a single group" not in page.text and "no test image is without defect" not in page.text
    assert "No history was found" in page.text and "Not examined" in page.text
    assert not page.all("dialog") and not page.all("article")


def test_the_command_tells_scripts_where_the_page_is_and_what_it_says(
    tmp_path: Path, write_report_folder: Write, capfd: Any
) -> None:
    here, there = (write_report_folder(tmp_path / name / "report") for name in ("here", "there"))
    assert exit_code("report", "--root", tmp_path / "here", "--json") == 0
    metrics = read_json(here.metrics)
    assert json.loads(capfd.readouterr().out) == {"page": str(here.page), "metrics": metrics, "against": None}
    assert exit_code("report", "--root", tmp_path / "here", "--against", tmp_path / "there", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {
        "page": str(here.comparison),
        "metrics": metrics,
        "against": {"report": str(there.path), "metrics": read_json(there.metrics)},
    }


def test_a_report_of_an_earlier_version_is_the_users_to_repeat(tmp_path: Path, write_report_folder: Write) -> None:
    folder = write_report_folder(tmp_path)
    folder.lineage.unlink()
    with pytest.raises(UserError, match=r"no lineage.json, expected the report of a run of this version: run it again"):
        write_page(folder)


def test_two_runs_name_every_setting_that_differs_and_their_spans(
    tmp_path: Path, write_report_folder: Write, make_config: Callable[..., Config]
) -> None:
    changed = make_config(train={"epochs": 9}, gate={"max_false_regions": 3.0}, serving={"keep_versions": 7})
    here, there = write_report_folder(tmp_path / "here"), write_report_folder(tmp_path / "there", config=changed)
    lineage = read_json(there.lineage)
    lineage["data"]["spans"] = ["span-1/version-2"]
    lineage["config"]["classes"].reverse()
    write_json(there.lineage, lineage)
    page = write_comparison(here, read_report(here), read_report(there), "there").read_text()
    cell = '<td class="words">(.*?)</td>'
    found = {key: values for key, *values in re.findall(rf'<tr><th scope="row">([\w.]+)</th>{cell}{cell}', page)}
    assert set(found) == {"classes", "train.epochs", "gate.max_false_regions", "serving.keep_versions", "data.spans"}
    assert found["gate.max_false_regions"] == ["unset", "3"]
    spans = [re.findall("span-[12]/version-[12]", cell) for cell in found["data.spans"]]
    assert spans == [["span-2/version-1", "span-1/version-1"], ["span-1/version-2"]]


def test_wide_images_of_training_stand_in_several_rows(tmp_path: Path) -> None:
    """Six strips of 400x50: side by side on a page each would be 20 pixels high."""
    (tmp_path / "previews").mkdir()
    row = np.zeros((50, 6 * 400, 3), np.uint8)
    for index in range(6):
        row[:, index * 400 : (index + 1) * 400] = 40 * index
    number = PngImagePlugin.PngInfo()
    number.add_text("images", "6")
    Image.fromarray(row).save(tmp_path / "previews" / "epoch-0001.png", pnginfo=number)
    [strip] = strips(tmp_path, None)
    assert (strip.width, strip.height) == (400, 6 * 51 - 1)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.uri.partition(",")[2]))).convert("L"))
    assert shown[25::51, 200].tolist() == [0, 40, 80, 120, 160, 200]
