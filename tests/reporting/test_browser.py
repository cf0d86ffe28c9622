"""The page in a real Chromium: no errors, no overflow, and everything works, by mouse and by keyboard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexunet.reporting.report import write_page

OpenPage = Callable[..., Any]
WIDTHS = (1280, 390)
STICKING_OUT = """() => [...document.querySelectorAll("main *")]
  .filter((e) => !e.closest(".frame, .skip") && e.getBoundingClientRect().right > innerWidth)
  .map((e) => e.outerHTML.slice(0, 80))"""
INK_AND_GROUND = """(e) => {
  const grounds = [e, e.parentElement, e.parentElement?.parentElement].filter(Boolean);
  const colors = grounds.map((ground) => getComputedStyle(ground).backgroundColor);
  return [getComputedStyle(e).color, colors.find((color) => color !== "rgba(0, 0, 0, 0)")];
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, write_report_folder: Callable[..., Path]) -> Path:
    return write_page(write_report_folder(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, write_report_folder: Callable[..., Path]) -> Path:
    return write_page(write_report_folder(tmp_path_factory.mktemp("refused"), blessed=False))


def visible_cases(page: Any) -> list[str]:
    return page.locator(".case:visible h3").all_text_contents()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(
    open_page: OpenPage, report: Path, refused: Path, width: int, scheme: str
) -> None:
    for path in (report, refused):
        page = open_page(path, width, color_scheme=scheme)
        page.evaluate("for (const closed of document.querySelectorAll('details')) closed.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What is wider scrolls in a frame of its own, and nothing else sticks out of the window.
        assert page.evaluate(STICKING_OUT) == []


def contrast(first: str, second: str) -> float:
    """Of two CSS colours `rgb(r, g, b)`; WCAG 2.2, 1.4.3."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_background(open_page: OpenPage, report: Path, refused: Path, scheme: str) -> None:
    for path in (report, refused):
        page = open_page(path, color_scheme=scheme)
        body = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for selector in ("body", ".note", "a", ".mark", ".verdict h1", ".cards dt", "figcaption"):
            ink, own = page.locator(selector).first.evaluate(INK_AND_GROUND)
            assert contrast(ink, own or body) >= 4.5, (selector, ink, own)


def test_filters_choose_by_list_class_and_mistake(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    status = page.locator(".count")
    assert status.text_content() == "All 5 images"
    for which, of_class, kind, expected in (
        ("worst", "", "", ["missed", "alarm", "wrong"]),
        ("median", "", "", ["wrong", "rim"]),
        ("", "inclusion", "", ["missed", "right"]),
        ("", "scratches", "", ["alarm", "wrong"]),
        ("", "", "missed", ["missed"]),
        ("", "", "alarm", ["alarm"]),
        ("", "patches", "alarm", []),
        ("worst", "scratches", "wrong", ["wrong"]),
    ):
        for name, value in (("which", which), ("class", of_class), ("kind", kind)):
            page.locator(f"#{name}").select_option(value)
        assert visible_cases(page) == expected
        assert status.text_content() == f"{len(expected)} of 5 images"
        assert page.locator(".nothing").is_visible() == (not expected)


def test_the_slider_fades_the_masks_and_leaves_the_image(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)

    def opacity(selector: str) -> float:
        return float(page.locator(selector).first.evaluate("(e) => getComputedStyle(e).opacity"))

    mask, photo = '.panel[data-part="truth"] img', ".panel img.photo"
    assert (opacity(mask), opacity(photo)) == (0.6, 1)
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert (opacity(mask), opacity(photo)) == (0, 1)
    page.keyboard.press("End")
    assert opacity(mask) == 1
    assert page.locator('output[for="opacity"]').text_content() == "100 %"
    # At full opacity a defect has its class's colour, beside it the photograph shows through.
    assert "data:image/jpeg" in page.locator('.panel[data-part="truth"] .layers').first.evaluate(
        "(e) => getComputedStyle(e).backgroundImage"
    )


def test_every_control_is_reached_by_the_tab_key(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    wanted = page.evaluate(
        "document.querySelectorAll('main a, main select, main input, main button, main summary, main .frame').length"
    )
    seen = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(seen) == wanted


def test_an_image_is_enlarged_moved_through_and_closed_by_keyboard(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    page.locator("#which").select_option("worst")
    page.locator(".case:visible .panel").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Enlarge image alarm, truth"
    page.keyboard.press("Enter")
    title = page.locator("#enlarged")
    assert title.text_content() == "alarm: truth, 2 of 3"
    page.keyboard.press("ArrowRight")
    assert title.text_content() == "wrong: truth, 3 of 3"
    page.keyboard.press("ArrowRight")
    assert title.text_content() == "missed: truth, 1 of 3"
    width = page.locator(".stage .layers").evaluate("(e) => e.clientWidth")
    page.keyboard.press("+")
    assert page.locator("#zoom").text_content() == "150 %"
    assert page.locator(".stage .layers").evaluate("(e) => e.clientWidth") == pytest.approx(1.5 * width, abs=3)
    page.locator("dialog input[value=errors]").check()
    assert title.text_content() == "missed: mistakes, 1 of 3"
    assert page.locator("#mask").get_attribute("alt") == "mistakes of missed"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    # A dialog tells that it was closed a moment after it is.
    page.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Enlarge image missed, mistakes'")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_enlarged_view_fits_and_its_buttons_work(open_page: OpenPage, report: Path, width: int) -> None:
    page = open_page(report, width)
    page.locator(".panel").first.click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("(d => d.scrollWidth - d.clientWidth)(document.querySelector('dialog'))") <= 0
    for label, title in (("Next image", "alarm: image, 2 of 5"), ("Previous image", "missed: image, 1 of 5")):
        page.get_by_role("button", name=label).click()
        assert page.locator("#enlarged").text_content() == title
    page.get_by_role("button", name="Close").click()
    assert not page.locator("dialog").is_visible()


def test_without_scripts_everything_is_shown(open_page: OpenPage, report: Path) -> None:
    page = open_page(report, java_script_enabled=False)
    assert len(visible_cases(page)) == 5
    assert not page.locator(".tools").is_visible()


def test_it_prints_with_its_pictures_and_without_its_controls(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible() and not page.locator("nav").is_visible()
    assert page.locator(".panel img").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sections_stay_at_hand_and_lead_below_themselves(open_page: OpenPage, report: Path, width: int) -> None:
    page = open_page(report, width, reduced_motion="reduce")
    nav = page.locator("nav")
    nav.locator("a[href='#slices']").click()
    page.evaluate("new Promise(requestAnimationFrame)")
    bar, heading = nav.bounding_box(), page.locator("#slices").bounding_box()
    assert bar["y"] == 0 and bar["height"] < 60 and heading["y"] >= bar["height"]
    assert page.locator("#slices").is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_truth_and_prediction_are_seen_together(open_page: OpenPage, report: Path, width: int) -> None:
    page = open_page(report, width)
    page.locator('.case:visible .panel[data-part="truth"]').nth(1).click()
    page.locator("dialog input[value=both]").check()
    assert page.locator("#enlarged").text_content() == "alarm: truth and prediction, 2 of 5"
    sources = {name: page.locator(f"#{name}").get_attribute("src") for name in ("mask", "line-truth", "line-predicted")}
    assert all(page.locator(f"#{name}").is_visible() for name in sources) and len({*sources.values()}) == 3
    # Outlines lie over the whole picture, and no slider fades them.
    boxes = [page.locator(f"#{name}").bounding_box() for name in sources]
    assert all(box == pytest.approx(boxes[0], abs=1) for box in boxes)
    page.locator("#opacity-large").fill("0")
    opacities = [page.locator(f"#{name}").evaluate("(e) => getComputedStyle(e).opacity") for name in sources]
    assert opacities == ["0", "1", "1"]
    page.locator("dialog input[value=predicted]").check()
    assert not page.locator("#line-truth").is_visible() and page.locator("#line-predicted").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Enlarge image alarm, prediction'")
