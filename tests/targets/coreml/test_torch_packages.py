"""Packages that coremltools' own torch frontend made, so that our emitter and our evaluator cannot
share a mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

import torch
from torch import nn

from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.package import read

TOKENS, WIDTH, HEADS = 7, 12, 3


class Encoder(nn.Module):
    """A post-norm layer with exact GELU, a masked mean, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        hidden = (1.0 - mask.float())[:, None, None, :] * -3e4
        heads = (1, TOKENS, HEADS, WIDTH // HEADS)
        q, k, v = (t.reshape(heads).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + hidden
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, TOKENS, WIDTH)
        x = self.first(x + self.out(mixed))
        x = self.second(x + self.down(nn.functional.gelu(self.up(x))))
        weights = mask.float()[..., None]
        return nn.functional.normalize((x * weights).sum(1) / weights.sum(1).clamp(min=1e-9))


class Turned(nn.Module):
    """Rotary halves, an RMS norm, a gate, a causal band: what decoders bring."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x[..., :2], x[..., 2:]
        angle = torch.arange(4).float()[:, None] * torch.tensor([1.0, 0.1])
        turned = torch.cat(
            [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1
        )
        normed = turned * torch.rsqrt((turned**2).mean(-1, keepdim=True) + 1e-6)
        ahead = torch.arange(4)[:, None] - torch.arange(4)[None]
        seen = (ahead >= 0) & (ahead < 3)
        scores = torch.where(seen, normed @ normed.transpose(-1, -2), torch.tensor(-1e4))
        mixed = torch.einsum("bij,bjd->bid", scores.softmax(-1), normed)
        gate = nn.functional.silu(mixed[..., :2]) * torch.sigmoid(mixed[..., 2:])
        return torch.cat([gate.amax(1), mixed.max(1).values, torch.tanh(mixed[:, -1])], -1)


def converted(module: nn.Module, inputs: tuple[torch.Tensor, ...], half: bool, folder: Path):
    ct = vendor.coremltools()
    traced = torch.jit.trace(module.eval(), inputs, check_trace=False)
    kinds = [
        ct.TensorType(f"in{place}", tuple(tensor.shape),
                      dtype=np.float32 if tensor.is_floating_point() else np.int32)
        for place, tensor in enumerate(inputs)
    ]  # fmt: skip
    precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    model = ct.convert(
        traced, inputs=kinds, minimum_deployment_target=ct.target.iOS18, convert_to="mlprogram",
        compute_precision=precision, outputs=[ct.TensorType("out", dtype=np.float32)],
        skip_model_load=True,
    )  # fmt: skip
    model.save(str(folder / "torch.mlpackage"))
    return read(folder / "torch.mlpackage")


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("module", [Encoder, Turned])
def test_agrees_with_torch(module: type[nn.Module], half: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    made = module()
    if module is Encoder:
        mask = (torch.arange(TOKENS)[None] < 5).int()
        inputs = (torch.randint(0, 20, (1, TOKENS)).int(), mask)
    else:
        inputs = (torch.randn(1, 4, 4),)
    package = converted(made, inputs, half, tmp_path)
    feeds = {f"in{place}": tensor.numpy() for place, tensor in enumerate(inputs)}
    with torch.no_grad():
        expected = made(*inputs).numpy()
    (found,) = Evaluator(package)(feeds).values()
    # About 20 operations lie behind a number, each rounded once, of values up to 4 in size: 2^-24
    # of it in f32 and 2^-11 in fp16. A wrong constant of GELU alone would be 3e-4.
    bound = 20 * 4 * (2.0**-11 if half else 2.0**-24)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
    if half:
        (exact,) = Evaluator(package, precision="f64")(feeds).values()
        assert np.abs(found - exact).max() > 1e-6, "nothing was rounded"
