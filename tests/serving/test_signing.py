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
from flexunet.serving.model_config import Named, write_named
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
