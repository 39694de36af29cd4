"""Signing: what is signed, and every way in which it can be tampered with."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.sign import check, sign
from goldfold.exporter.cli.app import app
from goldfold.exporter.errors import ArtifactError, UsageError

cryptography = pytest.importorskip("cryptography")
pytest.importorskip("model_signing")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Two pairs of (private, public) key files."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        made[name] = (private, public)
    return made


@pytest.fixture
def signed(artifacts: dict[str, Path], tmp_path: Path, keys) -> tuple[Path, Path, Path]:
    """(artifact, signature, public key)."""
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    return folder, sign(folder, keys["ours"][0]), keys["ours"][1]


def test_signature_lies_beside_the_artifact_and_holds(signed) -> None:
    folder, signature, public = signed
    assert signature == folder.with_name("onnxruntime-fp32.sig")
    check(folder, signature, public)
    bundle.open_bundle(folder)  # nothing was added to it


def test_artifact_may_be_moved_and_verified_again(signed, tmp_path: Path) -> None:
    folder, signature, public = signed
    moved = folder.rename(tmp_path / "released")
    verdict = moved / bundle.VERDICT
    verdict.write_text(verdict.read_text() + "\n")  # measured anew, so not part of it
    check(moved, signature, public)


def test_what_a_desktop_leaves_is_no_part_of_it(signed, keys) -> None:
    folder, signature, public = signed
    for key in (".DS_Store", "golden/._golden.json", "@eaDir/load.py", "Thumbs.db"):
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_text("left")
    (folder / f"verdict.json.{'a' * 16}.new").write_text("{")  # of a verification that was killed
    digest = check(folder, signature, public)
    assert digest == bundle.open_bundle(folder).manifest.digest
    again = sign(folder, keys["ours"][0], folder.with_name("again.sig"))
    (folder / ".DS_Store").unlink()
    assert check(folder, again, public) == digest
    (folder / "DS_Store").write_text("planted")
    for one in (signature, again):
        with pytest.raises(ArtifactError, match="does not sign"):
            check(folder, one, public)


def test_a_link_counts_as_what_it_leads_to(signed, keys) -> None:
    folder, signature, public = signed
    elsewhere = folder.with_name("tokenizer.json")
    (folder / "tokenizer.json").rename(elsewhere)
    (folder / "tokenizer.json").symlink_to(elsewhere)
    bundle.open_bundle(folder)
    check(folder, signature, public)
    check(folder, sign(folder, keys["ours"][0], folder.with_name("again.sig")), public)
    flip(elsewhere)
    with pytest.raises(ArtifactError, match="does not sign"):
        check(folder, signature, public)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


TAMPERING = {
    "weights": lambda folder: flip(folder / "model.onnx.data"),
    "graph": lambda folder: flip(folder / "model.onnx"),
    "tokenizer": lambda folder: flip(folder / "tokenizer.json"),
    "manifest": lambda folder: flip(folder / bundle.MANIFEST),
    "goldens": lambda folder: flip(folder / "golden" / "embeddings.npy"),
    "a file taken away": lambda folder: (folder / "tokenizer.json").unlink(),
    "a file added": lambda folder: (folder / "extra.py").write_text("x"),
    "a hidden file added": lambda folder: (folder / ".gitignore").write_text("x"),
    "bytecode added": lambda folder: (
        (folder / "__pycache__").mkdir(),
        (folder / "__pycache__" / "load.cpython-311.pyc").write_bytes(b"x"),
    ),
    "a link": lambda folder: (folder / "link").symlink_to(folder / "model.onnx"),
    "two files swapped": lambda folder: (
        (folder / "model.onnx").rename(folder / "spare"),
        (folder / "tokenizer.json").rename(folder / "model.onnx"),
        (folder / "spare").rename(folder / "tokenizer.json"),
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampered_artifact_is_refused(what: str, signed) -> None:
    folder, signature, public = signed
    TAMPERING[what](folder)
    with pytest.raises(ArtifactError, match="does not sign"):
        check(folder, signature, public)


def test_rewritten_manifest_is_refused_though_it_agrees_with_itself(signed) -> None:
    folder, signature, public = signed
    (folder / "tokenizer.json").write_text("{}")
    manifest = bundle.read_manifest(folder)
    bundle.seal(folder, {k: getattr(manifest, k) for k in type(manifest).__struct_fields__
                         if k not in ("files", "format")})  # fmt: skip
    verdict = json.loads((folder / bundle.VERDICT).read_bytes())
    bundle.write_verdict(folder, bundle.VerdictRecord(**{**verdict, "manifest": ""}))
    bundle.open_bundle(folder, unverified=True)  # digests alone cannot see it
    with pytest.raises(ArtifactError, match="does not sign"):
        check(folder, signature, public)


def test_another_key_does_not_check(signed, keys) -> None:
    folder, signature, _ = signed
    with pytest.raises(ArtifactError, match="Key mismatch"):
        check(folder, signature, keys["theirs"][1])


def altered(signature: Path, change) -> None:
    record = json.loads(signature.read_text())
    statement = json.loads(base64.b64decode(record["dsseEnvelope"]["payload"]))
    change(record, statement)
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    record["dsseEnvelope"]["payload"] = payload
    signature.write_text(json.dumps(record))


def test_altered_signature_is_refused(signed) -> None:
    folder, signature, public = signed
    whole = signature.read_text()

    def forge(record, statement) -> None:
        statement["predicate"]["resources"][0]["digest"] = "0" * 64

    def leave_out(record, statement) -> None:
        statement["predicate"]["serialization"]["ignore_paths"].append("model.onnx")

    for change, said in ((forge, "does not sign"), (leave_out, "leaves out model.onnx")):
        altered(signature, change)
        with pytest.raises(ArtifactError, match=said):
            check(folder, signature, public)
        signature.write_text(whole)
    for junk in ("", "{}", "[]", '{"dsseEnvelope": {"payload": "!"}}', whole[: len(whole) // 2]):
        signature.write_text(junk)
        with pytest.raises(ArtifactError, match="not a signature that goldfold wrote"):
            check(folder, signature, public)
    signature.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        check(folder, signature, public)


def test_what_cannot_be_signed_is_said_in_one_line(signed, keys, tmp_path: Path) -> None:
    folder, _, _public = signed
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(UsageError, match=r"--key .*junk\.pem is not an elliptic-curve key"):
        sign(folder, junk)
    with pytest.raises(UsageError, match="No such file"):
        sign(folder, tmp_path / "none.pem")
    with pytest.raises(UsageError, match="--public-key"):
        check(folder, tmp_path / "onnxruntime-fp32.sig", junk)
    with pytest.raises(UsageError, match="lies in the artifact"):
        sign(folder, keys["ours"][0], folder / "own.sig")
    flip(folder / "model.onnx")
    with pytest.raises(ArtifactError, match="has been changed"):
        sign(folder, keys["ours"][0])


def test_commands(signed, keys) -> None:
    folder, signature, public = signed
    signature.unlink()
    run = CliRunner().invoke
    done = run(app, ["sign", str(folder), "--key", str(keys["ours"][0])])
    assert done.exit_code == 0 and signature.exists(), done.output
    asked = ["verify", str(folder), "--quiet", "--signature", str(signature)]
    done = run(app, [*asked, "--public-key", str(public)])
    assert done.exit_code == 0 and "PASS" in done.output, done.output
    done = run(app, [*asked, "--public-key", str(keys["theirs"][1])])
    assert isinstance(done.exception, ArtifactError)
    assert isinstance(run(app, asked).exception, UsageError)


def test_openssl_keys_work(signed, tmp_path: Path) -> None:
    folder, _signature, _ = signed
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    made = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    out = ["openssl", "ec", "-in", str(key), "-pubout", "-out", str(public)]
    subprocess.run(out, check=True, capture_output=True)
    check(folder, sign(folder, key), public)
