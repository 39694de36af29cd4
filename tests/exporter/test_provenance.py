"""Statements on an artifact, its bill of materials, and their signatures."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from goldfold.exporter.artifact import attestation, bom, bundle, sign, statements
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.cli.app import app
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.verification import several

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    private.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, spki))
    return private, public


def test_statements_name_every_file_and_every_source(artifacts: dict[str, Path]) -> None:
    opened = open_bundle(artifacts["openvino"])
    manifest = opened.manifest
    made, result = statements.all_of(opened, "https://ci.example/workflow@refs/tags/v1")
    for one in (made, result):
        assert one["_type"] == "https://in-toto.io/Statement/v1"
        subjects = {s["name"]: s["digest"]["sha256"] for s in one["subject"]}
        assert subjects == {
            "manifest.json": manifest.digest,
            **{key: entry.sha256 for key, entry in manifest.files.items()},
        }
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = made["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["target"] == "openvino"
    sources = {s["digest"]["sha256"] for s in definition["resolvedDependencies"] if "name" in s}
    assert sources == set(manifest.origin.digests.values())
    uris = [s["uri"] for s in definition["resolvedDependencies"] if "uri" in s]
    assert any(uri.startswith("pkg:pypi/torch@") for uri in uris)
    assert not any("+" in uri for uri in uris)
    run = made["predicate"]["runDetails"]
    assert run["builder"]["id"] == "https://ci.example/workflow@refs/tags/v1"
    assert "metadata" not in run
    assert result["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert result["predicate"]["result"] == "PASSED" and not result["predicate"]["warnedTests"]
    assert result["predicate"]["configuration"]


def test_what_was_proved_is_a_warning_and_a_failure_one(artifacts: dict[str, Path]) -> None:
    from goldfold.golden.reasons import Reason

    opened = open_bundle(artifacts["onnxruntime"])
    assert opened.verdict is not None
    stood = {"status": "proved", "stand_in": "a twin", "not_run": "no device"}
    said = statements._result(opened.manifest, opened.verdict.with_(**stood))
    assert said["result"] == "WARNED" and said["warnedTests"] == ["proved by a twin; no device"]
    failed = opened.verdict.with_(status="failed", reasons=(Reason("contract", note="Far."),))
    said = statements._result(opened.manifest, failed)
    assert said["result"] == "FAILED" and said["failedTests"] and not said["passedTests"]


def test_time_is_that_of_the_environment_alone(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_bundle(artifacts["openvino"])
    assert bom.text(opened) == bom.text(opened) and '"timestamp"' not in bom.text(opened)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = statements.provenance(opened)
    when = made["predicate"]["runDetails"]["metadata"]["finishedOn"]
    assert when == "2023-11-14T22:13:20Z" and f'"timestamp": "{when}"' in bom.text(opened)
    for odd in ("-1", "1.5", "now", "9" * 30, "１７"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", odd)
        with pytest.raises(UsageError, match="is no number of seconds since 1970"):
            bom.text(opened)


def test_signed_statements_lie_beside_the_signature(
    artifacts: dict[str, Path], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifacts["openvino"], tmp_path / "artifact"))
    signature, place = sign.sign_all(folder, keys[0], builder="urn:x")
    assert (signature.name, place.name) == ("artifact.sig", "artifact.intoto.jsonl")
    digest = open_bundle(folder).manifest.digest
    assert several.check_signature([folder], signature, keys[1]) == digest
    found = attestation.check(place, keys[1], digest)
    assert found == statements.all_of(open_bundle(folder), "urn:x")
    bundle.write_verdict(folder, open_bundle(folder).verdict)  # type: ignore[arg-type]
    assert several.check_signature([folder], signature, keys[1]) == digest

    lines = place.read_text("utf-8").splitlines()
    envelope = json.loads(lines[1])
    payload = base64.b64decode(envelope["payload"]).replace(b'"PASSED"', b'"WARNED"')
    forged = envelope | {"payload": base64.b64encode(payload).decode()}
    other = ec.generate_private_key(ec.SECP256R1())
    alien = attestation._envelope(json.loads(base64.b64decode(envelope["payload"])), other)
    for text, said in (
        ("\n".join((lines[0], json.dumps(forged))), "another key, or has been changed"),
        ("\n".join((lines[0], json.dumps(alien))), "another key, or has been changed"),
        (lines[0], "lacks a statement"),
        ("", "lacks a statement"),
        ("{}", "holds an envelope that is none"),
        ("[1, 2", "holds no signed statements"),
    ):
        place.write_text(text, "utf-8")
        with pytest.raises(ArtifactError, match=said):
            several.check_signature([folder], signature, keys[1])
    place.write_text("\n".join(lines), "utf-8")
    with pytest.raises(ArtifactError, match="on another artifact"):
        attestation.check(place, keys[1], "0" * 64)


def test_a_builder_is_a_uri_and_nothing_is_signed_before(
    artifacts: dict[str, Path], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / "x.sig"
    with pytest.raises(UsageError, match="is no URI"):
        sign.sign_all(artifacts["openvino"], keys[0], place, "me and you")
    assert not place.exists()


def _refs(found: Any) -> list[str]:
    if isinstance(found, list):
        return [ref for one in found for ref in _refs(one)]
    if isinstance(found, dict):
        own = [found["bom-ref"]] if "bom-ref" in found else []
        return own + [ref for one in found.values() for ref in _refs(one)]
    return []


def test_bill_of_materials(artifacts: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "bom.json"
    lock = ROOT / "constraints-hashed.txt"
    asked = ["sbom", str(artifacts["openvino"]), "--out", str(out), "--lock", str(lock)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    made = json.loads(out.read_text("utf-8"))
    manifest = open_bundle(artifacts["openvino"]).manifest
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    refs = _refs(made)
    assert len(refs) == len(set(refs))
    assert {one["ref"] for one in made["dependencies"]} <= set(refs)
    model = made["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest.digest}]
    files = {
        c["name"]: c["hashes"][0]["content"] for c in made["components"] if c["type"] == "file"
    }
    assert files == {key: entry.sha256 for key, entry in manifest.files.items()}
    packages = {c["name"]: c for c in made["components"] if c["type"] == "library"}
    assert set(packages) == set(manifest.versions)
    hashes = packages["tokenizers"]["externalReferences"][0]["hashes"]
    assert hashes and all(one["content"] in lock.read_text("utf-8") for one in hashes)
    said = CliRunner().invoke(app, ["sbom", str(artifacts["openvino"]), "--statements"]).stdout
    assert [json.loads(line)["_type"] for line in said.splitlines()] == [
        "https://in-toto.io/Statement/v1"
    ] * 2


def test_bill_of_materials_holds_the_official_schema(artifacts: dict[str, Path]) -> None:
    """Where the library is (.ci/sbom makes an environment of it)."""
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(bom.text(open_bundle(artifacts["openvino"]))) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "has no line as name==version"),
        (b"torch==2.0\n", "has no line as name==version"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_lock_without_hashes_is_refused(raw: bytes | None, said: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    if raw is not None:
        lock.write_bytes(raw)
    with pytest.raises(UsageError, match=said):
        bom.read_lock(lock)


def test_a_lock_of_another_system_is_read(tmp_path: Path) -> None:
    digest = "a" * 64
    lock = tmp_path / "lock.txt"
    lock.write_bytes(
        b"\xef\xbb\xbf# locked\r\nHuggingface_Hub==1.0 \\\r\n    --hash=sha256:"
        + digest.encode() + b"\r\n"
    )  # fmt: skip
    assert bom.read_lock(lock) == {("huggingface-hub", "1.0"): (digest,)}
