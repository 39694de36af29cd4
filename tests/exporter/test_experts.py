"""Mixtures of experts: routed by numbers in the graph, whatever computes them in the source."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from goldfold import export, load
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import experts, trace
from goldfold.exporter.ir.program import derivation_of, infer_shapes
from goldfold.exporter.passes import pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import sites
from tests import models
from tests.exporter.model.refusing import edit
from tests.exporter.test_foreign import bare, off

SIZES = {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1}
KINDS: dict[str, dict[str, Any]] = {
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Qwen2Moe": {
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 24,
    },
    "Mixtral": {"num_local_experts": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_transformers_give_the_reference(kind: str, tmp_path: Path) -> None:
    folder = bare(
        kind, tmp_path / kind, num_hidden_layers=2, intermediate_size=96, **SIZES, **KINDS[kind]
    )
    (result,) = export(folder, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert result.passed
    assert off(result.path, folder) < 1e-4
    (note,) = (one for one in result.bundle.manifest.notes if "mixture of experts" in one)
    assert "2 of its modules compute all of their experts, up to 4" in note


def layer(kind: str, **settings: Any) -> tuple[Any, experts.Wide]:
    """Transformers' own experts with random weights, and the wide layer made of them."""
    config = getattr(transformers, f"{kind}Config")(**settings, experts_implementation="eager")
    module = getattr(transformers, f"{kind}Model")(config).layers[-1].mlp.experts.eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    holder = torch.nn.ModuleDict({"experts": copy.deepcopy(module)})
    experts.widen(holder)
    return module, holder["experts"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 32}),
        ("GptOss", {"num_local_experts": 4, "intermediate_size": 32, "head_dim": 16}),
    ],
)
@torch.no_grad()
def test_the_wide_layer_is_the_sum_over_chosen_experts(kind: str, settings: dict) -> None:
    """Weights that are stored transposed and interleaved, and biases, as well."""
    own, wide = layer(kind, num_hidden_layers=1, vocab_size=40, **SIZES, **settings)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((9, 48), generator=generator)
    chosen = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in x])
    weights = torch.rand((9, 2), generator=generator)
    expected = own(x, chosen, weights)
    assert (wide(x, chosen, weights) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (wide(x, chosen.flip(1), weights) - expected).abs().max() > 0.1 * expected.abs().max()


def test_experts_whose_results_are_normed_are_refused() -> None:
    class Normed(torch.nn.Module):
        _is_expert_parallel, has_post_expert_norm = False, True

        def _apply_gate(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ModelError, match="its Normed norm the result of each expert"):
        experts.widen(torch.nn.ModuleDict({"experts": Normed()}))


def test_every_weight_follows_from_the_file_and_no_router_is_rounded(tmp_path: Path) -> None:
    source = ready(open_model(models.build("qwen3_moe", tmp_path / "m")), Stages())
    program = trace(source)
    simplify(program)
    derive(program, source)
    assert not program.suspects
    held = program.graph.initializers
    wide = [name for name in held if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    assert len(wide) == 6
    for name in wide:
        how = derivation_of(held[name])
        ops = ("concat", "transpose")
        assert (how.op, how.parts[0].op) == (ops if "down" in name else ops[::-1])
    infer_shapes(program.model)
    pipeline.run(program, pipeline.EARLY)
    pipeline.run(program, pipeline.common(program.contract))
    found = sites.find(program)
    assert sum(site.kind == "down" for site in found) == 3
    assert not any("gate" in site.place for site in found)


def test_an_expert_that_the_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    folder = models.build("qwen3_moe", tmp_path / "m", num_hidden_layers=1)
    held = load_file(folder / "model.safetensors")
    rest = {name: one for name, one in held.items() if ".experts." not in name}
    assert len(rest) < len(held)
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 'layers\.0\.mlp\.experts\.down_proj'.*make up"):
        trace(ready(open_model(folder), Stages()))


# --- Nomic's experts, whose code comes with the model

_CODE = """
import torch
from torch import nn
from transformers import NomicBertModel as Plain


class Router(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.k = config.moe_top_k
        self.layer = nn.Linear(config.hidden_size, config.num_experts, bias=False)

    def forward(self, x):
        shares = self.layer(x.view(-1, x.shape[-1])).softmax(-1, dtype=torch.float32)
        return (shares, *torch.topk(shares, self.k, dim=-1))


class Bank(nn.Module):
    def __init__(self, config):
        super().__init__()
        rows = config.num_experts * config.intermediate_size
        self.w1 = nn.Parameter(torch.empty(rows, config.hidden_size))
        self.w2 = nn.Parameter(torch.empty(rows, config.hidden_size))
        self.activation_fn = nn.functional.gelu

    def one(self, x, place, size):
        mine = slice(place * size, place * size + size)
        return self.activation_fn(x @ self.w1[mine].t()) @ self.w2[mine]


class NomicExperts(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.moe_num_experts, self.size = config.num_experts, config.intermediate_size
        self.mlp = Bank(config)
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, x, shares, weights, chosen):
        rows = x.reshape(-1, x.shape[-1])
        made = torch.zeros_like(rows)
        for place in range(self.moe_num_experts):
            token, rank = (chosen == place).nonzero(as_tuple=True)
            if len(token.tolist()):
                part = self.mlp.one(rows[token], place, self.size) * weights[token, rank, None]
                made.index_add_(0, token, part)
        return made.reshape(x.shape) + self.bias


class Mixture(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.router, self.experts = Router(config), NomicExperts(config)

    def forward(self, x):
        return self.experts(x, *self.router(x))


class Growing(nn.Module):
    rows = 0

    def forward(self, x):
        if x.shape[1] > self.rows:
            self.rows = x.shape[1]
            self.table = torch.cos(torch.arange(self.rows) * 0.1)
        return x + self.table[: x.shape[1], None]


class NomicBertModel(Plain):
    def __init__(self, config, **how):
        super().__init__(config, **how)
        self.layers[1].mlp = Mixture(config)
        self.grown = Growing()
        self.embeddings.register_forward_hook(lambda _m, _given, made: self.grown(made))
"""


@pytest.fixture
def nomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of NomicBERT with code of its own, whose second layer is a mixture of experts."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder = models.build("nomic", tmp_path / "nomic", num_hidden_layers=2)
    held = transformers.NomicBertModel.from_pretrained(folder).state_dict()
    rest = {name: held[name].clone() for name in held if "layers.1.mlp." not in name}
    (folder / "own.py").write_text(_CODE)
    more = {"num_experts": 8, "moe_top_k": 2, "auto_map": {"AutoModel": "own.NomicBertModel"}}
    edit(folder / "config.json", lambda config: config.update(more))
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "experts.mlp.w1": (8 * 96, 48),
        "experts.mlp.w2": (8 * 96, 48),
        "experts.bias": (48,),
        "router.layer.weight": (8, 48),
    }
    for name, shape in shapes.items():
        rest[f"layers.1.mlp.{name}"] = torch.randn(shape, generator=generator) / 7
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_experts_of_trusted_code_give_the_reference(nomic: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pass --trust-remote-code"):
        export(nomic, ["onnxruntime"], ["fp32"], tmp_path / "refused")
    (result,) = export(nomic, ["onnxruntime"], ["fp32"], tmp_path / "out", trust_remote_code=True)
    assert result.passed
    assert off(result.path, nomic, trust_remote_code=True) < 1e-4
    assert np.isfinite(load(result.path).embed(["a", "b" * 300])).all()
