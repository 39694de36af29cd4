"""Signed statements beside an artifact's signature: `DIR.intoto.jsonl`, one DSSE envelope a line.

    signature = ECDSA("DSSEv1 " + len(type) + " " + type + " " + len(payload) + " " + payload)

The key is that of `goldfold sign`, and the hash follows from its curve. Tools that verify in-toto
attestations with a key of their own read the file.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact.bundle import MANIFEST, Bundle
from goldfold.exporter.artifact.statements import IDENTIFIERS, all_of
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.system.files import read_bounded
from goldfold.exporter.system.writing import write_file

SUFFIX = ".intoto.jsonl"
_TYPE = "application/vnd.in-toto+json"
_LIMIT = 64 << 20
_KEY_LIMIT = 64 << 10


def place_of(signature: Path) -> Path:
    """Returns where the statements lie: beside the signature, its name without `.sig`."""
    return signature.with_name(f"{signature.name.removesuffix('.sig')}{SUFFIX}")


def write(opened: Bundle, key: Path, place: Path, builder: str | None = None) -> Path:
    """Sign the statements on an artifact with the private `key`, into the file `place`.

    Raises UsageError for a key that cannot be used, OutputError if the file cannot be written.
    """
    private = _private(key)
    lines = [json.dumps(_envelope(one, private)) + "\n" for one in all_of(opened, builder)]
    write_file(place, lambda file: file.write("".join(lines).encode()))
    return place


def check(file: Path, public_key: Path, manifest_digest: str) -> list[dict[str, Any]]:
    """Returns the statements in `file`, all signed with the key, and all on the artifact whose
    manifest has this digest. Raises ArtifactError saying what does not agree."""
    public = _public(public_key)
    try:
        lines = read_bounded(file, _LIMIT).decode("utf-8").splitlines()
        envelopes = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{file} holds no signed statements") from None
    found = [_opened(file, one, public) for one in envelopes]
    for statement in found:
        subjects = statement.get("subject")
        named = {
            one["name"]: one["digest"].get("sha256")
            for one in (subjects if isinstance(subjects, list) else [])
            if isinstance(one, dict) and isinstance(one.get("digest"), dict) and "name" in one
        }
        if named.get(MANIFEST) != manifest_digest:
            raise ArtifactError(f"{file}: a statement is on another artifact")
    kinds = {one.get("predicateType") for one in found}
    if lacking := {IDENTIFIERS["provenance"], IDENTIFIERS["test_result"]} - kinds:
        raise ArtifactError(f"{file} lacks a statement: {', '.join(sorted(lacking))}")
    return found


def _pae(payload: bytes) -> bytes:
    return b" ".join(
        (b"DSSEv1", str(len(_TYPE)).encode(), _TYPE.encode(), str(len(payload)).encode(), payload)
    )


def _envelope(statement: dict[str, Any], private: Any) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec

    payload = json.dumps(statement, ensure_ascii=False, sort_keys=True).encode()
    signed = private.sign(_pae(payload), ec.ECDSA(_hash(private.curve)))
    return {
        "payloadType": _TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": base64.b64encode(signed).decode()}],
    }


def _opened(file: Path, envelope: Any, public: Any) -> dict[str, Any]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signed = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
        if envelope["payloadType"] != _TYPE:
            raise ValueError(envelope["payloadType"])
        statement = json.loads(payload)
        if not isinstance(statement, dict) or not signed:
            raise ValueError("no statement")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise ArtifactError(f"{file} holds an envelope that is none") from None
    for one in signed:
        try:
            public.verify(one, _pae(payload), ec.ECDSA(_hash(public.curve)))
        except InvalidSignature:
            continue
        return statement
    raise ArtifactError(f"{file} was signed with another key, or has been changed")


def _hash(curve: Any) -> Any:
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[curve.key_size]()


def _private(key: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _key(key, lambda raw: load_pem_private_key(raw, None), "--key", "cannot sign")


def _public(key: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _key(key, load_pem_public_key, "--public-key", "cannot be used")


def _key(file: Path, load: Callable[[bytes], Any], option: str, cannot: str) -> Any:
    """Returns the key in a file, on a curve that has a hash. Raises UsageError."""
    try:
        found = load(read_bounded(file, _KEY_LIMIT))
        _hash(found.curve)
        return found
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from None
    except Exception as error:
        raise UsageError(f"{option} {file} {cannot}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
