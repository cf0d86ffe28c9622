"""Small data and configurations that several test folders share."""

import gc
import os
import shutil
import sys

# Before TensorFlow is imported anywhere: its start-up notes would drown a failing test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fork_server import ForkServer
from PIL import Image
from processes import ENVIRONMENT, ROOT
from steel import CLASSES, COLORS

# And before TFX, Beam and Keras: tests see what nodes see.
import flexunet.core.postponed  # noqa: F401
from flexunet.core.config.load import config_from
from flexunet.core.config.whole import Config

# `make test` gives whole files to two processes in this order, the longest first: both end at about the same time.
LONGEST = (
    "e2e/test_pipeline.py",
    "docs/test_commands.py",
    "kubeflow/test_run.py",
    "components/test_serving_validator.py",
    "components/test_gate.py",
    "trainer_module/test_trainer.py",
    "pipeline/test_study.py",
    "trainer_module/test_export.py",
    "serving/test_client.py",
    "serving/test_hostile.py",
    "trainer_module/test_imported.py",
    "serving/test_wheel.py",
    "e2e/test_spans.py",
    "kubeflow/test_package.py",
    "dataset/test_splits.py",
    "dataset/test_ingest.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection() -> None:
    """Modules of TensorFlow and TFX are millions of objects, and none of them is ever garbage: while they are imported
    the collector would take half of the time, and later look at all of them again for the graphs that are traced."""
    gc.disable()


def pytest_collection_finish() -> None:
    """They are all there by now. Graphs make objects by the ten thousands, and Python's default looks every 700;
    a hundred times as rarely a process grew to seven gigabytes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """`make_config(train={"epochs": 2})`: a configuration that runs in seconds, with sections overridden."""

    def make(**sections: dict[str, Any]) -> Config:
        values: dict[str, Any] = {
            "classes": CLASSES,
            "image": {"height": 32, "width": 32},
            "model": {"num_layers": 2, "base_filters": 8, "base_kernel": 3, "dropout": 0.0},
            "train": {"epochs": 4, "batch_size": 4, "learning_rate": 0.01, "schedule": "constant"},
            "gate": {"min_foreground_dice": 0.5},
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
        return config_from(values, "test")

    return make


@pytest.fixture(scope="session")
def write_colorful_pairs() -> Callable[..., None]:
    """Writes pairs whose image shows the mask's own colours, dimmed, on noise: learnt within seconds."""

    def write(directory: Path, count: int, size: int = 32, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        colors = np.array(COLORS, np.uint8)
        for folder in ("images", "masks"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            class_ids = np.zeros((size, size), np.uint8)
            for class_id in (1, 2, 3):
                row, column = generator.integers(0, size - 10, 2)
                class_ids[row : row + 10, column : column + 10] = class_id
            mask = colors[class_ids]
            noise = generator.integers(0, 80, (size, size, 1))
            image = (mask * 0.6 + noise).astype(np.uint8)
            Image.fromarray(image).save(directory / "images" / f"{index:03d}.png")
            Image.fromarray(mask).save(directory / "masks" / f"{index:03d}.png")

    return write


@pytest.fixture(scope="session")
def color_reader() -> Callable[..., Any]:
    """`color_reader(blind=3)`: a model that reads class 1, 2, 3 off the blue, green, red channel, but for one class."""

    def make(size: int = 32, blind: int | None = None, bias: tuple[float, ...] = (10.0, 0.0, 0.0, 0.0)) -> Any:
        import keras

        inputs = keras.Input((size, size, 3))
        head = keras.layers.Conv2D(4, 1)
        outputs = keras.layers.Activation("softmax")(head(keras.layers.Rescaling(1 / 255)(inputs)))
        model = keras.Model(inputs, outputs)
        kernel = np.zeros((1, 1, 3, 4), np.float32)
        for class_id, channel in ((1, 2), (2, 1), (3, 0)):
            kernel[0, 0, channel, class_id] = 0.0 if class_id == blind else 30.0
        head.set_weights([kernel, np.array(bias, np.float32)])
        return model

    return make


@pytest.fixture(scope="session")
def write_tiles() -> Callable[..., None]:
    """Writes what Transform gives: tiles of noise with three coloured squares, and their class ids."""

    def write(path: Path, count: int, size: int = 32, seed: int = 0) -> None:
        # TensorFlow, which most tests do without.
        from examples import tile, write_examples

        generator = np.random.default_rng(seed)
        colors = np.array(COLORS, np.uint8)

        def drawn() -> bytes:
            class_ids = np.zeros((1, size, size), np.uint8)
            for class_id in (1, 2, 3):
                row, column = generator.integers(0, size - 10, 2)
                class_ids[0, row : row + 10, column : column + 10] = class_id
            noise = generator.integers(0, 80, (1, size, size, 1))
            return tile((colors[class_ids] * 0.6 + noise).astype(np.uint8), class_ids)

        write_examples(path, (drawn() for _ in range(count)))

    return write


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """The one interpreter that imports TFX for all the processes that need it."""
    server = ForkServer(ENVIRONMENT)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def run_forked(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`run_forked(code, *arguments)`: what `python -c code arguments` prints, TFX imported; a failure is one here."""

    def run(code: str, *arguments: str | Path) -> str:
        log = tmp_path_factory.mktemp("fork") / "log"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        assert fork_server.start(command, ENVIRONMENT, ROOT, log).wait() == 0, log.read_text()[-3000:]
        return log.read_text()

    return run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven through its own protocol; CI installs it."""
    program = shutil.which("chromium")
    if program is None:
        assert "CI" not in os.environ, "CI must install chromium"
        pytest.skip("no chromium on this machine: on Debian, apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(path, width)`: a window of that width; any word of its console and any request fails."""
    contexts, messages = [], []

    def open_(path: Path, width: int = 1280, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.resolve().as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert messages == []
