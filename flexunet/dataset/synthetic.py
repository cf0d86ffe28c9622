"""Generated rolled-steel surfaces with defects and their exact masks: a licence-free data set from a seed.

The pictures imitate three defect kinds of the NEU surface set. They are made so that a small network learns them and a
grey threshold does not: light varies more than the defects do, patches are brighter or darker than the steel within one
picture, and much of what looks odd (oil spots, bands of light, rolling lines, dust) is no defect at all.

Every picture is built with horizontal rolling, in grey levels around 0; light, exposure and orientation come last.
Lengths are in pixels of a 128-pixel picture and are multiplied by `unit = size / 128`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from flexunet.core.config.load import load_config
from flexunet.core.disk import words_of
from flexunet.core.outlines import labelme_document

BACKGROUND, INCLUSION, PATCHES, SCRATCHES = range(4)
CLASS_COUNT = 4
SMALLEST_SIZE = 32
DEFECT_FREE_SHARE = 0.12
TWO_KINDS_SHARE = 0.45

Grey = NDArray[np.float64]
Region = NDArray[np.bool_]


def generate_surface(seed: int, index: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Makes one surface, from (seed, index, size) only.

    Returns:
        The image, uint8 [size, size, 3], grey stored as RGB, and its class ids, uint8 [size, size]:
        0 background, 1 inclusion, 2 patches, 3 scratches.
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size}, expected at least {SMALLEST_SIZE}: scratches would be thinner than a pixel")
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    grey = _rolled_texture(generator, size) + rolling_lines(generator, size) + dust(generator, size)
    class_ids = np.full((size, size), BACKGROUND, np.uint8)
    kinds = _choose_kinds(generator)
    # Patches cover much, so they go first and hide nothing.
    for class_id, draw in ((PATCHES, _draw_patches), (INCLUSION, _draw_inclusions), (SCRATCHES, _draw_scratches)):
        if class_id in kinds:
            grey, region = draw(generator, grey)
            class_ids[region] = class_id
    grey += smudges(generator, size) + light_bands(generator, size) + _illumination(generator, size)
    image = _expose(generator, grey)
    if generator.random() < 0.5:
        image, class_ids = image.T, class_ids.T
    return np.repeat(image[:, :, np.newaxis], 3, axis=2), np.ascontiguousarray(class_ids)


def write_surfaces(
    directory: Path,
    count: int,
    size: int,
    colors: Sequence[tuple[int, int, int]],
    seed: int,
    step: Callable[[], None] = lambda: None,
) -> None:
    """Writes surfaces 1 to `count` as directory/images/steel-00001.png and directory/masks/steel-00001.png, ...

    Args:
        directory: made when missing. Pictures of another call that this one would not overwrite are refused.
        count: how many pictures.
        size: height and width in pixels.
        colors: the RGB color of each class id, four different ones; masks contain nothing else.
        seed: the same seed gives the same pictures, whatever the count.
        step: called after each picture.
    """
    palette = _palette(colors)
    names = [f"steel-{index:05d}.png" for index in range(1, count + 1)]
    for folder in (directory / "images", directory / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_leftovers(folder, names)
    for index, name in enumerate(names, start=1):
        image, class_ids = generate_surface(seed, index, size)
        Image.fromarray(image).save(directory / "images" / name)
        Image.fromarray(palette[class_ids]).save(directory / "masks" / name)
        step()


def write_labelled(directory: Path, count: int, size: int, class_names: Sequence[str], seed: int) -> None:
    """Writes the same surfaces as directory/steel-00001.png with labelme's directory/steel-00001.json, ..."""
    names = [f"steel-{index:05d}" for index in range(1, count + 1)]
    directory.mkdir(parents=True, exist_ok=True)
    _refuse_leftovers(directory, [f"{name}{suffix}" for name in names for suffix in (".png", ".json")])
    for index, name in enumerate(names, start=1):
        image, class_ids = generate_surface(seed, index, size)
        document = labelme_document(f"{name}.png", class_ids, class_names)
        Image.fromarray(image).save(directory / f"{name}.png")
        (directory / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def _palette(colors: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    if len(colors) != CLASS_COUNT or len(set(colors)) != CLASS_COUNT:
        raise ValueError(
            f"colors is {list(colors)}, expected {CLASS_COUNT} different ones: "
            "background, inclusion, patches, scratches"
        )
    return np.array(colors, np.uint8)


def _refuse_leftovers(folder: Path, names: Sequence[str]) -> None:
    """Pictures left by a call with another seed and a larger count would silently join this data set."""
    leftovers = sorted({path.name for path in folder.iterdir()} - set(names))
    if leftovers:
        raise FileExistsError(
            f"{folder} holds {len(leftovers)} files that are not of this data set, such as {leftovers[0]}: "
            "delete the folder or choose another"
        )


def _choose_kinds(generator: np.random.Generator) -> set[int]:
    if generator.random() < DEFECT_FREE_SHARE:
        return set()
    count = 2 if generator.random() < TWO_KINDS_SHARE else 1
    return set(generator.choice([INCLUSION, PATCHES, SCRATCHES], count, replace=False).tolist())


# The steel and its light.


def _smooth_noise(generator: np.random.Generator, size: int, sigma_rows: float, sigma_columns: float) -> Grey:
    """White noise under a Gaussian, mean 0 and deviation 1. By Fourier, so that long streaks cost no more."""
    spectrum = np.fft.rfft2(generator.standard_normal((size, size)))
    noise = np.fft.irfft2(ndimage.fourier_gaussian(spectrum, (sigma_rows, sigma_columns), n=size), s=(size, size))
    return (noise - noise.mean()) / noise.std()


def _rolled_texture(generator: np.random.Generator, size: int) -> Grey:
    unit = size / 128
    fine = _smooth_noise(generator, size, 0.6 * unit, generator.uniform(8, 25) * unit)
    broad = _smooth_noise(generator, size, 2.5 * unit, 60 * unit)
    return generator.uniform(4, 7) * fine + generator.uniform(2, 5) * broad


def _illumination(generator: np.random.Generator, size: int) -> Grey:
    """A slope of light in any direction, stronger than most defects, so that no one grey level tells them."""
    along, _ = _local_frame(size, np.array([size / 2, size / 2]), generator.uniform(0, 2 * np.pi))
    return generator.uniform(24, 44) * along / (size / 2)


def _expose(generator: np.random.Generator, grey: Grey) -> NDArray[np.uint8]:
    """Optics, film grain, exposure and contrast; float around 0 to uint8 of the same shape."""
    sharp = ndimage.gaussian_filter(grey, 0.45)
    grain = generator.uniform(2, 5) * generator.standard_normal(grey.shape)
    exposed = generator.uniform(105, 150) + generator.uniform(0.8, 1.15) * (sharp + grain)
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


def _local_frame(size: int, centre: NDArray[np.float64], angle: float) -> tuple[Grey, Grey]:
    """Every pixel's coordinates along and across a line through `centre` (row, column) at `angle` to the rolling."""
    rows = np.arange(size)[:, np.newaxis] - centre[0]
    columns = np.arange(size)[np.newaxis, :] - centre[1]
    return columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)


def _sign(generator: np.random.Generator, negative_share: float = 0.5) -> float:
    return -1.0 if generator.random() < negative_share else 1.0


# The defects: each takes grey levels [size, size] and returns new ones and the region of the defect.


def _draw_patches(generator: np.random.Generator, grey: Grey) -> tuple[Grey, Region]:
    """Ragged regions where scale hides the rolling: mottled alike in all directions, some brighter and some darker."""
    size = len(grey)
    unit = size / 128
    outline = _smooth_noise(generator, size, 11 * unit, 14 * unit)
    outline += 0.22 * _smooth_noise(generator, size, 2 * unit, 2 * unit)
    region = outline > np.quantile(outline, 1 - generator.uniform(0.12, 0.3))
    components = np.zeros((size, size), np.int32)
    _ = ndimage.label(region, output=components)
    areas = np.bincount(components.ravel())
    region &= areas[components] >= 60 * unit**2
    offsets = generator.choice([-1.0, 1.0], len(areas)) * generator.uniform(4, 20, len(areas))
    mottle = generator.uniform(11, 16) * _smooth_noise(generator, size, 1.5 * unit, 1.5 * unit)
    return np.where(region, 0.2 * grey + mottle + offsets[components], grey), region


def _draw_inclusions(generator: np.random.Generator, grey: Grey) -> tuple[Grey, Region]:
    """Strings of small dark blobs, mostly drawn out along the rolling."""
    size = len(grey)
    unit = size / 128
    ragged = 0.45 * _smooth_noise(generator, size, 1.5 * unit, 2.5 * unit)
    depths = np.zeros_like(grey)
    for _ in range(generator.integers(6, 13)):
        angle = generator.normal(0, 0.12) if generator.random() < 0.8 else generator.uniform(0, np.pi)
        along, across = _local_frame(size, generator.uniform(0.05, 0.95, 2) * size, angle)
        length, width = generator.uniform(5, 16) * unit, generator.uniform(2.0, 3.8) * unit
        blob = (along / length) ** 2 + (across / width) ** 2 < 1 + ragged
        depths = np.maximum(depths, blob * generator.uniform(20, 46))
    return np.where(depths > 0, 0.5 * grey - depths * (1 + 0.4 * ragged), grey), depths > 0


def _draw_scratches(generator: np.random.Generator, grey: Grey) -> tuple[Grey, Region]:
    """A few long thin curves at about one angle, never that of the rolling: rolling lines are no defect."""
    size = len(grey)
    unit = size / 128
    main_angle = _sign(generator) * generator.uniform(0.3, np.pi / 2)
    heights = np.zeros_like(grey)
    for _ in range(generator.integers(3, 7)):
        angle = main_angle + generator.normal(0, 0.06)
        along, across = _local_frame(size, generator.uniform(0.15, 0.85, 2) * size, angle)
        half_length = generator.uniform(28, 75) * unit
        position = along / half_length
        bend, wobble = generator.normal(0, 5), 0.8 * np.sin(3 * position + generator.uniform(0, 6))
        curve = unit * (bend * position**2 + wobble)
        half_width = np.maximum(0.75, generator.uniform(1.0, 2.0) * unit * (1 - 0.5 * position**2))
        line = (np.abs(across - curve) < half_width) & (np.abs(position) < 1)
        height = _sign(generator, 0.25) * generator.uniform(20, 52)
        heights = np.where(line, height * (1 - 0.35 * position**2), heights)
    return np.where(heights != 0, 0.6 * grey + heights, grey), heights != 0


# What is no defect: each returns grey levels [size, size] to add, float64, 0 where there is nothing.


def rolling_lines(generator: np.random.Generator, size: int) -> Grey:
    """Up to three straight faint lines from edge to edge in the rolling direction; float64 [size, size]."""
    profile = np.zeros(size)
    for _ in range(generator.integers(0, 4)):
        thickness = int(generator.integers(1, 3))
        start = int(generator.integers(0, size - thickness))
        profile[start : start + thickness] = _sign(generator) * generator.uniform(9, 18)
    return np.broadcast_to(profile[:, np.newaxis], (size, size))


def dust(generator: np.random.Generator, size: int) -> Grey:
    """Up to a dozen specks of one or two pixels, bright or dark; float64 [size, size]."""
    specks = np.zeros((size, size))
    for _ in range(generator.integers(0, 13)):
        row, column = generator.integers(0, size - 1, 2)
        length = int(generator.integers(1, 3))
        specks[row, column : column + length] = _sign(generator, 0.7) * generator.uniform(30, 60)
    return specks


def smudges(generator: np.random.Generator, size: int) -> Grey:
    """Up to four round soft spots of oil or water, dark or bright; float64 [size, size]."""
    unit = size / 128
    spots = np.zeros((size, size))
    for _ in range(generator.integers(0, 5)):
        along, across = _local_frame(size, generator.uniform(0, 1, 2) * size, 0.0)
        radius = generator.uniform(7, 16) * unit
        spots += _sign(generator) * generator.uniform(18, 38) * np.exp(-(along**2 + across**2) / (2 * radius**2))
    return spots


def light_bands(generator: np.random.Generator, size: int) -> Grey:
    """Up to two wide soft bands of light or shade at any angle; float64 [size, size]."""
    bands = np.zeros((size, size))
    for _ in range(generator.integers(0, 3)):
        _, across = _local_frame(size, generator.uniform(0, 1, 2) * size, generator.uniform(0, np.pi))
        width = generator.uniform(8, 18) * size / 128
        bands += _sign(generator) * generator.uniform(8, 20) * np.exp(-(across**2) / (2 * width**2))
    return bands


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--count", default=480, show_default=True, type=click.IntRange(min=1))
@click.option("--size", default=128, show_default=True, type=click.IntRange(min=SMALLEST_SIZE))
@click.option("--seed", default=137, show_default=True, type=click.IntRange(min=0))
@click.option("--labelme", is_flag=True, help="Outlines in labelme's JSON beside the images, instead of masks.")
def main(directory: Path, count: int, size: int, seed: int, labelme: bool) -> None:
    """Writes DIRECTORY/images and DIRECTORY/masks in the colours of the demo, for those who have no images at hand."""
    classes = load_config("demo").classes
    try:
        if labelme:
            write_labelled(directory, count, size, [c.name for c in classes], seed)
        else:
            write_surfaces(directory, count, size, [c.color for c in classes], seed)
    except OSError as error:
        raise click.ClickException(words_of(error)) from None


if __name__ == "__main__":
    main()
