"""Random adapters in the spellings that people bring, and what a model's weights become with them.

Nothing here comes from Lockstep's own tables and formulas: names are those of ``adapter_names``, sums are in float64.
"""

import json
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.support.adapter_model import Adapter, Model
from tests.support.adapter_names import NamedLayer

DOTTED = ("", "diffusion_model.", "transformer.", "model.diffusion_model.", "base_model.model.", "pipe.dit.", "unet.")
FLAT = ("lora_unet_", "lycoris_", "lora_transformer_")
PAIRS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora_A", ".lora_B"),
)
ALPHA_SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1), (3,))
ALPHA_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32)
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)


class Maker:
    """Makes one random adapter."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        pick = self.random.choice
        self.naming = pick(
            ["diffusers", "original", "original"] if model.family == "wan" else ["diffusers", "original", "comfy"]
        )
        self.is_flat = self.random.random() < 0.35
        self.prefix = pick(FLAT if self.is_flat else DOTTED)
        self.pair = pick(PAIRS)
        self.dtype = pick(DTYPES)
        self.strength = pick(["alpha", "some alphas", "none", "header", "folder"])
        self.adapter = Adapter(pick([1.0, 1.0, 0.5, -0.7, 2.0]))

    def make(self) -> Adapter:
        """An adapter that is right, with tensors beside it that are not applied."""
        layers = self.model.own_layers() if self.naming == "diffusers" else self.model.layers()
        weights = dict(self.model.weights)
        methods = METHODS if self.strength in ("alpha", "some alphas", "none") else {"lora": lora}
        taken: set[str] = set()
        for layer in self.random.sample(layers, self.random.randint(1, min(7, len(layers)))):
            if taken & set(layer.parts):  # no part twice
                continue
            taken |= set(layer.parts)
            shape = tuple(self.model.whole(layer, weights).shape)
            is_matrix = len(shape) in (2, 5) and f"{layer.parts[0]}.weight" in self.model.weights
            name = self.random.choice(list(methods)) if is_matrix else "difference"
            path = self.path(layer)
            self.adapter.paths[path] = (layer, name)
            change, bias = (methods | {"difference": difference})[name](self, layer, path, shape)
            self.model.put(layer, weights, self.model.whole(layer, weights) + change)
            if bias is not None:
                self.model.put(layer, weights, self.model.whole(layer, weights, bias=True) + bias, bias=True)
        self._settle()
        self.adapter.expected = weights
        for extra in EXTRAS:
            if self.random.random() < 0.2:
                extra(self, taken)
        return self.adapter

    def path(self, layer: NamedLayer) -> str:
        name = layer.comfy if self.naming == "comfy" else layer.original
        return self.prefix + (name.replace(".", "_") if self.is_flat else name)

    def normal(self, *shape: int) -> Tensor:
        """As the file holds it."""
        return (0.3 * torch.randn(shape, generator=self._generator)).to(self.dtype)

    def add(self, name: str, tensor: Tensor) -> Tensor:
        """Into the file; returns its values in float64."""
        assert name not in self.adapter.tensors
        self.adapter.tensors[name] = tensor
        return tensor.double()

    def factor(self, path: str, rank: int) -> float:
        """scale · alpha / rank, with the alpha in the file or its settings."""
        strength = self.strength
        if strength == "none" or (strength == "some alphas" and self.random.random() < 0.5):
            return self.adapter.scale
        if strength in ("alpha", "some alphas"):
            value = self.random.choice([1, 2, 3, 8])
            shape = self.random.choice(ALPHA_SHAPES)
            self.add(f"{path}.alpha", torch.full(shape, value, dtype=self.random.choice(ALPHA_DTYPES)))
            return self.adapter.scale * value / rank
        return self.adapter.scale * self._settings_alpha(path) / (rank**0.5 if self._by_root else rank)

    def _settings_alpha(self, path: str) -> float:
        return 5.0 if sum(map(ord, path)) % 3 == 0 else 3.0  # the first have a pattern of their own

    @property
    def _by_root(self) -> bool:
        return self.adapter.scale == 0.5

    def _settle(self) -> None:
        """Write peft's settings, as a folder's file or in the header as diffusers does."""
        if self.strength not in ("header", "folder"):
            return
        own = [path for path in self.adapter.paths if self._settings_alpha(path) == 5.0]
        settings = {"r": 4, "lora_alpha": 3, "use_rslora": self._by_root, "peft_type": "LORA"}
        settings["alpha_pattern"] = dict.fromkeys(own, 5)
        if self.strength == "folder":
            self.adapter.config = settings
            return
        prefix = self.random.choice(["", "transformer."])
        content = json.dumps({f"{prefix}{key}": value for key, value in settings.items()})
        self.adapter.metadata["lora_adapter_metadata"] = content


Change = tuple[Tensor, Tensor | None]


def lora(maker: Maker, layer: NamedLayer, path: str, shape: tuple[int, ...]) -> Change:
    rank, (down_end, up_end) = maker.random.randint(1, 5), maker.pair
    inputs = int(np.prod(shape[1:]))
    down = maker.normal(rank, *shape[1:]) if maker.random.random() < 0.7 else maker.normal(rank, inputs)
    up = maker.normal(shape[0], rank, *[1] * (down.ndim - 2))
    a, b = maker.add(path + down_end, down), maker.add(path + up_end, up)
    factor = maker.factor(path, rank)
    change = factor * torch.einsum("or,ri->oi", b.reshape(-1, rank), a.reshape(rank, -1)).reshape(shape)
    if maker.model.has_bias(layer) and maker.random.random() < 0.3:
        return change, maker.adapter.scale * maker.add(f"{path}.diff_b", maker.normal(shape[0]))
    return change, None


def tucker(maker: Maker, layer: NamedLayer, path: str, shape: tuple[int, ...]) -> Change:
    if len(shape) < 5:
        return lora(maker, layer, path, shape)
    rank = 2
    down = maker.add(f"{path}.lora_down.weight", maker.normal(rank, shape[1], 1, 1, 1))
    up = maker.add(f"{path}.lora_up.weight", maker.normal(shape[0], rank, 1, 1, 1))
    mid = maker.add(f"{path}.lora_mid.weight", maker.normal(rank, rank, *shape[2:]))
    change = torch.zeros(shape, dtype=torch.float64)
    for p in range(rank):
        for q in range(rank):
            change += torch.einsum("o,i,thw->oithw", up[:, p, 0, 0, 0], down[q, :, 0, 0, 0], mid[p, q])
    return maker.factor(path, rank) * change, None


def loha(maker: Maker, layer: NamedLayer, path: str, shape: tuple[int, ...]) -> Change:
    rank, inputs = maker.random.randint(1, 4), int(np.prod(shape[1:]))
    values = {
        name: maker.add(f"{path}.hada_{name}", maker.normal(*size))
        for name, size in (("w1_a", (shape[0], rank)), ("w1_b", (rank, inputs)))
        for name, size in ((name, size), (name.replace("1", "2"), size))
    }
    change = (values["w1_a"] @ values["w1_b"]) * (values["w2_a"] @ values["w2_b"])
    return maker.factor(path, rank) * change.reshape(shape), None


def lokr(maker: Maker, layer: NamedLayer, path: str, shape: tuple[int, ...]) -> Change:
    inputs = int(np.prod(shape[1:]))
    out_factor, in_factor = (
        maker.random.choice([n for n in (2, 3, 4) if size % n == 0] or [1]) for size in (shape[0], inputs)
    )
    sizes = {"1": (out_factor, in_factor), "2": (shape[0] // out_factor, inputs // in_factor)}
    factors, rank = {}, None
    for number, (rows, columns) in sizes.items():
        if maker.random.random() < 0.5:
            factors[number] = maker.add(f"{path}.lokr_w{number}", maker.normal(rows, columns))
        else:
            rank = 2
            a = maker.add(f"{path}.lokr_w{number}_a", maker.normal(rows, rank))
            factors[number] = a @ maker.add(f"{path}.lokr_w{number}_b", maker.normal(rank, columns))
    factor = maker.factor(path, rank or 1)
    change = torch.from_numpy(np.kron(factors["1"].numpy(), factors["2"].numpy())).reshape(shape)
    return (factor if rank else maker.adapter.scale) * change, None


def dora(maker: Maker, layer: NamedLayer, path: str, shape: tuple[int, ...]) -> Change:
    if len(shape) != 2:
        return lora(maker, layer, path, shape)
    pair = maker.pair
    change, bias = lora(maker, layer, path, shape)
    weight = maker.model.whole(layer, maker.model.weights)
    kind = maker.random.choice(["outputs", "inputs", "peft"])
    norm = (weight + change).norm(dim=0 if kind == "inputs" else 1, keepdim=True)
    size = (1, shape[1]) if kind == "inputs" else (shape[0],) if kind == "peft" else (shape[0], 1)
    magnitude = (1 + maker.normal(*size).float().abs()).to(maker.dtype)
    name = f"{path}.lora_magnitude_vector" if kind == "peft" and pair[0].startswith(".lora_A") else f"{path}.dora_scale"
    values = maker.add(name, magnitude).reshape(norm.shape)
    return values * (weight + change) / norm - weight, bias


def difference(maker: Maker, layer: NamedLayer, path: str, shape: tuple[int, ...]) -> Change:
    scale, model = maker.adapter.scale, maker.model
    is_table = layer.parts[0] in model.weights
    if is_table and path.endswith("modulation") and maker.random.random() < 0.5:
        name = path[: -len("_modulation")] + ".diff_m"
    else:
        name = f"{path}.diff" if is_table or maker.random.random() < 0.7 else f"{path}.w_norm"
    if maker.adapter.paths and len(maker.adapter.paths) > 1 and not is_table and maker.random.random() < 0.2:
        value = maker.add(f"{path}.set_weight", maker.normal(*shape))
        return scale * (value - model.whole(layer, model.weights)), None
    change = scale * maker.add(name, maker.normal(*shape))
    if model.has_bias(layer) and maker.random.random() < 0.6:
        ending = ".b_norm" if name.endswith(".w_norm") else ".diff_b"
        return change, scale * maker.add(path + ending, maker.normal(shape[0]))
    return change, None


METHODS: dict[str, Callable[[Maker, NamedLayer, str, tuple[int, ...]], Change]] = {
    "lora": lora,
    "tucker": tucker,
    "loha": loha,
    "lokr": lokr,
    "dora": dora,
    "difference": difference,
}


def _text_encoder(maker: Maker, taken: set[str]) -> None:
    prefix = maker.random.choice(["lora_te_", "lora_te1_", "text_encoder.", "te.", "umt5xxl."])
    for ending in (".lora_down.weight", ".lora_up.weight", ".alpha"):
        _leave(maker, f"{prefix}text_model.encoder.layers.0.mlp.fc1{ending}", maker.normal(2, 2))


def _marker(maker: Maker, taken: set[str]) -> None:
    _leave(maker, "scaled_fp8", torch.zeros(0))


def _absent(maker: Maker, taken: set[str]) -> None:
    """Layers of the image-to-video models, in an adapter for text-to-video."""
    if maker.model.family == "wan" and "blocks.0.attn2.add_k_proj.weight" not in maker.model.weights:
        for name in ("blocks.0.cross_attn.k_img", "img_emb.proj.1"):
            path = maker.path(NamedLayer(name, ()))
            for ending in maker.pair:
                _leave(maker, path + ending, maker.normal(2, 2))


def _lonely_alpha(maker: Maker, taken: set[str]) -> None:
    free = [layer for layer in maker.model.own_layers() if not taken & set(layer.parts)]
    _leave(maker, f"transformer.{maker.random.choice(free).original}.alpha", torch.tensor(4.0))


def _other_channels(maker: Maker, taken: set[str]) -> None:
    """An input layer of another number of channels: of image-to-video, or of text-to-video."""
    name, ours = (
        ("patch_embedding", "patch_embedding") if maker.model.family == "wan" else ("img_in.proj", "x_embedder.proj")
    )
    if ours in taken:
        return
    shape = list(maker.model.weights[f"{ours}.weight"].shape)
    shape[1] += 20
    _leave(maker, f"diffusion_model.{name}.diff", maker.normal(*shape))


EXTRAS = (_text_encoder, _marker, _absent, _lonely_alpha, _other_channels)


def _leave(maker: Maker, name: str, tensor: Tensor) -> None:
    maker.add(name, tensor)
    maker.adapter.left.append(name)
