"""Versions that are signed, and what is refused; the library's own command verifies them as well."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import flexunet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flexunet.core.errors import UserError
from flexunet.serving import signing
from flexunet.serving.model_config import CONFIG_FILE, Named, write_named
from flexunet.serving.versions import Retention, push_version, roll_back

SIGNATURE = Path("assets.extra") / "model.sig"


def make_key(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """Files of a private and a public key, as `openssl ecparam -genkey` writes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, secret))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_key(tmp_path, "mine")


def push(folder: Path, mark: str, complete: Callable[[Path], None] = lambda version: None) -> Path:
    model = folder / mark
    (model / "assets.extra").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(mark.encode())
    (model / "assets.extra" / "config.json").write_text("{}")
    return push_version(model, folder / "serving_model", {}, Retention(), complete=complete)


def signed(folder: Path, mark: str, private: Path) -> Path:
    return push(folder, mark, lambda version: signing.sign(version, private))


def test_what_was_signed_is_taken_here_and_by_the_librarys_own_command(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    version = signed(tmp_path, "a", keys[0])
    signing.verify(version, keys[1])
    command = [sys.executable, "-m", "model_signing", "verify", "key", version, "--signature", version / SIGNATURE]
    left_out = ["--ignore-paths", version / "assets.extra" / "provenance.json", "--ignore-paths", version / SIGNATURE]
    done = subprocess.run([*command, "--public_key", keys[1], *left_out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rollback_needs_no_key_and_stays_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    signed(tmp_path, "a", keys[0])
    signed(tmp_path, "b", keys[0])
    restored = roll_back(tmp_path / "serving_model").version
    assert restored.name == "3"
    signing.verify(restored, keys[1])


def test_a_model_that_was_a_version_loses_the_signature_of_that_push(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    version = signed(tmp_path, "a", keys[0])
    again = push_version(version, tmp_path / "elsewhere", {}, Retention())
    assert not signing.is_signed(again)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda version: (version / SIGNATURE).unlink(), "not signed"),
        (lambda version: (version / "saved_model.pb").write_bytes(b"other"), "not those that were signed"),
        (lambda version: (version / "assets.extra" / "config.json").write_text("{} "), "not those that were signed"),
        (lambda version: (version / "variables").write_bytes(b"more"), "not those that were signed"),
        (lambda version: (version / "saved_model.pb").rename(version / "saved_model.pbtxt"), "not those that were"),
        (lambda version: (version / SIGNATURE).write_text("{}"), "damaged"),
        (lambda version: (version / SIGNATURE).write_bytes(b"\xff\x00"), "damaged"),
    ],
    ids=["unsigned", "graph", "config", "added", "renamed", "emptied", "garbage"],
)
def test_what_is_not_what_was_signed_is_refused_in_one_line(
    tmp_path: Path, keys: tuple[Path, Path], spoil: Callable[[Path], None], words: str
) -> None:
    version = signed(tmp_path, "a", keys[0])
    spoil(version)
    with pytest.raises(UserError, match=words) as refused:
        signing.verify(version, keys[1])
    assert "\n" not in str(refused.value)


def test_a_signature_of_another_model_or_key_is_refused(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    first, second = signed(tmp_path, "a", keys[0]), signed(tmp_path, "b", keys[0])
    foreign = make_key(tmp_path, "foreign")
    with pytest.raises(UserError, match="signed with another key"):
        signing.verify(first, foreign[1])
    (second / SIGNATURE).write_bytes((first / SIGNATURE).read_bytes())
    with pytest.raises(UserError, match="not those that were signed"):
        signing.verify(second, keys[1])


def test_commands_and_the_init_container_refuse_with_1(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    version = push(tmp_path, "a")
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"")
    verified = ["--verify", str(keys[1])]
    for command in (["serve", str(version)], ["predict", str(version), str(photo), "--out", "out"]):
        done = flexunet(tmp_path, *command, *verified)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1) and "not signed" in done.stderr
    assert not (tmp_path / "out").exists()
    done = flexunet(
        tmp_path, "predict", "grpc://localhost:1", str(photo), "--out", "out", "--config", "demo", *verified
    )
    assert done.exit_code == 1 and "servers verify before they serve" in done.stderr
    with pytest.raises(SystemExit, match=r"^error: .*not signed"):
        signing.main([str(keys[1]), str(version.parent)])
    signing.sign(version, keys[0])
    signing.main([str(keys[1]), str(version.parent)])
    # Both that a file names are served.
    push(tmp_path, "b")
    write_named(version.parent, Named(str(version.parent), 1, 2))
    with pytest.raises(SystemExit, match="2: not signed"):
        signing.main([str(keys[1]), str(version.parent)])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: write_named(folder, Named(str(folder), 1)), "2: not signed"),
        (lambda folder: write_named(folder, Named(str(folder / ".x"), 1)), "base_path is .*[.]x, expected"),
        (
            lambda folder: reword(folder, "versions: 1", "versions: 1 versions: 2"),
            "expected what `flexunet live canary`",
        ),
        (lambda folder: reword(folder, "specific {\n        versions: 1\n      }", "all {}"), "expected what `flex"),
        (lambda folder: reword(folder, 'key: "stable"', 'key: "other"'), "expected what `flexunet live canary`"),
        (lambda folder: (folder / "099").mkdir(), "099: a server reads a number there"),
        (lambda folder: (folder / "+9").mkdir(), "9: a server reads a number there"),
    ],
    ids=["newest", "base path", "two", "all", "label", "zeros", "plus"],
)
def test_the_init_container_refuses_whatever_a_server_could_load_unsigned(
    tmp_path: Path, keys: tuple[Path, Path], spoil: Callable[[Path], None], words: str
) -> None:
    """Version 1 is signed, 2 is not: whoever writes into the folder puts there what makes a server take 2."""
    folder = signed(tmp_path, "a", keys[0]).parent
    write_named(folder, Named(str(folder), 1))
    signing.main([str(keys[1]), str(folder)])
    push(tmp_path, "b")
    spoil(folder)
    with pytest.raises(SystemExit, match=words):
        signing.main([str(keys[1]), str(folder)])


def reword(folder: Path, old: str, new: str) -> None:
    text = (folder / CONFIG_FILE).read_text()
    assert old in text
    (folder / CONFIG_FILE).write_text(text.replace(old, new))


def test_docker_verifies_what_the_container_will_follow(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """`stable` is signed; without --model-config TF Serving takes the newest, and with it the canary as well."""
    folder = signed(tmp_path, "a", keys[0]).parent
    push(tmp_path, "b")
    command = ["serve", str(folder), "--docker", "--verify", str(keys[1])]
    for named, more in ((Named("/models/flexunet", 1), []), (Named("/models/flexunet", 1, 2), ["--model-config"])):
        write_named(folder, named)
        done = flexunet(tmp_path, *command, *more, *([str(folder / CONFIG_FILE)] if more else []))
        assert done.exit_code == 1 and "2: not signed" in done.stderr
    write_named(folder, Named("/models/flexunet", 1))
    assert flexunet(tmp_path, *command, "--model-config", str(folder / CONFIG_FILE)).exit_code == 0


def test_a_key_is_known_by_itself_and_tried_before_a_run(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    version, other = signed(tmp_path, "a", keys[0]), make_key(tmp_path, "other")
    assert signing.signed_by(version, keys[0]) and not signing.signed_by(version, other[0])
    assert signing.key_fingerprint(keys[0]) != signing.key_fingerprint(other[0])
    setting = ["--set", "serving.signing_key='no.pem'"]
    done = flexunet(tmp_path, "run", "--config", "demo", "--data", "records", "--root", "root", *setting)
    assert done.exit_code == 1 and "no.pem: no such file, expected a private key" in done.stderr
    assert not (tmp_path / "root").exists()


def test_files_of_git_count_and_a_relative_folder_is_the_same(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    version = signed(Path(), "a", keys[0])
    signing.verify(tmp_path / version, keys[1])
    (version / ".git").mkdir()
    (version / ".git" / "config").write_text("")
    with pytest.raises(UserError, match="not those that were signed"):
        signing.verify(version, keys[1])


def test_the_password_of_a_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_key(tmp_path, "locked", b"secret")
    monkeypatch.delenv(signing.PASSWORD_VARIABLE, raising=False)
    for password in (None, "wrong"):
        if password:
            monkeypatch.setenv(signing.PASSWORD_VARIABLE, password)
        with pytest.raises(UserError, match=signing.PASSWORD_VARIABLE):
            signed(tmp_path / str(password), "a", private)
        # Nothing half-signed is left to serve.
        assert not [*(tmp_path / str(password) / "serving_model").glob("[0-9]*")]
    monkeypatch.setenv(signing.PASSWORD_VARIABLE, "secret")
    signing.verify(signed(tmp_path / "right", "a", private), public)


@pytest.mark.parametrize(
    "content", [None, b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_one_line(tmp_path: Path, keys: tuple[Path, Path], content: bytes | None) -> None:
    version, no_key = signed(tmp_path, "a", keys[0]), tmp_path / "no.pem"
    if content is not None:
        no_key.write_bytes(content)
    with pytest.raises(UserError, match=r"no\.pem"):
        signing.sign(version, no_key)
    with pytest.raises(UserError, match=r"no\.pem"):
        signing.verify(version, no_key)
