"""Versions signed with a key of one's own, and refused where they are not what was signed: OpenSSF's model-signing,
without network.

The signature lies in `assets.extra` and covers every file of a version but `provenance.json`: a rollback writes that
anew, and must need no key. Keys are PEM files of an elliptic curve, as OpenSSL makes them; the password of a private
one comes from the environment.

    python -m flexunet.serving.signing PUBLIC_KEY DIR    # as the manifests' init container asks
"""

import os
import sys
from pathlib import Path
from typing import Final

from flexunet.core.errors import UserError, last_line
from flexunet.core.features import ASSETS_EXTRA, EXPORTED_PROVENANCE, EXPORTED_SIGNATURE
from flexunet.serving.model_config import read_named
from flexunet.serving.versions import model_directory

PASSWORD_VARIABLE: Final = "FLEXUNET_SIGNING_PASSWORD"  # noqa: S105  its name


def is_signed(version: Path) -> bool:
    """Whether there is a signature, of whomever."""
    return (version / ASSETS_EXTRA / EXPORTED_SIGNATURE).is_file()


def sign(version: Path, private_key: Path) -> None:
    """Signs a version's folder; whatever is written there afterwards, but for its provenance, breaks it.

    Raises:
      UserError: the key cannot be used.
    """
    from model_signing import hashing, signing

    if not private_key.is_file():
        raise UserError(f"{private_key}: no such file, expected a private key, a PEM file: see serving.signing_key")
    password = os.environ.get(PASSWORD_VARIABLE)
    signature = version / ASSETS_EXTRA / EXPORTED_SIGNATURE
    unsigned = [version / ASSETS_EXTRA / EXPORTED_PROVENANCE, signature]
    left_out = hashing.Config().set_ignored_paths(paths=unsigned, ignore_git_paths=False)
    try:
        # It says str, and gives it to a library that takes bytes.
        secret: str | None = password.encode() if password else None  # pyright: ignore[reportAssignmentType]
        signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{private_key}: {last_line(error)}; expected a private key of an elliptic curve, a PEM file, and its "
            f"password in {PASSWORD_VARIABLE}"
        ) from None
    signer.set_hashing_config(left_out).sign(version, signature)


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
        verifier.verify(version, version / ASSETS_EXTRA / EXPORTED_SIGNATURE)
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
    """Exits with 1 and one line where a version that is served is not what was signed."""
    key, directory = (Path(argument) for argument in arguments)
    try:
        named = read_named(directory)
        served = [directory / str(number) for number in named.versions] if named else [model_directory(directory)]
        for version in served:
            verify(version, key)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
