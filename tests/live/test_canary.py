"""A canary from its first request to its end: development server, watch and client, over real sockets."""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from command_line import flexunet
from pictures import encoded
from waiting import wait_until
from watch_process import watch_of

from flexunet.core.errors import UserError
from flexunet.live.pairs import Comparer
from flexunet.live.store import Kept, Store
from flexunet.serving.c_api import SavedModel
from flexunet.serving.client import Options, connect, predict_image
from flexunet.serving.loaded import ConfigFile, Loaded, Versions
from flexunet.serving.model_config import CONFIG_FILE, Named, write_named
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.server import Server
from flexunet.serving.transport import ServingError
from flexunet.serving.versions import version_hash

SIZE = 32
# What class 3 is read off: the models below differ in that one of them does not see it.
RED = encoded(np.tile(np.array([255, 0, 0], np.uint8), (SIZE, SIZE, 1)))


@pytest.fixture(scope="module")
def blind(make_config: Any, color_reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does not see class 3."""
    from flexunet.core.config.section import part_of
    from flexunet.core.config.train import TrainerConfig
    from trainer_module.export import export_model

    directory = tmp_path_factory.mktemp("blind") / "1"
    export_model(color_reader(SIZE, blind=3), part_of(make_config(), TrainerConfig), {"parameters": 16}, directory)
    return directory


@pytest.fixture
def serving(root: Path, blind: Path) -> Path:
    """Versions 3, which sees, and 4, which does not; 3 is named."""
    folder = root / "serving_model"
    assert flexunet(root.parent, "live", "canary", "root").exit_code == 0
    shutil.copytree(blind, folder / "4")
    settle(folder)
    return folder


def settle(folder: Path) -> None:
    """As if what is named was written a minute ago."""
    moment = time.time() - 60
    os.utime(folder / CONFIG_FILE, (moment, moment))


@pytest.fixture
def served(serving: Path) -> Iterator[Server]:
    with Server(ConfigFile(serving / CONFIG_FILE), grpc_port=0, rest_port=0, poll_seconds=0.05) as running:
        yield running


def sees(model: Any) -> bool:
    prediction = predict_image(model, RED)
    assert prediction.valid
    return bool(prediction.class_fractions[3] > 0.9)


def versions_of(server: Server, label: str) -> list[bool]:
    """What a label's version sees; none where there is none."""
    with connect(f"grpc://127.0.0.1:{server.grpc_port}", Options(label=label)) as model:
        try:
            return [sees(model)]
        except ServingError:
            return []


def test_a_share_tries_the_canary_and_a_rollback_ends_it(serving: Path, served: Server) -> None:
    root = serving.parent
    arguments = ("--compare", "1", "--keep-images", "1")
    for url in (f"grpc://127.0.0.1:{served.grpc_port}", f"http://127.0.0.1:{served.rest_port}"):
        with connect(url, canary=0.5) as model:
            # No canary yet: all ask the stable one.
            assert all(sees(model) for _ in range(5))
    with (
        watch_of(served, root / "live", *arguments) as watch,
        connect(watch.grpc, canary=0.5) as grpc,
        connect(watch.rest, canary=0.5) as rest,
        connect(watch.grpc, canary=0) as careful,
        ThreadPoolExecutor(4) as pool,
    ):
        done = flexunet(root.parent, "live", "canary", "root")
        assert done.exit_code == 0 and "version 4 is the canary" in done.stdout
        wait_until(lambda: versions_of(served, "canary") == [False])
        for model in (grpc, rest):
            answers = Counter(sees(model) for _ in range(60))
            # A half of 60; less than one in a million is beyond.
            assert 10 < answers[False] < 50
        assert all(sees(careful) for _ in range(10))
        with connect(watch.grpc) as nameless:
            assert not sees(nameless)
        # One that comes while others are compared is left out.
        wait_until(lambda: sees(careful) and told(root)["images"] >= 20)
        found = told(root)
        assert (found["stable"], found["canary"], found["refused"]) == (3, 4, [0, 0])
        assert found["same_pixels"] < 0.1
        assert found["classes"]["scratches"] == {
            "stable": found["images"],
            "canary": 0,
            "only_stable": found["images"],
            "only_canary": 0,
        }
        # Requests under way while it ends: none is lost.
        under_way = [pool.submit(sees, model) for model in (grpc, rest) for _ in range(60)]
        ended = flexunet(root.parent, "live", "rollback", "root")
        assert ended.exit_code == 0 and "version 4 is rolled back" in ended.stdout
        assert all(answer.result() in (True, False) for answer in under_way)
        wait_until(lambda: versions_of(served, "canary") == [])
        assert all(sees(model) for model in (grpc, rest) for _ in range(5))
    state = json.loads((serving / ".pushes.json").read_text())
    assert state["rolled_back"] == {version_hash(serving / "4"): 4}


def told(root: Path) -> dict[str, Any]:
    done = flexunet(root.parent, "live", "canary", "root", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_is_promoted_answers_everybody(serving: Path, served: Server) -> None:
    root = serving.parent
    assert flexunet(root.parent, "live", "canary", "root").exit_code == 0
    wait_until(lambda: versions_of(served, "canary") == [False])
    pair = Comparer(f"127.0.0.1:{served.grpc_port}").compare(RED, time.time())
    assert pair and (pair.stable, pair.canary) == (3, 4)
    watched = Store(Kept(root / "live", days=1))
    watched.add_pair(pair)
    watched.add_pair(replace(pair, stable=2, canary=3))
    settle(serving)
    done = flexunet(root.parent, "live", "promote", "root")
    assert done.exit_code == 0 and "version 4 is stable" in done.stdout
    assert "1 images asked of both" in done.stdout and "left out: 1" in done.stdout
    wait_until(lambda: (versions_of(served, "stable"), versions_of(served, "canary")) == ([False], []))
    with connect(f"http://127.0.0.1:{served.rest_port}", Options(version=3)) as old:
        wait_until(lambda: is_gone(old))
    again = flexunet(root.parent, "live", "promote", "root")
    assert again.exit_code == 1 and "no canary" in again.stderr


def is_gone(model: Any) -> bool:
    try:
        predict_image(model, RED)
    except ServingError as error:
        return "Specific(flexunet, 3)" in str(error)
    return False


def test_labels_are_assigned_before_versions_are_loaded_as_in_tf_serving(serving: Path) -> None:
    """Without the flag nothing with a label starts; with it a label may be new, and moves only to what is there."""
    path, held = serving / CONFIG_FILE, Versions()
    refused = "Request to assign label to version {} of model flexunet, which is not currently available for inference"
    with pytest.raises(UserError, match=refused.format(3)):
        ConfigFile(path, allow_unavailable=False).apply(held)
    assert held.numbers == []
    config = ConfigFile(path)
    config.apply(held)
    assert (held.numbers, held.labels) == ([3], {"stable": 3})
    # As a whole: version 4 would be loaded, was the label not moved.
    write_named(serving, Named(str(serving), 4))
    with pytest.raises(UserError, match=refused.format(4)):
        config.apply(held)
    assert (held.numbers, held.labels) == ([3], {"stable": 3})
    write_named(serving, Named(str(serving), 3, 4))
    config.apply(held)
    assert (held.numbers, held.labels) == ([4, 3], {"stable": 3, "canary": 4})
    # A version in use is freed by who uses it last.
    with held.using(label="stable") as used:
        write_named(serving, Named(str(serving), 4))
        config.apply(held)
        assert (held.numbers, used.retired) == ([4], True)
        assert used.model.run("serving_default", {"image_bytes": np.array([RED], object)})["valid"].tolist() == [True]
    held.close()


def test_a_version_is_freed_once_though_its_last_two_users_end_together() -> None:
    closed: list[int] = []
    retired = Loaded(3, cast("SavedModel", SimpleNamespace(close=lambda: closed.append(3))), pb.SignatureDefMap())
    retired.retired = True
    held = Versions()
    # Both have counted themselves out before the first looks.
    for _ in range(2):
        held._free([retired])
    assert closed == [3]


def test_a_folder_has_no_canary_and_a_server_without_labels_says_so(root: Path, server: Server) -> None:
    with pytest.raises(UserError, match="a folder has no labels"):
        connect(str(root / "serving_model"), canary=0.1)
    with pytest.raises(UserError, match="expected one of them"):
        connect("grpc://localhost:1", Options(version=3), canary=0.1)
    with pytest.raises(UserError, match="version 3 and the label stable, expected one of them"):
        Options(version=3, label="stable")
    with (
        connect(f"grpc://127.0.0.1:{server.grpc_port}", canary=1.0) as model,
        pytest.raises(ServingError, match="Unrecognized servable version label: stable"),
    ):
        predict_image(model, RED)
