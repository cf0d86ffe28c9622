"""Versions signed with a key of one's own, and refused where they are not what was signed: OpenSSF's model-signing,
without network.

The signature lies in `assets.extra` and covers every file of a version but `provenance.json`: a rollback writes that
anew, and must need no key. Keys are PEM files of an elliptic curve, as OpenSSL makes them; the password of a private
one comes from the environment.

    python -m flexunet.serving.signing PUBLIC_KEY DIR    # as the manifests' init container asks
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flexunet.core.errors import UserError, last_line
from flexunet.core.features import ASSETS_EXTRA, EXPORTED_PROVENANCE, EXPORTED_SIGNATURE
from flexunet.serving.model_config import CONFIG_FILE, read_named
from flexunet.serving.versions import model_directory, newest_version

if TYPE_CHECKING:
    from model_signing import hashing

PASSWORD_VARIABLE: Final = "FLEXUNET_SIGNING_PASSWORD"  # noqa: S105  its name


def is_signed(version: Path) -> bool:
    """Whether there is a signature, of whomever."""
    return (version / ASSETS_EXTRA / EXPORTED_SIGNATURE).is_file()


def sign(version: Path, private_key: Path) -> None:
    """Signs a version's folder; whatever is written there afterwards, but for its provenance, breaks it.

    Raises:
      UserError: the key cannot be used.
    """
    from model_signing import signing

    _public_pem(private_key)
    # It says str, and gives it to a library that takes bytes.
    secret: str | None = _password()  # pyright: ignore[reportAssignmentType]
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    signer.set_hashing_config(_hashed(version)).sign(version, version / ASSETS_EXTRA / EXPORTED_SIGNATURE)


def signed_by(version: Path, private_key: Path) -> bool:
    """Whether a version is what this key signed.

    Raises:
      UserError: the key cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        public_key = Path(folder) / "key.pub"
        public_key.write_bytes(_public_pem(private_key))
        try:
            verify(version, public_key)
        except UserError:
            return False
    return True


def key_fingerprint(private_key: Path) -> str:
    """sha256 of the public key, which tells keys apart, whatever their files are called.

    Raises:
      UserError: the key cannot be used.
    """
    return hashlib.sha256(_public_pem(private_key)).hexdigest()


def check_key(signing_key: str) -> None:
    """Before a run begins, since its Pusher would find out hours later; "" is no key, and none is needed.

    Raises:
      UserError: the key cannot be used.
    """
    if signing_key:
        key_fingerprint(Path(signing_key))


def _public_pem(private_key: Path) -> bytes:
    # Of the extra; the first of them installs the other.
    import model_signing  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not private_key.is_file():
        raise UserError(f"{private_key}: no such file, expected a private key, a PEM file: see serving.signing_key")
    expected = f"expected a private key of an elliptic curve, a PEM file, and its password in {PASSWORD_VARIABLE}"
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), _password())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{private_key}: {last_line(error)}; {expected}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{private_key}: a key of another kind; {expected}")
    spelled = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, spelled)


def _password() -> bytes | None:
    return os.environ.get(PASSWORD_VARIABLE, "").encode() or None


def _hashed(version: Path) -> "hashing.Config":
    """Every file counts but two; git's as well, which the library leaves out by itself."""
    from model_signing import hashing

    left_out = [version.absolute() / ASSETS_EXTRA / name for name in (EXPORTED_PROVENANCE, EXPORTED_SIGNATURE)]
    return hashing.Config().set_ignored_paths(paths=left_out, ignore_git_paths=False)


def verify(version: Path, public_key: Path) -> None:
    """Holds a version's files against its signature.

    Raises:
      UserError: it has none, it is another key's, or a file was changed, added or removed since.
    """
    from model_signing import verifying

    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError) as error:
        raise UserError(f"{public_key}: {last_line(error)}; expected a public key, a PEM file") from None
    if not is_signed(version):
        raise UserError(f"{version}: not signed, expected a version that a run with serving.signing_key pushed")
    try:
        verifier.set_hashing_config(_hashed(version)).verify(version, version / ASSETS_EXTRA / EXPORTED_SIGNATURE)
    # Whatever the library stumbles over in a signature of whomever.
    except Exception as error:  # noqa: BLE001
        raise UserError(f"{version}: refused, {_reason(error)}: do not serve it, push it again from its run") from None


def _reason(error: Exception) -> str:
    if str(error).startswith("Key mismatch"):
        return "signed with another key"
    if str(error).startswith("Signature mismatch"):
        return "its files are not those that were signed"
    return f"its signature is damaged ({type(error).__name__})"


def main(arguments: list[str]) -> None:
    """Exits with 1 and one line where a version that a server may take from there is not what was signed."""
    key, directory = (Path(argument) for argument in arguments)
    try:
        for version in _may_be_served(directory):
            verify(version, key)
    except UserError as error:
        sys.exit(f"error: {error}")


def _may_be_served(directory: Path) -> list[Path]:
    """The newest version, and those that `models.config` names: whichever of the two the server follows.

    Raises:
      UserError: that file, or a folder's name, could make a server load something else.
    """
    for name in _odd_numbers(directory):
        raise UserError(f"{directory / name}: a server reads a number there, expected none but those that pushes write")
    named = read_named(directory)
    if named and named.base_path != str(directory):
        raise UserError(f"{directory / CONFIG_FILE}: base_path is {named.base_path}, expected {directory}")
    served = {directory / str(number) for number in (named.versions if named else [])}
    return sorted({*served, newest_version(directory) or model_directory(directory)})


def _odd_numbers(directory: Path) -> Iterator[str]:
    """Such as `099` and `+99`: TF Serving parses names (`absl::SimpleAtoi`), as `int` does and a little less."""
    for name in sorted(child.name for child in directory.iterdir()) if directory.is_dir() else []:
        try:
            number = int(name)
        except ValueError:
            continue
        if name != str(number):
            yield name


if __name__ == "__main__":
    main(sys.argv[1:])
