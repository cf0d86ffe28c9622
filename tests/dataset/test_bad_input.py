"""Bad input of every kind: exit code 1, one clear line for each mistake, and OUT as it was."""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexunet.cli import main
from flexunet.dataset.synthetic import write_surfaces

SIZE = 48
PALETTE = [(0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("good") / "source"
    write_surfaces(source, 30, SIZE, PALETTE, 5)
    return source


@pytest.fixture(scope="module")
def out(good: Path) -> Path:
    """Records of an earlier ingest, which no mistake may touch."""
    target = good.parent / "out"
    assert ingest(good, target) == 0
    return target


def ingest(source: Path, out: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(["ingest", str(source), str(out), "--config", "demo", *options])
    return int(ended.value.code or 0)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def image(source: Path, number: int = 1) -> Path:
    return source / "images" / f"steel-{number:05d}.png"


def mask(source: Path, number: int = 1) -> Path:
    return source / "masks" / f"steel-{number:05d}.png"


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims huge dimensions."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def truncate(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def replace_by(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def paint(color: Any, rows: int = 3) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        array = pixels(path)
        array[:rows] = color
        Image.fromarray(array).save(path)

    return damage


def resize(size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda path: Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)


def ids(values: Any, suffix: str = ".png") -> Callable[[Path], None]:
    """Replaces a mask by greyscale ids with `values` in its corner."""

    def damage(path: Path) -> None:
        array = np.zeros((SIZE, SIZE), np.asarray(values).dtype)
        array.flat[: np.size(values)] = values
        path.unlink()
        Image.fromarray(array).save(path.with_suffix(suffix))

    return damage


def as_format(name: str, suffix: str, mode: str = "RGB") -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        picture = Image.open(path).convert(mode)
        path.unlink()
        picture.save(path.with_suffix(suffix), name)

    return damage


def corrupt_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def on_image(damage: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda source: damage(image(source))


def on_mask(damage: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda source: damage(mask(source))


def no_scratches(source: Path) -> None:
    for path in sorted((source / "masks").iterdir()):
        array = pixels(path)
        array[(array == (255, 0, 0)).all(-1)] = 0
        Image.fromarray(array).save(path)


def no_defects_but_in_one(source: Path) -> None:
    for path in sorted((source / "masks").iterdir())[1:]:
        Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(path)


def only(count: int) -> Callable[[Path], None]:
    def damage(source: Path) -> None:
        for folder in ("images", "masks"):
            for path in sorted((source / folder).iterdir())[count:]:
                path.unlink()

    return damage


def own_splits(leak: bool, stray: bool = False) -> Callable[[Path], None]:
    def damage(source: Path) -> None:
        for folder in ("images", "masks"):
            for number, path in enumerate(sorted((source / folder).iterdir())):
                target = source / folder / ("test" if number % 5 == 0 else "train")
                target.mkdir(exist_ok=True)
                path.rename(target / path.name)
            if leak:
                shutil.copy(source / folder / "train/steel-00002.png", source / folder / "test/again.png")
            if stray:
                (source / folder / "train/steel-00003.png").rename(source / folder / "steel-00003.png")

    return damage


def no_test_split(source: Path) -> None:
    for folder in ("images", "masks"):
        for number, path in enumerate(sorted((source / folder).iterdir())):
            target = source / folder / ("val" if number % 5 == 0 else "train")
            target.mkdir(exist_ok=True)
            path.rename(target / path.name)


BAD: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no source": (shutil.rmtree, ["no such folder"]),
    "empty source": (lambda s: [shutil.rmtree(p) for p in s.iterdir()], ["no images found", "images/"]),
    "no masks folder": (lambda s: shutil.rmtree(s / "masks"), ["nothing that tells their classes", "beside masks/"]),
    "no images folder": (lambda s: shutil.rmtree(s / "images"), ["mask without an image"]),
    "images folder misnamed": (lambda s: (s / "images").rename(s / "pictures"), ["none with the same path and stem"]),
    "image without mask": (lambda s: mask(s).unlink(), ["steel-00001.png: image without a mask"]),
    "mask without image": (lambda s: image(s).unlink(), ["steel-00001.png: mask without an image"]),
    "stems differ in case": (lambda s: mask(s).rename(s / "masks/Steel-00001.png"), ["without a mask", "without an"]),
    "two images of a stem": (
        lambda s: shutil.copy(image(s), image(s).with_suffix(".bmp")),
        ["2 images for steel-00001"],
    ),
    "two masks of a stem": (lambda s: shutil.copy(mask(s), mask(s).with_suffix(".tif")), ["2 masks for steel-00001"]),
    "empty image": (on_image(replace_by(b"")), ["no bytes"]),
    "empty mask": (on_mask(replace_by(b"")), ["no bytes"]),
    "text image": (on_image(replace_by(b"hello, world")), ["no picture by its first bytes"]),
    "text mask": (on_mask(replace_by(b"hello, world")), ["no picture by its first bytes"]),
    "random bytes": (on_image(replace_by(np.random.default_rng(0).bytes(5000))), ["no picture by its first bytes"]),
    "image is a JPEG 2000": (on_image(as_format("JPEG2000", ".png")), ["a JPEG 2000 picture"]),
    "image is a PDF": (on_image(replace_by(b"%PDF-1.7\n" + b"0" * 500)), ["a PDF"]),
    "image is PostScript": (
        on_image(replace_by(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
        ["no picture by its first bytes"],
    ),
    "half an image": (on_image(truncate(0.5)), ["damaged or truncated: it cannot be decoded"]),
    "half a mask": (on_mask(truncate(0.5)), ["damaged or truncated: it cannot be decoded"]),
    "image header only": (on_image(truncate(0.02)), ["damaged or truncated: it cannot be decoded"]),
    "corrupt image": (on_image(corrupt_middle), ["damaged or truncated: it cannot be decoded"]),
    "corrupt mask": (on_mask(corrupt_middle), ["damaged or truncated: it cannot be decoded"]),
    "image bomb": (on_image(replace_by(bomb(13000, 13000))), ["13000x13000 pixels", "image.max_pixels"]),
    "mask bomb": (on_mask(replace_by(bomb(60000, 2000))), ["60000x2000 pixels"]),
    "JPEG mask": (on_mask(as_format("JPEG", ".jpg")), ["a mask as JPEG", "lossless"]),
    "JPEG mask named png": (on_mask(replace_by(jpeg_bytes())), ["a mask as JPEG"]),
    "mask too small": (on_mask(resize((SIZE, SIZE - 1))), ["48x47", "48x48", "the same size"]),
    "mask turned": (lambda s: (resize((40, 30))(image(s)), resize((30, 40))(mask(s))), ["30x40", "40x30"]),
    "colour off by one": (on_mask(paint((0, 0, 254))), ["144 pixels", "(0, 0, 254)", "nearest: inclusion"]),
    "white pixels": (on_mask(paint((255, 255, 255))), ["(255, 255, 255)", "[[classes]]"]),
    "antialiased border": (on_mask(paint((127, 0, 0), 1)), ["48 pixels", "(127, 0, 0)"]),
    "colour swapped to BGR+1": (on_mask(paint((1, 255, 255))), ["outside the palette"]),
    "id too large": (on_mask(ids(np.array([4], np.uint8))), ["ids outside the classes (4)"]),
    "id 255 without ignore colour": (on_mask(ids(np.array([255], np.uint8))), ["(255)"]),
    "ids times 85": (on_mask(ids(np.array([85, 170, 255], np.uint8))), ["85, 170, 255"]),
    "16-bit ids": (on_mask(ids(np.array([1000], np.uint16))), ["1000"]),
    "negative ids": (on_mask(ids(np.array([-1], np.int32), ".tif")), ["-1"]),
    "class never shown": (no_scratches, ["no training image shows scratches"]),
    "one image": (only(1), ["no image falls into"]),
    "two images": (only(2), ["no image falls into"]),
    "no defects to measure": (no_defects_but_in_one, ["shows"]),
    "leaking splits": (own_splits(leak=True), ["leak: 1 of 7 held-out", "--splits keep", "--splits regroup"]),
    "no test split": (no_test_split, ["no image falls into test", "or use --splits regroup"]),
    "image in no split": (own_splits(leak=False, stray=True), ["in no split", "--splits regroup"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_every_kind_is_named_and_leaves_the_records(
    good: Path, out: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, words = BAD[kind]
    source = tmp_path / "source"
    shutil.copytree(good, source)
    damage(source)
    before = snapshot(out)
    assert ingest(source, out) == 1
    errors = capfd.readouterr().err
    assert all(word in errors for word in words), errors
    assert "Traceback" not in errors
    assert all(line.startswith("error: ") and "expected" in line for line in errors.splitlines())
    assert snapshot(out) == before


METADATA: dict[str, tuple[str, str]] = {
    "no stem column": ("name,line\nsteel-00001,a\n", "one named stem"),
    "empty": ("", "one named stem"),
    "bad column": ("stem,my line\nsteel-00001,a\n", "'my line'"),
    "column twice": ("stem,line,line\nsteel-00001,a,b\n", "'line'"),
    "short line": ("stem,line\nsteel-00001\n", "line 2 has too many or too few"),
    "long line": ("stem,line\nsteel-00001,a,b\n", "line 2 has too many or too few"),
    "line twice": ("stem,line\nsteel-00001,a\nsteel-00001,b\n", "line 3 repeats steel-00001"),
    "image without line": ("stem,line\nsteel-00001,a\n", "no line for image steel-00002"),
    "line without image": ("stem,line\nghost,a\n", "a line for ghost"),
    "names of files": ("stem,line\nsteel-00001.png,a\n", "stems, such as steel-00001: leave the suffixes out"),
}


@pytest.mark.parametrize("kind", METADATA)
def test_bad_metadata_is_named(
    good: Path, out: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content, words = METADATA[kind]
    (tmp_path / "facts.csv").write_text(content)
    before = snapshot(out)
    assert ingest(good, out, "--metadata", str(tmp_path / "facts.csv")) == 1
    errors = capfd.readouterr().err
    assert words in errors and "facts.csv" in errors
    assert snapshot(out) == before


def test_a_line_that_could_mean_two_images_is_refused(
    good: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for role in ("images", "masks"):
        for number, path in enumerate(sorted((good / role).iterdir())):
            target = tmp_path / "source" / role / f"lot{number % 2}" / f"{number // 2:02}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    lines = ["stem,line", *(f"{number:02},a" for number in range(15))]
    (tmp_path / "facts.csv").write_text("\n".join(lines) + "\n")
    assert ingest(tmp_path / "source", out, "--metadata", str(tmp_path / "facts.csv")) == 1
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 15
    assert errors[0].endswith("the line for 00 could mean 2 images; expected one image: write their paths instead")


def test_there_are_at_least_forty_kinds() -> None:
    assert len(BAD) >= 40
