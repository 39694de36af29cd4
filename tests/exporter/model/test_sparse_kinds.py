"""Which folders are sparse encoders, and which of those are refused, each in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.source import open_model
from tests import sparse_models
from tests.exporter.model.refusing import edit, refuse

DOTTED = "sentence_transformers.sparse_encoder.modules"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sparse")
    made = {
        form: sparse_models.build("bert", folder / form, form) for form in ("saved", "hub", "bare")
    }
    made["static"] = sparse_models.static(folder / "static")
    made["csr"] = sparse_models.csr("bert", folder / "csr", folder / "dense")
    made["routed"] = sparse_models.routed(folder / "routed", folder / "masked")
    return made


@pytest.fixture
def copy(built: dict[str, Path], tmp_path: Path):
    return lambda name: Path(shutil.copytree(built[name], tmp_path / name))


def test_sparse_folders(built: dict[str, Path]) -> None:
    for form in ("saved", "hub", "bare"):
        source = open_model(built[form])
        kinds = [module.kind for module in source.modules]
        first = "MLMTransformer" if form == "hub" else "Transformer"
        assert (source.task, source.route, kinds) == ("sparse", "", [first, "SpladePooling"])
        assert not source.notes and [file.name for file in source.weights] == ["model.safetensors"]
    assert open_model(built["static"]).modules[0].kind == "SparseStaticEmbedding"
    source = open_model(built["csr"])
    kinds = ["Transformer", "Pooling", "Normalize", "SparseAutoEncoder"]
    assert (source.task, [module.kind for module in source.modules]) == ("sparse", kinds)
    assert len(source.weights) == 2


def test_routes(built: dict[str, Path]) -> None:
    found = {route: open_model(built["routed"], route=route) for route in ("query", "document")}
    assert [module.path for module in found["document"].modules] == [
        "document_0_Transformer",
        "document_1_SpladePooling",
    ]
    assert [source.name for source in found.values()] == ["routed-query", "routed-document"]
    assert open_model(built["routed"], route="query", name="mine").name == "mine"
    # One folder is one model, whose weights are all loaded.
    assert len({source.fingerprint for source in found.values()}) == 1
    assert len(found["query"].weights) == 2 and "router_config.json" in found["query"].defining
    with pytest.raises(UsageError, match="routed has the routes query, document: name one with"):
        open_model(built["routed"])
    with pytest.raises(UsageError, match="--route query: static has no routes; leave it out"):
        open_model(built["static"], route="query")


def test_masked_language_models_stay_embedding_models(copy) -> None:
    folder = copy("bare")
    (folder / "README.md").write_text("---\ntags:\n- fill-mask\n---\n", "utf-8")
    assert open_model(folder).task == "embedding"
    (folder / "README.md").write_text("---\ntags: [sparse-encoder]\n---\n", "utf-8")
    assert open_model(folder).task == "sparse"
    edit(folder / "config.json", lambda config: config.update(architectures=["BertModel"]))
    refuse(("README.md", "'sparse-encoder'", "sparse encoder"), folder)


def test_a_model_that_does_not_say_that_it_is_sparse(copy) -> None:
    folder = copy("saved")
    edit(folder / "config_sentence_transformers.json", lambda said: said.pop("model_type") and said)
    refuse(("SpladePooling", "set model_type to 'SparseEncoder'"), folder)


def test_modules_that_are_not_supported(copy) -> None:
    folder = copy("saved")
    listed = folder / "modules.json"
    edit(listed, lambda modules: modules[1].update(type=f"{DOTTED}.SparseAutoEncoder"))
    refuse(("Transformer, SparseAutoEncoder;", "Pooling and at the end"), folder)
    edit(listed, lambda modules: modules[1].update(type=f"{DOTTED}.CSRSparsity"))
    refuse(("CSRSparsity", "no longer loads", f"{DOTTED}.SparseAutoEncoder"), folder)
    edit(listed, lambda modules: modules[1].update(type=f"{DOTTED}.LSTM"))
    refuse(("LSTM", "which goldfold does not support"), folder)
    edit(listed, lambda modules: modules[:1])
    refuse(("its modules are Transformer;", "SpladePooling"), folder)
    edit(listed, lambda modules: modules[0].update(type="custom.Encoder"))
    refuse(("custom.Encoder", "run code from the model's folder"), folder)


@pytest.mark.parametrize(
    ("name", "file", "change", "culprits"),
    [
        ("saved", "1_SpladePooling/config.json", {"pooling_strategy": "mean"}, ("max, sum",)),
        (
            "saved",
            "1_SpladePooling/config.json",
            {"activation_function": "gelu"},
            ("activation_function is 'gelu'", "relu, log1p_relu"),
        ),
        (
            "saved",
            "config_sentence_transformers.json",
            {"max_active_dims": 64},
            ("max_active_dims is 64", "top_k"),
        ),
        (
            "csr",
            "config_sentence_transformers.json",
            {"max_active_dims": True},
            ("max_active_dims is True", "a whole number from 1"),
        ),
        (
            "csr",
            "config_sentence_transformers.json",
            {"max_active_dims": 257},
            ("max_active_dims is 257", "to the units of its SparseAutoEncoder (256)"),
        ),
        ("csr", "3_SparseAutoEncoder/config.json", {"k": 0}, ("k is 0 of 256 units",)),
        ("csr", "3_SparseAutoEncoder/config.json", {"k": 300}, ("k is 300 of 256 units",)),
        ("static", "config.json", {"path": "../idf.json"}, ("path is '../idf.json'",)),
        ("routed", "router_config.json", {"structure": []}, ("types and structure",)),
        (
            "routed",
            "router_config.json",
            {"structure": {"query": ["answer"]}},
            ("the route 'query' has no module 'answer'",),
        ),
        (
            "routed",
            "router_config.json",
            {"structure": {"query": ["document_0_Transformer"]}},
            ("the route 'query' has the modules Transformer;",),
        ),
        (
            "routed",
            "router_config.json",
            {
                "types": {"../away": f"{DOTTED}.SparseStaticEmbedding"},
                "structure": {"q": ["../away"]},
            },
            ("the route 'q' has no module '../away'",),
        ),
        (
            "routed",
            "router_config.json",
            {"parameters": {"route_mappings": {"('query', 'text')": "query"}}},
            ("route_mappings",),
        ),
        (
            "routed",
            "document_0_Transformer/config.json",
            {"quantization_config": {"quant_method": "gptq"}},
            ("quantization_config (gptq)",),
        ),
    ],
)
def test_settings_that_the_graph_cannot_carry(copy, name, file, change, culprits) -> None:
    folder = copy(name)
    edit(folder / file, lambda config: config.update(change))
    refuse(culprits, folder, route="query" if name == "routed" else None)


def test_a_router_without_its_settings(copy) -> None:
    folder = copy("routed")
    (folder / "router_config.json").unlink()
    refuse(("router_config.json: missing, and a Router needs it",), folder)
