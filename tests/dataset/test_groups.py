"""Near-duplicate groups against an exhaustive reference."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.sparse.csgraph import connected_components

from flexunet.dataset import thumbnails
from flexunet.dataset.groups import descriptors, near_duplicate_groups
from flexunet.dataset.thumbnails import pixel_digest, thumbnail

NEU_SEG_DEV = Path(__file__).resolve().parents[2].parent / "shared/data/neu_seg_dev"


def texture(seed: int, side: int = 100, contrast: float = 25.0) -> NDArray[np.float64]:
    """Grey levels [side, side]: noise smoothed along and across by lengths of 0.5 to 6 pixels."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.standard_normal((side, side)), generator.uniform(0.5, 6, 2))
    return 128 + contrast * smooth / smooth.std()


def as_image(levels: NDArray[np.float64], quality: int | None = None) -> Image.Image:
    image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    if quality is None:
        return image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def symmetric(levels: NDArray[np.float64], which: int) -> NDArray[np.float64]:
    turned = np.rot90(levels, which % 4)
    return turned[:, ::-1] if which >= 4 else turned


def thumbnails_of(images: list[Image.Image]) -> NDArray[np.float16]:
    return np.stack([thumbnail(image) for image in images]).astype(np.float16)


def test_the_blur_is_that_of_scipy():
    margin = 4 * thumbnails.BLUR_SIGMA
    extended = np.pad(np.eye(thumbnails.SIDE), ((margin, margin), (0, 0)), mode="reflect", reflect_type="odd")
    expected = gaussian_filter1d(extended, thumbnails.BLUR_SIGMA, axis=0)[margin:-margin]
    np.testing.assert_allclose(thumbnails._blur(), expected, rtol=0, atol=1e-14)


def noisy_copies(originals: int, copies: int, correlation: float, smoothing: float) -> NDArray[np.float16]:
    """[originals * copies, 50, 50] thumbnails: each original, then symmetric copies correlated with it as given."""

    def detail(generator: np.random.Generator) -> NDArray[np.float64]:
        field = gaussian_filter(generator.standard_normal((50, 50)), smoothing)
        field = field - gaussian_filter(field, 6)
        return (field - field.mean()) / np.linalg.norm(field - field.mean())

    generator, found = np.random.default_rng(5), []
    for _ in range(originals):
        original = detail(generator)
        found.append(original)
        for _ in range(copies - 1):
            mixed = original + np.sqrt(1 / correlation**2 - 1) * detail(generator)
            found.append(symmetric(mixed / np.linalg.norm(mixed), int(generator.integers(8))))
    return np.stack(found).astype(np.float16)


def test_thumbnail_has_unit_norm_and_turns_with_the_image():
    levels = texture(1)
    straight = thumbnail(as_image(levels))
    assert straight.dtype == np.float32 and straight.shape == (50, 50)
    assert np.linalg.norm(straight) == pytest.approx(1, abs=1e-5) and straight.sum() == pytest.approx(0, abs=1e-3)
    for which in range(8):
        turned = thumbnail(as_image(symmetric(levels, which)))
        assert turned == pytest.approx(symmetric(straight, which), abs=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "F", "I", "I;16"])
def test_thumbnail_takes_any_mode(mode: str):
    grey = as_image(texture(2))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    assert float((thumbnail(image) * thumbnail(grey)).sum()) > 0.999


def test_every_symmetric_reencoded_copy_is_found():
    images, truth = [], []
    for seed in range(25):
        original = texture(seed)
        images.append(as_image(original))
        truth.append(8 * seed)
        for which in range(1, 8):
            brightness, contrast = (1.08, 0.92)[which % 2], (1.0, 0.9)[which // 4]
            changed = (128 + contrast * (symmetric(original, which) - 128)) * brightness
            images.append(as_image(changed, quality=75))
            truth.append(8 * seed)
    assert near_duplicate_groups(thumbnails_of(images)).tolist() == truth


def test_unrelated_surfaces_are_never_merged():
    """Textures strong and weak, and blank surfaces with sensor noise under one vignette of 30 grey levels."""
    across, down = np.meshgrid(np.linspace(-1, 1, 100), np.linspace(-1, 1, 100))
    vignette = -15 * (across**2 + down**2)
    images = [as_image(texture(seed), quality=75) for seed in range(150)]
    images += [as_image(texture(seed, contrast=2.0)) for seed in range(150, 220)]
    for seed in range(80):
        noise = np.random.default_rng(seed).normal(0, 2, (100, 100))
        images.append(as_image(128 + vignette + noise, quality=75 if seed % 2 else None))
    assert near_duplicate_groups(thumbnails_of(images)).tolist() == list(range(300))


def test_flat_images_are_grouped_only_when_equal():
    images = [as_image(np.full((100, 100), level)) for level in (0.0, 128.0, 0.0, 255.0, 128.0)]
    images += [as_image(np.full((60, 60), 128.0)), as_image(np.full((100, 100), 128.0), quality=75)]
    flat = thumbnails_of(images)
    assert not flat.any()
    assert near_duplicate_groups(flat).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert near_duplicate_groups(flat, digests=[pixel_digest(i) for i in images]).tolist() == [0, 1, 0, 3, 1, 5, 1]


def test_sizes_must_agree_up_to_transposition():
    squares = np.repeat(thumbnail(as_image(texture(3)))[None], 4, axis=0)
    sizes = np.array([[200, 100], [100, 200], [202, 100], [200, 120]])
    assert near_duplicate_groups(squares, sizes=sizes).tolist() == [0, 0, 0, 3]


def test_labels_are_the_smallest_index_and_chains_join():
    first, noise = noisy_copies(2, 1, 1.0, 1.0).astype(np.float32)
    angles = np.radians([0, 30, 15, 90])
    chain = np.stack([np.cos(angle) * first + np.sin(angle) * noise for angle in angles])
    assert near_duplicate_groups(chain).tolist() == [0, 0, 0, 3]
    assert near_duplicate_groups(chain[[0, 1, 3]]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_to_compare(count: int):
    assert near_duplicate_groups(np.zeros((count, 50, 50), np.float16)).tolist() == list(range(count))


def test_one_image_many_times_costs_no_square():
    copies = np.repeat(noisy_copies(1, 1, 1.0, 1.0), 3000, axis=0)
    assert not near_duplicate_groups(copies).any()


@pytest.mark.parametrize("smoothing", [0.3, 2.0])
def test_approximate_search_finds_copies_at_the_threshold(smoothing: float):
    """4,000 images are past the exhaustive search; at 0.955 a pair is as far apart as pairs get."""
    thumbnails = noisy_copies(originals=2000, copies=2, correlation=0.955, smoothing=smoothing)
    order = np.random.default_rng(7).permutation(len(thumbnails))
    found = near_duplicate_groups(thumbnails[order])
    _, truth = np.unique(order // 2, return_inverse=True)
    assert len(np.unique(found)) == 2000
    assert len(np.unique(found * 2000 + truth)) == 2000


def test_descriptors_ignore_symmetry_and_shorten_distances():
    thumbnails = noisy_copies(40, 2, 0.9, 1.0).astype(np.float32)
    found = descriptors(thumbnails)
    for which in range(8):
        turned = np.stack([symmetric(square, which) for square in thumbnails])
        assert descriptors(turned) == pytest.approx(found, abs=1e-5)
    apart = np.linalg.norm((thumbnails[:-1] - thumbnails[1:]).reshape(79, -1), axis=1)
    assert (np.linalg.norm(found[:-1] - found[1:], axis=1) <= apart + 1e-5).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"thumbnails": np.zeros((3, 40, 40))}, "got shape"),
        ({"thumbnails": np.zeros((3, 50, 50)), "threshold": 95}, "got 95"),
        ({"thumbnails": np.zeros((3, 50, 50)), "digests": ["a"]}, "got 1"),
        ({"thumbnails": np.zeros((3, 50, 50)), "sizes": np.ones((2, 2))}, "sizes"),
    ],
)
def test_wrong_input_is_refused(arguments: dict, words: str):
    with pytest.raises(ValueError, match=words):
        near_duplicate_groups(**arguments)


def reference_correlation(files: list[Path]) -> NDArray[np.float64]:
    """[N, N] of all pairs, by Pillow alone: thumbnail minus GaussianBlur(6), the largest correlation of eight."""
    details = []
    for file in files:
        small = Image.open(file).convert("L").resize((50, 50))
        detail = np.asarray(small, np.float64) - np.asarray(small.filter(ImageFilter.GaussianBlur(6)), np.float64)
        details.append((detail - detail.mean()) / np.linalg.norm(detail - detail.mean()))
    flat = np.stack(details).reshape(len(files), -1)
    best = np.full((len(files), len(files)), -1.0)
    for which in range(8):
        turned = np.stack([symmetric(detail, which) for detail in details]).reshape(len(files), -1)
        np.maximum(best, flat @ turned.T, out=best)
    return best


@pytest.mark.skipif(not NEU_SEG_DEV.is_dir(), reason="needs the NEU-Seg development images")
def test_neu_seg_agrees_with_the_exhaustive_reference():
    files = sorted((NEU_SEG_DEV / "images").glob("*/*.jpg"))
    correlation = reference_correlation(files)
    count, truth = connected_components(correlation > 0.95, directed=False)
    found = near_duplicate_groups(np.stack([thumbnail(Image.open(file)) for file in files]).astype(np.float16))
    first, second = np.nonzero(correlation > 0.95)
    assert (found[first] == found[second]).all()
    assert len(np.unique(found)) == count == 150
    assert max(Counter(found.tolist()).values()) <= 2 * max(Counter(truth.tolist()).values())
    in_test = np.array([file.parent.name == "test" for file in files])
    leaked = np.isin(found[in_test], found[~in_test]).sum()
    assert (leaked, in_test.sum()) == (114, 118)
