"""OpenVINO's tokenizer of a vocabulary that names its bytes, as Gemma's does: it gives every text
the ids of tokenizer.json, refuses those without a row, and is not written where it would differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from goldfold.exporter.contract import Contract
from goldfold.targets.openvino import tokengraph, tokenizer
from tests.conftest import Exported

MERGES = [("\u2581", "<"), ("h", "e"), ("he", "r"), ("0", "x"), ("4", "1"), (">", ">"), ("<", "<")]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]


def words(merges: list[tuple[str, str]] = MERGES) -> Tokenizer:
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789ABCDEF<>\u2581é"})
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    entries = [*SPECIAL, *names, *letters, *("".join(pair) for pair in merges)]
    vocabulary = {entry: place for place, entry in enumerate(entries)}
    made = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Replace(" ", "\u2581")  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")  # type: ignore[assignment]
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    ends = [("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    made.post_processor = processors.TemplateProcessing("<bos> $A <eos>", None, ends)  # type: ignore[assignment]
    made.enable_truncation(60)
    return made


@pytest.fixture
def contract(exported: Exported) -> Contract:
    size = words().get_vocab_size(with_added_tokens=True)
    update = {"max_length": 60, "lengths": {}, "pad_id": 0, "vocab_size": size}
    return exported.program.contract.with_(**update)


def written(made: Tokenizer, contract: Contract, folder: Path) -> str:
    made.save(str(folder / "tokenizer.json"))
    return tokenizer.write(folder, contract, {})


def ids(folder: Path, text: str) -> list[int]:
    import openvino_tokenizers  # noqa: F401

    model = ov.Core().compile_model(folder / tokengraph.XML, "CPU")
    return np.asarray(model([text])["input_ids"])[0].tolist()


@pytest.mark.parametrize(
    "text",
    ["<0x41>", "a <0x41> b", "x<0x0A>", "<<0x41>>", "<0x4g>", "<bos><0x41>", "é\U0001f468<0x4"],
)  # fmt: skip
def test_the_name_of_a_byte_is_read_as_letters(
    text: str, contract: Contract, tmp_path: Path
) -> None:
    made = words()
    said = written(made, contract, tmp_path)
    assert "others what the source's tokenizer does" in said
    assert ids(tmp_path, text) == made.encode(text).ids


@pytest.mark.parametrize("why", ["nothing is mended", "a merge reaches over the split"])
def test_a_tokenizer_that_drawn_texts_tell_apart_is_not_written(
    why: str, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merges = MERGES
    if why == "nothing is mended":
        monkeypatch.setattr(tokengraph, "_split_bytes", lambda model, words: False)
    else:
        merges = [*MERGES, ("<", "0")]
    said = written(words(merges), contract, tmp_path)
    assert "is not written: it gives" in said and " texts other ids, first 'in <0x" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_token_without_a_row_is_refused(contract: Contract, tmp_path: Path) -> None:
    """OpenVINO would look up zeros for it."""
    made = words()
    made.add_tokens(["<image>"])
    written(made, contract, tmp_path)
    assert ids(tmp_path, "her") == made.encode("her").ids
    with pytest.raises(RuntimeError, match=tokengraph.BEYOND):
        ids(tmp_path, "her <image>")
