"""Signatures of artifacts: sign with a key and check a signature, through OpenSSF's model-signing.
Offline.

A signature covers every file of the folder by its sha256, the manifest included, but not
verdict.json and the README.md that shows it: `goldfold verify`, which also checks signatures,
measures and writes them anew. Files that a
desktop leaves in any folder are neither signed nor used (exporter/artifact/manifest.py). The
signature is a sigstore bundle (DSSE, in-toto statement) in a file beside the folder, and
`model_signing verify key` of that library reads it as well.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact import attestation, bundle, statements
from goldfold.exporter.artifact.manifest import is_left, is_own
from goldfold.exporter.errors import ArtifactError, OutputError, UsageError
from goldfold.exporter.system.files import entries, key_of, read_bounded

SUFFIX = ".sig"
_KEY_LIMIT = 64 << 10
_SIGNATURE_LIMIT = 16 << 20
"""Maximum bytes; a signature names every file, in some two hundred bytes."""
_KEYS = "an elliptic-curve key in PEM (secp256r1, secp384r1 or secp521r1)"


def sign(folder: Path, key: Path, signature: Path | None = None) -> Path:
    """Sign the artifact in `folder` with the private `key`; the signature goes to `folder`.sig.

    Raises ArtifactError for a damaged artifact or one that missed its gate, UsageError for a key
    that cannot be used, OutputError if the signature cannot be written. Returns its path.
    """
    library = _library()
    bundle.open_bundle(folder)  # a damaged or failed artifact must not be signed
    place = signature or folder.resolve().with_name(f"{folder.resolve().name}{SUFFIX}")
    if place.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"--signature {place} lies in the artifact, whose files are counted")
    config = library.signing.Config().set_hashing_config(_hashing(library, folder))
    _check_key(key, "--key")
    try:
        config.use_elliptic_key_signer(private_key=key)
    except Exception as error:
        raise UsageError(f"--key {key} is not {_KEYS}: {_reason(error)}") from None
    try:
        config.sign(folder, place)
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror}") from None
    return place


def sign_all(
    folder: Path, key: Path, signature: Path | None = None, builder: str | None = None
) -> tuple[Path, Path]:
    """Sign an artifact as `sign` does, and the statements on it (exporter/artifact/statements.py).

    Returns the paths of the signature and of the statements, which lie beside it. Raises as `sign`.
    """
    _library()
    opened = bundle.open_bundle(folder)
    statements.all_of(opened, builder)  # refuses what it cannot state before anything is written
    place = sign(folder, key, signature)
    return place, attestation.write(opened, key, attestation.place_of(place), builder)


def check_all(folder: Path, signature: Path, public_key: Path) -> str:
    """Check a signature as `check` does, and the statements beside it where there are any."""
    signed = check(folder, signature, public_key)
    place = attestation.place_of(signature)
    if place.is_file():
        attestation.check(place, public_key, signed)
    return signed


def check(folder: Path, signature: Path, public_key: Path) -> str:
    """Check that `signature` belongs to `public_key`, and covers exactly these files.

    Returns the sha256, in hex, of the signed manifest (Manifest.digest): a caller who opens the
    folder afterwards can tell that it is still that artifact.

    Raises ArtifactError saying what does not agree, UsageError for a key that cannot be used.
    """
    library = _library()
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not an artifact folder: there is no such folder")
    _check_key(public_key, "--public-key")
    try:
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:
        raise UsageError(f"--public-key {public_key} is not {_KEYS}: {_reason(error)}") from None
    signed = _check_form(signature)
    # Stated here, not read from the signature: a signature may leave out no file but the verdict.
    verifier.set_hashing_config(_hashing(library, folder))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            verifier.verify(folder, signature)
    except Exception as error:
        reason = _reason(error) or "the signature was made with another key, or has been changed"
        raise ArtifactError(f"{signature} does not sign {folder}: {reason}") from None
    return signed


def _library() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError:
        raise UsageError(
            "signing needs the package model-signing; pip install 'goldfold[sign]' brings it"
        ) from None
    return model_signing


def _hashing(library: Any, folder: Path) -> Any:
    """Hash every file by sha256, for a link the file that it leads to; git's files count like any
    other."""
    config = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    try:
        ignored = [key for entry in entries(folder) if _is_apart(key := key_of(folder, entry.path))]
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from None
    config.set_allow_symlinks(True)
    return config.set_ignored_paths(
        paths=[bundle.VERDICT, bundle.README, *ignored], ignore_git_paths=False
    )


def _is_apart(key: str) -> bool:
    """Returns whether a file is no part of an artifact's identity."""
    return is_left(key) or (is_own(key) and key != bundle.MANIFEST)


def _check_key(key: Path, option: str) -> None:
    try:
        read_bounded(key, _KEY_LIMIT)
    except OSError as error:
        raise UsageError(f"{option} {key}: {error.strerror}; give {_KEYS}") from None


def _check_form(signature: Path) -> str:
    """Returns the digest of the signed manifest. A signature that leaves out more than the verdict
    covers less than it seems to."""
    try:
        envelope = json.loads(read_bounded(signature, _SIGNATURE_LIMIT))["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        left_out = statement["predicate"]["serialization"].get("ignore_paths", [])
        digests = {one["name"]: str(one["digest"]) for one in statement["predicate"]["resources"]}
        signed = digests[bundle.MANIFEST]
    except OSError as error:
        raise ArtifactError(f"{signature} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtifactError(f"{signature} is not a signature that goldfold wrote") from None
    if said := sorted(str(key) for key in left_out if not _is_apart(str(key))):
        raise ArtifactError(f"{signature} leaves out {', '.join(said)}")
    return signed


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
