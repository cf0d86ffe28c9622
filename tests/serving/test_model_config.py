"""`models.config`: TF Serving's own message reads it, and what it would refuse is refused here."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from flexunet.core.errors import UserError
from flexunet.live import canary
from flexunet.serving.model_config import CONFIG_FILE, Named, parse_config, read_named, write_named
from flexunet.serving.versions import (
    Retention,
    model_directory,
    push_version,
    roll_back,
    rolled_back,
    version_hash,
    versions,
)


def push(folder: Path, marks: str, keep: int | None = None) -> Path:
    for mark in marks:
        (folder / mark).mkdir()
        (folder / mark / "saved_model.pb").write_bytes(mark.encode())
        push_version(folder / mark, folder / "serving_model", {}, Retention(keep))
    return folder / "serving_model"


def test_tf_servings_own_message_reads_what_is_written(tmp_path: Path) -> None:
    write_named(tmp_path, Named("/models/flexunet", 3, 7))
    text = (tmp_path / CONFIG_FILE).read_text()
    [model] = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("flexunet", "/models/flexunet", "tensorflow")
    assert [*model.model_version_policy.specific.versions] == [3, 7]
    assert dict(model.version_labels) == {"stable": 3, "canary": 7}
    assert read_named(tmp_path) == Named("/models/flexunet", 3, 7)
    assert read_named(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected a ModelServerConfig"),
        ("model_config_list { config { nome: 'a' } }", "no field named"),
        ("", "names no model"),
        ("model_config_list { config { name: 'a' base_path: 'a' model_platform: 'tensorflow' } }", "absolute path"),
        ("model_config_list { config { name: 'a' base_path: '/a' } }", "model_platform is missing"),
        ("model_config_list { " + "config { name: 'a' base_path: '/a' model_platform: 'x' } " * 2 + "}", "twice"),
    ],
)
def test_what_a_server_would_not_start_with_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        parse_config(tmp_path / CONFIG_FILE)
    assert "\n" not in str(refused.value)


def test_a_canary_is_begun_promoted_and_given_up(tmp_path: Path) -> None:
    serving = push(tmp_path, "a")
    assert canary.begin(serving, None, None) == Named(str(serving), 1)
    assert canary.begin(serving, None, None) == Named(str(serving), 1)
    with pytest.raises(UserError, match="no canary"):
        canary.promote(serving)
    push(tmp_path, "b")
    # Pushed, and not served.
    assert model_directory(serving).name == "1"
    # A server that did not read the file yet would refuse the next one at every poll.
    with pytest.raises(UserError, match="written less than 30 s ago"):
        canary.begin(serving, None, None)
    settle(serving)
    assert canary.begin(serving, None, "/models/flexunet") == Named("/models/flexunet", 1, 2)
    push(tmp_path, "c")
    with pytest.raises(UserError, match="version 2 is the canary already"):
        canary.begin(serving, 3, None)
    assert canary.begin(serving, None, None) == Named("/models/flexunet", 1, 2)
    # Looking again writes nothing: since then the two are compared.
    since = canary.named_since(serving)
    canary.begin(serving, None, None)
    assert canary.named_since(serving) == since > 0
    with pytest.raises(UserError, match="written less than 30 s ago"):
        canary.promote(serving)
    settle(serving)
    assert canary.promote(serving) == Named("/models/flexunet", 2)
    settle(serving)
    assert model_directory(serving).name == "2"
    assert canary.begin(serving, None, None) == Named("/models/flexunet", 2, 3)
    assert canary.give_up(serving) == (Named("/models/flexunet", 2), 3, True)
    assert rolled_back(serving) == {version_hash(serving / "3"): 3}
    with pytest.raises(UserError, match="version 3 was rolled back"):
        canary.begin(serving, None, None)
    with pytest.raises(UserError, match="no version 9, expected one of 1, 2, 3"):
        canary.begin(serving, 9, None)


def settle(serving: Path) -> None:
    """As if what is named was written a minute ago."""
    moment = time.time() - 60
    os.utime(serving / CONFIG_FILE, (moment, moment))


def test_a_rollback_withdraws_only_what_is_served(tmp_path: Path) -> None:
    serving = push(tmp_path, "a")
    canary.begin(serving, None, None)
    push(tmp_path, "bc")
    with pytest.raises(UserError, match=r"answered by version 1, .* expected the newest, 3: `flexunet live canary"):
        roll_back(serving)
    assert versions(serving) == [1, 2, 3] and rolled_back(serving) == {}
    write_named(serving, Named(str(serving), 3))
    assert (roll_back(serving).restored, rolled_back(serving)) == (2, {version_hash(serving / "3"): 3})


def test_the_stable_model_signed_anew_is_given_up_and_not_rolled_back(tmp_path: Path) -> None:
    serving = push(tmp_path, "a")
    canary.begin(serving, None, None)
    push_version(tmp_path / "a", serving, {}, Retention(), again=True)
    settle(serving)
    assert canary.begin(serving, None, None).canary == 2
    assert canary.give_up(serving) == (Named(str(serving), 1), 2, False) and rolled_back(serving) == {}


def test_what_is_named_is_not_removed_by_pushes(tmp_path: Path) -> None:
    serving = push(tmp_path, "a")
    canary.begin(serving, None, None)
    push(tmp_path, "bcdef", keep=2)
    assert versions(serving) == [1, 5, 6]
    settle(serving)
    canary.begin(serving, 5, None)
    push(tmp_path, "ghi", keep=2)
    assert versions(serving) == [1, 5, 8, 9]


def test_a_version_that_the_check_refuses_changes_nothing(tmp_path: Path) -> None:
    serving = push(tmp_path, "a")
    canary.begin(serving, None, None)
    push(tmp_path, "b")

    def refuse(number: str) -> Callable[[Path], None]:
        def check(folder: Path) -> None:
            if folder.name == number:
                raise UserError(f"{folder}: not signed")

        return check

    # The stable one, pushed before there was a key, is served on.
    for number in ("2", "1"):
        with pytest.raises(UserError, match=f"{number}: not signed"):
            canary.begin(serving, None, None, refuse(number))
        assert read_named(serving) == Named(str(serving), 1)
