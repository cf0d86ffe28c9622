"""Generated surfaces: the same from the same seed, exact masks, all classes, and no answer for a grey threshold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from flexunet.dataset import synthetic

COLOURS = [(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)]
Surfaces = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def surfaces() -> Surfaces:
    return [synthetic.generate_surface(137, index, 128) for index in range(1, 121)]


def best_threshold_counts(grey: NDArray[np.uint8], truth: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Hits, predicted and true pixels of the threshold and polarity with the best Dice against the truth itself."""
    defect = np.bincount(grey[truth], minlength=256)
    everything = np.bincount(grey.ravel(), minlength=256)
    hits = np.concatenate([np.cumsum(defect), np.cumsum(defect[::-1])])
    predicted = np.concatenate([np.cumsum(everything), np.cumsum(everything[::-1])])
    best = int(np.argmax(2 * hits / (predicted + truth.sum())))
    return int(hits[best]), int(predicted[best]), int(truth.sum())


def test_the_threshold_oracle_finds_what_a_threshold_can_find():
    grey = np.array([[10, 20], [200, 210]], np.uint8)
    assert best_threshold_counts(grey, grey > 100) == (2, 2, 2)
    assert best_threshold_counts(grey, grey < 15) == (1, 1, 1)


def test_no_grey_threshold_tells_defects_from_steel(surfaces: Surfaces):
    counts = [best_threshold_counts(image[..., 0], class_ids > 0) for image, class_ids in surfaces if class_ids.any()]
    hits, predicted, true = np.sum(counts, axis=0)
    foreground_dice = 2 * hits / (predicted + true)
    print(f"pooled Dice of the best threshold of each image: {foreground_dice:.3f}")
    assert foreground_dice < 0.5


@pytest.mark.parametrize(
    ("class_id", "lowest", "highest"),
    [(synthetic.INCLUSION, 0.015, 0.03), (synthetic.PATCHES, 0.06, 0.10), (synthetic.SCRATCHES, 0.015, 0.03)],
)
def test_each_class_has_its_share_of_pixels_and_images(
    surfaces: Surfaces, class_id: int, lowest: float, highest: float
):
    found = np.stack([class_ids for _, class_ids in surfaces]) == class_id
    assert lowest < found.mean() < highest
    assert found.any(axis=(1, 2)).mean() >= 0.25


def test_a_folder_of_other_pictures_is_one_line(tmp_path: Path):
    arguments = [str(tmp_path), "--count", "2", "--size", "32"]
    assert CliRunner().invoke(synthetic.main, arguments).exit_code == 0
    done = CliRunner().invoke(synthetic.main, [str(tmp_path), "--count", "1", "--size", "32"])
    assert (done.exit_code, done.output.count("\n")) == (1, 1) and "delete the folder or choose another" in done.output


def test_some_images_have_no_defect_and_none_has_all_kinds(surfaces: Surfaces):
    kinds = np.array([len(np.unique(class_ids[class_ids > 0])) for _, class_ids in surfaces])
    assert 0.05 < (kinds == 0).mean() < 0.20
    assert set(kinds) == {0, 1, 2}


def test_images_are_grey_in_rgb_and_rarely_clipped(surfaces: Surfaces):
    images = np.stack([image for image, _ in surfaces])
    assert images.shape == (120, 128, 128, 3)
    assert images.dtype == np.uint8
    assert (images == images[..., :1]).all()
    assert np.isin(images, [0, 255]).mean() < 0.01


def test_defects_overlap(surfaces: Surfaces):
    """A scratch through a patch has patch on both sides, and is labelled scratch."""
    patches, scratches = synthetic.PATCHES, synthetic.SCRATCHES
    both = [ids for _, ids in surfaces if (ids == patches).any() and (ids == scratches).any()]
    touching = [ids for ids in both if ((ids[:, 1:] == scratches) & (ids[:, :-1] == patches)).any()]
    assert len(touching) >= 3


@pytest.mark.parametrize("size", [32, 33, 96])
def test_any_size_from_32(size: int):
    image, class_ids = synthetic.generate_surface(1, 1, size)
    assert image.shape == (size, size, 3)
    assert class_ids.shape == (size, size)
    assert (image.dtype, class_ids.dtype) == (np.uint8, np.uint8)


def test_a_smaller_size_is_refused():
    with pytest.raises(ValueError, match=r"size is 31, expected at least 32"):
        synthetic.generate_surface(1, 1, 31)


def test_a_surface_follows_from_seed_and_index():
    image, class_ids = synthetic.generate_surface(5, 3, 64)
    again, class_ids_again = synthetic.generate_surface(5, 3, 64)
    assert image.tobytes() == again.tobytes()
    assert class_ids.tobytes() == class_ids_again.tobytes()
    assert (image != synthetic.generate_surface(6, 3, 64)[0]).any()
    assert (image != synthetic.generate_surface(5, 4, 64)[0]).any()


@pytest.mark.parametrize(
    "distractor", [synthetic.rolling_lines, synthetic.dust, synthetic.smudges, synthetic.light_bands]
)
def test_distractors_show_in_most_images_and_leave_the_mask_alone(
    monkeypatch: pytest.MonkeyPatch, distractor: Callable[[np.random.Generator, int], NDArray[np.float64]]
):
    def hidden(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
        return 0 * distractor(generator, size)

    with_it = [synthetic.generate_surface(5, index, 64) for index in range(20)]
    monkeypatch.setattr(synthetic, distractor.__name__, hidden)
    without_it = [synthetic.generate_surface(5, index, 64) for index in range(20)]
    pairs = list(zip(with_it, without_it, strict=True))
    assert all((shown[1] == bare[1]).all() for shown, bare in pairs)
    differences = [np.abs(shown[0].astype(int) - bare[0]).max() for shown, bare in pairs]
    assert np.mean(np.array(differences) > 6) >= 0.5


def test_written_files_are_the_generated_surfaces(tmp_path: Path):
    synthetic.write_surfaces(tmp_path, 3, 48, COLOURS, seed=9)
    names = ["steel-00001.png", "steel-00002.png", "steel-00003.png"]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == names
    for index, name in enumerate(names, start=1):
        image, class_ids = synthetic.generate_surface(9, index, 48)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / name)), image)
        mask_rgb = np.asarray(Image.open(tmp_path / "masks" / name))
        np.testing.assert_array_equal(mask_rgb, np.array(COLOURS, np.uint8)[class_ids])


def test_masks_contain_only_the_palette(tmp_path: Path):
    colors = [(9, 9, 9), (1, 2, 3), (200, 100, 0), (255, 255, 255)]
    synthetic.write_surfaces(tmp_path, 12, 32, colors, seed=9)
    masks = [np.asarray(Image.open(path)) for path in (tmp_path / "masks").iterdir()]
    assert {tuple(color) for color in np.concatenate(masks).reshape(-1, 3).tolist()} == set(colors)


def test_files_do_not_depend_on_the_count(tmp_path: Path):
    synthetic.write_surfaces(tmp_path / "few", 2, 32, COLOURS, seed=9)
    synthetic.write_surfaces(tmp_path / "many", 5, 32, COLOURS, seed=9)
    for path in (tmp_path / "few").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "many" / path.relative_to(tmp_path / "few")).read_bytes()


def test_pictures_of_another_call_are_refused_and_kept(tmp_path: Path):
    synthetic.write_surfaces(tmp_path, 3, 32, COLOURS, seed=1)
    synthetic.write_surfaces(tmp_path, 3, 32, COLOURS, seed=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(FileExistsError, match=r"1 files that are not of this data set, such as steel-00003.png"):
        synthetic.write_surfaces(tmp_path, 2, 32, COLOURS, seed=2)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.png")}


@pytest.mark.parametrize("colors", [COLOURS[:3], [*COLOURS[:3], COLOURS[0]]])
def test_wrong_colors_are_refused_before_anything_is_written(tmp_path: Path, colors: list[tuple[int, int, int]]):
    with pytest.raises(ValueError, match=r"expected 4 different ones: background, inclusion, patches, scratches"):
        synthetic.write_surfaces(tmp_path / "out", 1, 32, colors, seed=1)
    assert not (tmp_path / "out").exists()
