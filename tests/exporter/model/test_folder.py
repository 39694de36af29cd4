"""A model's folder as a stranger may have laid it out: links, sizes, names, cards, and whether it
stays what it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from goldfold.exporter.errors import ModelError, UsageError
from goldfold.exporter.frontend import model_folder
from goldfold.exporter.frontend.source import Source, check_finite, open_model
from goldfold.exporter.system import files
from tests.exporter.model.refusing import refuse

# --- links


@pytest.mark.parametrize(
    "key",
    ["README.md", "LICENSE", "tokenizer.json", "config.json", "1_Pooling/config.json", "x.csv"],
)
def test_a_text_that_is_a_link_out_of_the_folder_is_refused(
    key: str, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    held = (folder / key).read_text("utf-8") if (folder / key).exists() else "token"
    secret.write_text(held, "utf-8")
    (folder / key).unlink(missing_ok=True)
    (folder / key).symlink_to(secret)
    refuse((key, "leads out of the model's folder"), folder)


def test_a_folder_that_is_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "1_Pooling").rename(tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    refuse(("1_Pooling", "leads out of the model's folder"), folder)


def test_a_link_through_a_link_is_followed_to_its_end(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("token")
    (folder / "first").symlink_to(tmp_path)
    (folder / "LICENSE").symlink_to("first/secret")
    refuse(("leads out of the model's folder",), folder)


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    before = open_model(folder).digests
    (folder / "texts").mkdir()
    (folder / "config.json").rename(folder / "texts" / "real.json")
    (folder / "config.json").symlink_to("texts/real.json")
    source = open_model(folder)
    assert source.digests["config.json"] == before["config.json"]


def hub(folder: Path, tmp_path: Path) -> Path:
    """The folder as the hub's own cache lays it out: every file a link to a blob."""
    home = tmp_path / "models--org--some-bert"
    snapshot = home / "snapshots" / "0123456789abcdef"
    (home / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = home / "blobs" / f"{number:040x}"
        shutil.copy(path, blob)
        place = snapshot / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot


def test_the_hub_s_cache_opens_as_it_is(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    before = open_model(folder)
    source = open_model(hub(folder, tmp_path))
    check_finite(source)
    assert source.digests == before.digests and source.licence == "mit"
    source.check_unchanged()
    (tmp_path / "mine").symlink_to(source.path)
    assert open_model(tmp_path / "mine").digests == before.digests


def test_the_hub_s_cache_links_to_its_own_blobs_alone(folder: Path, tmp_path: Path) -> None:
    snapshot = hub(folder, tmp_path)
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "secret").write_text("token")
    (snapshot / "LICENSE").symlink_to(other / "secret")
    refuse(("LICENSE", "leads out"), snapshot)
    (snapshot / "LICENSE").unlink()
    home = snapshot.parents[1]
    (home / "blobs").rename(tmp_path / "elsewhere")
    (home / "blobs").symlink_to(tmp_path / "elsewhere")
    refuse(("leads out",), snapshot)


def test_weights_alone_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    before = open_model(folder).digests
    (folder / "model.safetensors").rename(tmp_path / "disk")
    (folder / "model.safetensors").symlink_to(tmp_path / "disk")
    source = open_model(folder)
    check_finite(source)
    assert source.digests == before


# --- sizes and names


@pytest.mark.parametrize("key", ["README.md", "LICENSE", "vocab.txt", "tokenizer.json"])
def test_texts_of_holes_are_refused_at_once(key: str, folder: Path) -> None:
    with (folder / key).open("ab") as file:
        file.truncate(1 << 30)
    started = time.monotonic()
    refuse((key, "larger than"), folder)
    assert time.monotonic() - started < 5


def test_licences_together_are_bounded_as_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "CARD_LIMIT", 1000)
    for number in range(5):
        (folder / f"LICENSE-{number}").write_text("x" * 900)
    refuse(("LICENSE-4", "no licence is"), folder)


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("tokenizer_config.json", "[" + "[]," * (1 << 20), "values"),
        ("vocab.txt", "a\n" * (1 << 22) + "a\na\n", "lines"),
    ],
)
def test_texts_that_would_fill_the_memory_are_refused(
    key: str, text: str, why: str, folder: Path
) -> None:
    (folder / key).write_text(text)
    refuse((key, why), folder)


def test_half_a_character_is_refused(folder: Path) -> None:
    """Nothing that is written of it could be read again."""
    file = folder / "config.json"
    text = file.read_text("utf-8")
    file.write_text(text.replace("{", '{"_name_or_path": "\\ud83e\\udd80", ', 1), "utf-8")
    open_model(folder)
    file.write_text(text.replace("{", '{"_name_or_path": "\\uD83e", ', 1), "utf-8")
    refuse(("config.json", "half a character"), folder)


def test_big_files_that_define_nothing_are_nobody_s_business(folder: Path) -> None:
    with (folder / "train.jsonl").open("wb") as file:
        file.truncate(1 << 30)
    (folder / "train.jsonl").rename(folder / "data.csv")
    open_model(folder)


def test_names_that_are_no_utf8_are_refused(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.txt")).write_text("x")
    refuse(("caf", "not UTF-8"), folder)


def test_too_many_files_and_too_deep_ones_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.joinpath(*"a" * 40).mkdir(parents=True)
    refuse(("levels",), folder)
    shutil.rmtree(folder / "a")
    monkeypatch.setattr(model_folder, "MOST", 5)
    refuse(("more than 5 files",), folder)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "x" * 256])
def test_a_name_is_one_line(name: str, folder: Path) -> None:
    with pytest.raises(UsageError, match="one line"):
        open_model(folder, name=name)


def test_a_folder_s_own_name_becomes_one_line(folder: Path) -> None:
    odd = folder.rename(folder.with_name("a\nb\x1b[2J"))
    assert open_model(odd).name == "a b�[2J"


# --- the card


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: gemma", "gemma"),
        ('license: "apache-2.0"  # or later', "apache-2.0"),
        ("tags: [a]\nlicense:\n- mit\n- gemma\nlanguage: en", "mit, gemma"),
        ("license:\n  - mit\nx: 1", "mit"),
        ("license: [mit, gemma]", "mit, gemma"),
        ("license: 3", "3"),
        ("x:\n  license: mit", None),
        ("license_name: mine", None),
        ("license:", None),
        ("license: {a: b}", None),
        ("license: [[mit]]", None),
        ("a: &a mit\nlicense: *a", None),
        ("license: a\x1b[2Jb", None),
        ("license: " + "x" * 5000, None),
        ("a: [\nlicense: mit", "mit"),  # a slip elsewhere is nobody's business
    ],
)
def test_the_licence_of_a_card(front: str, licence: str | None, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    for end in ("\n", "\r\n"):
        card.write_text(f"---\n{front}\n---\n# card\n".replace("\n", end), "utf-8", newline="")
        assert model_folder.licence_of(card) == licence


@pytest.mark.parametrize(
    "front",
    [
        "a0: &a0 [x]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
        + "license: *a9",
        "license: &b [&a [x], *a, *a, *a, *a]",
        "a: &a {k: v}\nb: &b {<<: [*a, *a]}\nlicense: {<<: [*b, *b]}",
        "license: " + "[" * 4000,
        "license: !!python/object/apply:os.system ['true']",
        "\n".join(f"k{i}: v" for i in range(1_000_000)),
        "license: [x\n" * 300_000,
        "license:" + "\n- a" * 500_000,
    ],
    ids=["laughs", "alias", "merge", "deep", "object", "long", "twice", "list"],
)
def test_a_card_costs_no_time(front: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"---\n{front}\n---\n", "utf-8")
    started = time.process_time()
    assert model_folder.licence_of(card) is None
    assert time.process_time() - started < 2


# --- whether it stays what it was


def replaced(source: Source) -> None:
    fresh = source.path / "fresh"
    shutil.copy2(source.path / "model.safetensors", fresh)
    fresh.rename(source.path / "model.safetensors")


def swapped_and_back(source: Source) -> None:
    weights, aside = source.path / "model.safetensors", source.path.with_name("aside")
    weights.rename(aside)
    weights.write_bytes(b"other")
    weights.unlink()
    aside.rename(weights)


def folder_swapped_and_back(source: Source) -> None:
    pooling, aside = source.path / "1_Pooling", source.path.with_name("aside")
    pooling.rename(aside)
    aside.rename(pooling)


def appended(source: Source) -> None:
    with (source.path / "config.json").open("a") as file:
        file.write("\n")
    os.utime(source.path / "config.json", (1, 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replaced, "model.safetensors"),
        (swapped_and_back, "model.safetensors"),
        (folder_swapped_and_back, "1_Pooling"),
        (appended, "config.json"),
        (lambda source: (source.path / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda source: (source.path / "adapter_config.json").write_text("{}"), "adapter_config"),
    ],
    ids=["replaced", "and back", "folder and back", "written", "gone", "added"],
)
def test_a_model_that_changes_is_noticed(
    change: Callable[[Source], object], named: str, folder: Path
) -> None:
    source = open_model(folder)
    assert source.digests
    source.check_unchanged()
    change(source)
    with pytest.raises(ModelError, match=f"{named}.*changed while the model was used"):
        source.check_unchanged()


def test_a_model_that_changes_before_its_digests_is_noticed(folder: Path) -> None:
    """Its headers and its settings were looked at when it was opened."""
    source = open_model(folder)
    replaced(source)
    with pytest.raises(ModelError, match="changed while the model was used"):
        _ = source.digests


def test_what_changes_nothing_of_the_model_is_nobody_s_business(folder: Path) -> None:
    source = open_model(folder)
    assert source.digests
    (folder / ".DS_Store").write_text("x")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text("x")
    (folder / "pytorch_model.bin").write_text("x")
    source.check_unchanged()


def test_a_drive_that_gives_a_file_another_number_is_no_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_model(folder)
    assert source.digests
    of = files.Identity.of.__func__
    monkeypatch.setattr(
        files.Identity,
        "of",
        classmethod(lambda cls, file: of(cls, file)._replace(inode=id(object()))),
    )
    source.check_unchanged()
    monkeypatch.setattr(model_folder, "digest_file", lambda path: "0" * 64)
    with pytest.raises(ModelError, match="changed"):
        source.check_unchanged()


def test_a_link_that_was_led_elsewhere_and_back_is_noticed(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "real")
    shutil.copy(tmp_path / "real", tmp_path / "other")
    (folder / "model.safetensors").symlink_to(tmp_path / "real")
    source = open_model(folder)
    assert source.digests
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "real")
    with pytest.raises(ModelError, match="changed"):
        source.check_unchanged()


def test_what_is_copied_is_what_its_digest_is_of(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("terms")
    digest = files.digest(tmp_path / "a")
    model_folder.copy_text(tmp_path / "a", digest, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "terms"
    (tmp_path / "a").write_text("other")
    with pytest.raises(ModelError, match="changed while the model was exported"):
        model_folder.copy_text(tmp_path / "a", digest, tmp_path / "c")
    assert not (tmp_path / "c").exists()
