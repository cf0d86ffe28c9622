"""A mask means one thing, or it is refused: grey levels, palettes, alpha, pages, lossy files, 16 bits, rims."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import exif, png, png_chunk
from pictures import encoded
from PIL import Image

from flexunet.core.config.load import ConfigError, config_from
from flexunet.core.config.whole import Config
from flexunet.core.features import IGNORE_ID
from flexunet.core.pictures import Refused
from flexunet.dataset.masks import read_mask, rims

BLACK, WHITE, GREY = [0, 0, 0], [255, 255, 255], [127, 127, 127]
IDS = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0]], np.uint8)
BINARY = IDS * 255


def config(*colors: list[int], **records: Any) -> Config:
    classes = [{"name": f"class {index}", "color": color} for index, color in enumerate(colors)]
    return config_from({"classes": classes, "records": records}, "test")


TWO = config(BLACK, WHITE)
IGNORING = config(BLACK, WHITE, ignore_color=GREY)
THREE = config(BLACK, [255, 0, 0], WHITE)


def ids(file: bytes, settings: Config) -> NDArray[np.uint8]:
    return read_mask(file, settings).class_ids


def refusal(file: bytes, settings: Config) -> str:
    with pytest.raises(Refused) as refused:
        read_mask(file, settings)
    return str(refused.value.words)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_0_and_255_is_the_class_of_that_color(kind: str):
    np.testing.assert_array_equal(ids(encoded(BINARY, kind), TWO), IDS)
    np.testing.assert_array_equal(ids(encoded(BINARY, kind), THREE), IDS * 2)


def test_grey_16_bits_of_0_and_65535_is_the_class_of_that_color():
    np.testing.assert_array_equal(ids(encoded(BINARY.astype(np.uint16) * 257, "PNG"), THREE), IDS * 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_threshold_divides_what_a_tool_smoothed_and_counts_it(kind: str):
    settings = config(BLACK, WHITE, grey_threshold=128)
    smoothed = np.kron(BINARY, np.ones((16, 16), np.uint8))
    smoothed[:16, 44:52] = [40, 80, 100, 127, 128, 150, 200, 240]
    found = read_mask(encoded(smoothed, kind, "L"), settings)
    if kind == "JPEG":
        assert (found.class_ids != (smoothed >= 128)).mean() < 0.01
    else:
        np.testing.assert_array_equal(found.class_ids, smoothed >= 128)
        assert found.snapped is not None and found.snapped.tolist() == [64, 64]
    assert not found.is_served
    np.testing.assert_array_equal(ids(encoded(smoothed, "PNG", "RGB"), settings), smoothed >= 128)
    np.testing.assert_array_equal(ids(encoded(BINARY, "PNG", "1"), settings), IDS)


def test_above_the_threshold_is_the_brighter_class():
    """Defects drawn in black on white, as ImageJ shows them."""
    settings = config(WHITE, BLACK, grey_threshold=128)
    np.testing.assert_array_equal(ids(encoded(255 - BINARY, "JPEG"), settings), IDS)
    assert "128 takes levels from 128 on as class 0" in refusal(encoded(BINARY // 4 * 3, "PNG"), config(WHITE, BLACK))


def test_a_threshold_is_for_grey_masks_of_8_bits():
    settings = config(BLACK, WHITE, grey_threshold=1)
    red = np.zeros((4, 4, 3), np.uint8)
    red[0, 0, 0] = 255
    assert "a mask in colour; expected grey levels" in refusal(encoded(red, "PNG"), settings)
    assert "a mask of 16 bits; expected 8" in refusal(encoded(BINARY.astype(np.uint16), "PNG"), settings)
    assert "records.grey_threshold = 128 takes" in refusal(encoded(BINARY // 4 * 3, "PNG"), TWO)
    numbered = refusal(encoded(IDS * np.arange(2, 8, dtype=np.uint8), "PNG"), TWO)
    assert "records.grey_threshold = 1 takes levels from 1 on as class 1" in numbered
    for others in ({"ignore_color": GREY}, {"mask_values": "ids"}, {"mask_colors": "nearest"}):
        with pytest.raises(ConfigError, match="expected one of them"):
            config(BLACK, WHITE, grey_threshold=1, **others)
    with pytest.raises(ConfigError, match="with 3 classes, expected exactly 2"):
        config(BLACK, GREY, WHITE, grey_threshold=1)


def test_255_is_not_guessed_where_it_may_mean_unlabelled():
    words = refusal(encoded(BINARY, "PNG"), IGNORING)
    assert words.startswith("grey 255 is unlabelled as an id and class 1 as a colour; expected")
    assert 'records.mask_values = "ids" or "colors"' in words
    decided = config(BLACK, WHITE, ignore_color=GREY, mask_values="colors")
    np.testing.assert_array_equal(ids(encoded(BINARY, "PNG"), decided), IDS)
    decided = config(BLACK, WHITE, ignore_color=GREY, mask_values="ids")
    np.testing.assert_array_equal(ids(encoded(BINARY, "PNG"), decided), np.where(IDS, IGNORE_ID, 0))


def test_a_grey_mask_that_means_the_same_both_ways_is_read():
    np.testing.assert_array_equal(ids(encoded(IDS, "PNG"), TWO), IDS)
    np.testing.assert_array_equal(ids(encoded(np.zeros_like(IDS), "PNG"), IGNORING), np.zeros_like(IDS))


@pytest.mark.parametrize(("settings", "meant"), [(TWO, 1), (config(BLACK, [255, 0, 0]), 1)])
def test_one_bit_is_ids_or_white(settings: Config, meant: int):
    np.testing.assert_array_equal(ids(encoded(BINARY, "PNG", "1"), settings), IDS * meant)


def test_one_bit_is_refused_where_white_is_another_class_than_1():
    assert refusal(encoded(BINARY, "PNG", "1"), THREE).startswith(
        "grey 255 is class 1 as an id and class 2 as a colour"
    )


def test_few_bits_are_ids():
    file = png(np.array([[0b00011011]], np.uint8), 0, 8)
    two_bits = file.replace(file[16:26], (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([2, 0]))
    header = two_bits[12:29]
    import zlib

    two_bits = two_bits[:29] + zlib.crc32(header).to_bytes(4, "big") + two_bits[33:]
    four = config(BLACK, [255, 0, 0], [0, 255, 0], [0, 0, 255])
    np.testing.assert_array_equal(ids(two_bits, four), [[0, 1, 2, 3]])


def test_values_that_fit_neither_way_are_named_and_255_names_the_ignore_color():
    mask = IDS.copy()
    mask[0, 0] = 255
    words = refusal(encoded(mask, "PNG"), config(BLACK, [255, 0, 0]))
    assert words.startswith("1 pixels with ids outside the classes (255); expected greyscale class ids 0 class 0, 1")
    assert "records.ignore_color" in words
    assert "records.ignore_color" not in refusal(encoded(IDS * 9, "PNG"), config(BLACK, [255, 0, 0]))


def test_an_unknown_color_of_a_palette_names_ignore_color_and_ids():
    mask = Image.fromarray(np.where(IDS, 255, 0).astype(np.uint8), "P")
    palette = np.zeros((256, 3), np.uint8)
    palette[255] = (224, 224, 192)
    mask.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    words = refusal(buffer.getvalue(), config(BLACK, [255, 0, 0]))
    assert "RGB (224, 224, 192)" in words and "records.ignore_color" in words and 'mask_values = "ids"' in words
    ignoring = config(BLACK, [255, 0, 0], ignore_color=[224, 224, 192])
    np.testing.assert_array_equal(ids(buffer.getvalue(), ignoring), np.where(IDS, IGNORE_ID, 0))
    by_index = config(BLACK, [255, 0, 0], ignore_color=GREY, mask_values="ids")
    np.testing.assert_array_equal(ids(buffer.getvalue(), by_index), np.where(IDS, IGNORE_ID, 0))


def test_a_palette_that_tells_indices_not_apart_is_refused():
    """Of one that a tool padded with black, an index would be background."""
    palette = png_chunk(b"PLTE", bytes([*BLACK, *WHITE]).ljust(3 * 256, b"\0"))
    file = png(BINARY, 3, 8, palette)
    assert "have one colour, RGB (0, 0, 0)" in refusal(file, TWO)
    assert "outside the classes" in refusal(file, config(BLACK, WHITE, mask_values="ids"))


@pytest.mark.parametrize("records", [{}, {"mask_values": "ids"}, {"grey_threshold": 128}], ids=str)
def test_an_index_that_the_palette_does_not_have_is_refused(records: dict[str, Any]):
    """Readers show it as black, so a class would be background."""
    settings = config(BLACK, WHITE, **records)
    short = png(IDS + 1, 3, 8, png_chunk(b"PLTE", bytes([*BLACK, *WHITE])))
    assert refusal(short, settings).startswith("a palette of 2 colours, and pixels of the index 2; expected indices")
    whole = encoded(np.where(IDS, 200, np.arange(IDS.shape[1])).astype(np.uint8), "GIF")
    colors = 2 << (whole[10] & 7)
    cut = whole[:10] + bytes([whole[10] & 0xF8]) + whole[11:13] + bytes([*BLACK, *WHITE]) + whole[13 + 3 * colors :]
    assert refusal(cut, settings).startswith("a palette of 2 colours, and pixels of the index ")
    assert "damaged" in refusal(png(IDS, 3, 8), settings)


def test_channels_that_are_no_color_are_refused():
    """As of multispectral TIFFs, of which Pillow shows the first three."""
    words = refusal(encoded(np.dstack([BINARY] * 3), "TIFF", "RGBX"), TWO)
    assert words.startswith("a TIFF with channels beside colour and alpha, such as infrared; expected grey or RGB")


def test_it_is_known_whether_levels_were_ids_or_colors():
    read = {"ids": IDS, "white": BINARY, "no defect": IDS * 0, "ids of 16 bits": IDS.astype(np.uint16)}
    assert [name for name, mask in read.items() if read_mask(encoded(mask, "PNG"), TWO).is_ids] == [
        "ids",
        "ids of 16 bits",
    ]
    assert not read_mask(encoded(BINARY.astype(np.uint16) * 257, "PNG"), TWO).is_ids


def test_grey_ids_in_a_palette_are_ids_in_whatever_order_a_tool_put_it():
    """GIF knows no grey, and its writers leave levels out that no pixel has."""
    classes = config(BLACK, [255, 0, 0], [0, 255, 0], [0, 0, 255])
    file = encoded(IDS * 2, "GIF", optimize=True)
    np.testing.assert_array_equal(ids(file, classes), IDS * 2)
    told = config(BLACK, [255, 0, 0], [0, 255, 0], [0, 0, 255], mask_values="ids")
    reordered = png(IDS, 3, 8, png_chunk(b"PLTE", bytes([0, 0, 0, 2, 2, 2])))
    np.testing.assert_array_equal(ids(reordered, classes), IDS * 2)
    assert "a palette whose index 1 is grey 2: either could be the id" in refusal(reordered, told)


def test_indices_are_no_ids_where_their_colors_are_other_classes():
    """Tools that save colours with a palette, as GIF must, put it in any order."""
    colors = np.array([BLACK, [255, 0, 0], WHITE], np.uint8)
    settings = config(*colors.tolist(), mask_values="ids")
    mask = Image.fromarray(IDS, "P")
    for order in ([0, 1], [1, 0]):
        mask.putpalette(colors[order].tobytes())
        buffer = io.BytesIO()
        mask.save(buffer, "PNG")
        if order == [0, 1]:
            np.testing.assert_array_equal(ids(buffer.getvalue(), settings), IDS)
        else:
            words = refusal(buffer.getvalue(), settings)
            assert "index 0 has the colour of class 1: either could be the class" in words
            assert 'records.mask_values = "colors" takes index 0 as class 1' in words
            assert "give [[classes]] its colours (class 0 [255, 0, 0], class 1 [0, 0, 0]" in words
            as_told = config([255, 0, 0], BLACK, WHITE, mask_values="ids")
            np.testing.assert_array_equal(ids(buffer.getvalue(), as_told), IDS)


def test_a_mask_in_colors_is_no_mask_of_ids():
    assert "ids" in refusal(encoded(np.dstack([BINARY] * 3), "PNG"), config(BLACK, WHITE, mask_values="ids"))


def rgba(alpha: NDArray[np.uint8]) -> bytes:
    return encoded(np.dstack([BINARY, BINARY, BINARY, alpha]), "PNG")


def test_what_was_erased_over_a_class_is_refused():
    np.testing.assert_array_equal(ids(rgba(np.full_like(BINARY, 255)), TWO), IDS)
    assert refusal(rgba(np.zeros_like(BINARY)), TWO).startswith(f"{IDS.sum()} pixels that are transparent over a class")
    assert "transparent" in refusal(rgba(np.where(IDS, 255, 128).astype(np.uint8)), TWO)


def test_transparent_background_is_background():
    np.testing.assert_array_equal(ids(rgba(BINARY), TWO), IDS)
    assert "transparent" in refusal(rgba(BINARY), IGNORING)


@pytest.mark.parametrize("grey", [0, 255])
def test_a_drawing_in_alpha_alone_is_refused(grey: int):
    """Read without its alpha, every pixel of such a mask is of one class."""
    blank = np.full_like(BINARY, grey)
    for layers in (np.dstack([blank, BINARY]), np.dstack([blank, blank, blank, BINARY])):
        assert "drawn in alpha alone" in refusal(encoded(layers, "PNG"), TWO)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_color_is_not_opaque(mode: str):
    white = 255 if mode == "L" else (255, 255, 255)
    assert "transparent" in refusal(encoded(BINARY, "PNG", mode, transparency=white), TWO)
    black = 0 if mode == "L" else (0, 0, 0)
    np.testing.assert_array_equal(ids(encoded(BINARY, "PNG", mode, transparency=black), TWO), IDS)


LOSSY = [("JPEG", {}), ("WEBP", {}), ("TIFF", {"compression": "jpeg"})]


@pytest.mark.parametrize(("kind", "options"), LOSSY, ids=lambda value: value if isinstance(value, str) else "")
def test_lossy_files_are_refused_even_where_the_colors_fit(kind: str, options: dict[str, Any]):
    words = refusal(encoded(np.zeros((16, 16, 3), np.uint8), kind, **options), TWO)
    assert words.startswith("a mask as ") and "blurs class borders" in words


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "GIF", "PNG"])
def test_lossless_files_of_one_picture_are_read(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    colored = np.dstack([BINARY] * 3)
    np.testing.assert_array_equal(ids(encoded(colored, kind, **options), TWO), IDS)
    moving = encoded(colored, kind, save_all=True, append_images=[Image.fromarray(255 - colored)], **options)
    assert "picture" in refusal(moving, TWO)


def test_numbers_that_count_down_from_white_are_refused():
    """Pillow inverts such TIFFs of 8 bits, and not those of 16."""
    file = encoded(IDS.astype(np.uint16), "TIFF", tiffinfo={262: 0})
    assert refusal(file, TWO).startswith("a mask of 16 bits whose zero is white")


def test_a_lossy_mask_of_two_classes_is_told_of_the_threshold():
    assert "records.grey_threshold = 128" in refusal(encoded(BINARY, "JPEG"), TWO)
    assert "grey_threshold" not in refusal(encoded(BINARY, "JPEG"), THREE)
    in_three_channels = encoded(np.dstack([BINARY] * 3), "PNG")
    assert "records.grey_threshold = 128" in refusal(in_three_channels, config(BLACK, [255, 0, 0]))


def test_colors_of_16_bits_are_refused():
    deep = png(np.dstack([BINARY.astype(np.uint16) * 256 + 7] * 3), 2, 16)
    assert "16 bits, of which the lower would be lost" in refusal(deep, TWO)


@pytest.mark.parametrize("values", [IDS.astype(np.float32) + 0.5, np.full(IDS.shape, np.nan, np.float32)])
def test_fractions_are_refused(values: NDArray[np.float32]):
    assert refusal(encoded(values, "TIFF"), TWO).startswith("a mask of fractions")


def test_a_mask_is_turned_by_its_exif():
    file = encoded(BINARY, "PNG")
    turned = file[:33] + png_chunk(b"eXIf", exif(6)) + file[33:]
    np.testing.assert_array_equal(ids(turned, TWO), IDS.T[:, ::-1])


def test_records_hold_the_users_file_only_where_the_graph_reads_it_rightly():
    colored = np.dstack([BINARY] * 3)
    assert read_mask(encoded(colored, "PNG"), TWO).is_served
    turned = encoded(colored, "PNG")
    turned = turned[:33] + png_chunk(b"eXIf", exif(3)) + turned[33:]
    for file in (encoded(BINARY, "PNG"), encoded(colored, "TIFF"), turned, rgba(BINARY)):
        assert not read_mask(file, TWO).is_served


def test_interpolated_ids_have_rims():
    sharp = np.zeros((20, 20), np.uint8)
    sharp[5:15, 5:15] = 2
    assert rims(sharp, 3).tolist() == [0, 0, 0]
    blurred = sharp.copy()
    blurred[4:16, 4:16] = np.where(sharp[4:16, 4:16] == 2, 2, 1)
    assert rims(blurred, 3).tolist() == [0, 40, 0]
    assert rims(np.zeros((1, 1), np.uint8), 3).tolist() == [0, 0, 0]
