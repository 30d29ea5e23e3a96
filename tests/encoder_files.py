"""Random weights in the very layouts in which encoders are published, and what their authors' code makes of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from histomix.encoders import EncoderCard
from histomix.encoders.torch.architectures import create_model

from .extras import extra_module

State = dict[str, torch.Tensor]
#: What the authors' code gives for normalised images (n, 3, height, width).
Reference = Callable[[torch.Tensor], torch.Tensor]

HF_VIT = ("phikon",)
HF_DINOV2 = ("phikon-v2", "midnight-12k")
HF_REGISTERS = ("hibou-b", "hibou-l")


def smooth_tiles(count: int, size_px: int, seed: int = 0) -> np.ndarray:
    """Smooth, coloured, asymmetric tiles: noise would hide a swapped channel or a wrong turn."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 9, 9)))
    tiles = functional.interpolate(coarse, (size_px, size_px), mode="bilinear")
    return tiles.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def registers(one: EncoderCard) -> int:
    """Register tokens, as the card says in words."""
    return int(one.title.split("with ")[1].split(" register")[0]) if "register" in one.title else 0


def normalised(one: EncoderCard, tiles: np.ndarray) -> torch.Tensor:
    from torchvision.transforms import v2

    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(one.mean, one.std)])
    return torch.stack([transform(tile) for tile in tiles])


def fill(state: State) -> State:
    """Values for which every tensor matters: none zero, none constant, norms and layer scales near one."""
    generator = torch.Generator().manual_seed(0)
    filled = {}
    for key, value in state.items():
        near_one = key.endswith(("gamma", "lambda1", "running_var")) or (value.ndim == 1 and key.endswith("weight"))
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.zeros(value.shape)
        filled[key] = (0.03 * noise + near_one).to(value.dtype)
    return filled


def random_weights(one: EncoderCard, path: Path) -> State:
    """Random weights of a card in timm's layout, saved as safetensors."""
    state = fill(create_model(one).state_dict())
    save_file(state, path)
    return state


def reduced(one: EncoderCard, depth: int, narrow: bool) -> EncoderCard:
    """The card of the same network with ``depth`` blocks, and where ``narrow``, a tenth of the width or so."""
    arguments: dict[str, Any] = dict(one.arguments)
    if one.architecture.startswith("resnet"):
        return one
    if one.architecture.startswith("swin"):
        return dataclasses.replace(one, arguments={**arguments, "depths": (depth,) * 4})
    layers = tuple(range(min(depth, len(one.layers))))
    arguments["depth"] = depth
    dim = one.dim
    if narrow:
        arguments |= {"embed_dim": 96, "num_heads": 4}
        if one.name == "hibou-l":
            arguments["mlp_ratio"] = 5.33334
        # A pooler and a projection have widths of their own.
        parts = {"class": 1, "class+mean": 2, "stages": len(layers)}
        dim = 96 * parts[one.pooling] if one.pooling in parts else dim
    elif one.pooling == "stages":
        dim = one.dim // len(one.layers) * len(layers)
    return dataclasses.replace(one, arguments=arguments, layers=layers, dim=dim)


def publish(one: EncoderCard, folder: Path) -> Reference:
    """Save random weights as the publisher does, and return the publisher's own computation."""
    if one.name in (*HF_VIT, *HF_DINOV2, *HF_REGISTERS):
        return _publish_transformers(one, folder)
    special = {"plip": _publish_plip, "musk": _publish_musk, "ctranspath": _publish_ctranspath}
    if one.name in special:
        return special[one.name](one, folder)
    if one.pooling == "attention":
        return _publish_conch(one, folder)
    state = fill(create_model(one).state_dict())
    if one.files[0] == "GPFM.pth":
        torch.save({**state, "mask_token": torch.zeros(1, 1)}, folder / one.files[0])
    else:
        save_file(state, folder / "model.safetensors")
    model: Any = create_model(one)
    model.load_state_dict(state, assign=True)
    return _by_timm(one, model.eval())


def _by_timm(one: EncoderCard, model: Any) -> Reference:
    def embed(images: torch.Tensor) -> torch.Tensor:
        if one.pooling == "stages" and one.architecture.startswith("resnet"):
            maps, x = [], model.maxpool(model.act1(model.bn1(model.conv1(images))))
            for stage in (model.layer1, model.layer2, model.layer3):
                x = stage(x)
                maps.append(x.mean((2, 3)))
            return torch.cat(maps[1:], 1)
        if one.pooling == "stages":
            x = model.patch_embed(images)
            x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
            pools = []
            for number, block in enumerate(model.blocks):
                x = block(x)
                if number in one.layers:
                    pools.append(model.norm(x)[:, 1:].mean(1))
            return torch.cat(pools, 1)
        tokens = model.forward_features(images)
        if one.pooling == "mean":
            return tokens.mean((1, 2))
        if one.pooling == "class":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, 1 + registers(one) :].mean(1)], 1)

    return embed


def transformers_config(one: EncoderCard, **changes: Any) -> Any:
    """The configuration of a card's model in transformers, at full size unless ``changes`` say otherwise."""
    transformers = extra_module("zoo", "transformers")

    model: Any = create_model(one)
    facts: dict[str, Any] = {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "patch_size": model.patch_embed.patch_size[0],
        "image_size": 224,
        **changes,
    }
    if one.name in HF_VIT:
        return transformers.ViTConfig(**facts, intermediate_size=4 * model.embed_dim)
    swiglu = one.name != "phikon-v2"
    kind = transformers.Dinov2WithRegistersConfig if one.name in HF_REGISTERS else transformers.Dinov2Config
    return kind(**facts, use_swiglu_ffn=swiglu)


def transformers_model(one: EncoderCard, config: Any) -> Any:
    transformers = extra_module("zoo", "transformers")
    if one.name in HF_VIT:
        return transformers.ViTModel(config, add_pooling_layer=False)
    kind = transformers.Dinov2WithRegistersModel if one.name in HF_REGISTERS else transformers.Dinov2Model
    return kind(config)


def _publish_transformers(one: EncoderCard, folder: Path) -> Reference:
    # Midnight was trained at 518 px; should its weights hold those positions, transformers resamples them.
    size = {"image_size": 518} if one.name == "midnight-12k" else {}
    model = transformers_model(one, transformers_config(one, **size))
    model.load_state_dict(fill(model.state_dict()))
    model.eval().save_pretrained(folder)

    def embed(images: torch.Tensor) -> torch.Tensor:
        tokens = model(images).last_hidden_state
        if one.pooling == "class":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)

    return embed


def _publish_plip(one: EncoderCard, folder: Path) -> Reference:
    transformers = extra_module("zoo", "transformers")
    vision: Any = create_model(one)
    heads = vision.blocks[0].attn.num_heads
    sizes = {"hidden_size": vision.embed_dim, "num_hidden_layers": len(vision.blocks), "num_attention_heads": heads}
    sizes["intermediate_size"] = 4 * vision.embed_dim
    text = {**sizes, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50000}
    config = transformers.CLIPConfig(text_config=text, vision_config={**sizes, "patch_size": 32, "image_size": 224})
    model = transformers.CLIPModel(config).eval()
    model.load_state_dict(fill(model.state_dict()))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")

    def embed(images: torch.Tensor) -> torch.Tensor:
        return model.visual_projection(model.vision_model(images).pooler_output)

    return embed


def _publish_musk(one: EncoderCard, folder: Path) -> Reference:
    model: Any = create_model(one)
    filled = fill(model.state_dict())
    published: State = {}
    for key, value in filled.items():
        if key == "pos_embed":
            table = torch.cat([torch.full((2, value.shape[2]), 7.0), value[0]])
            published["beit3.encoder.embed_positions.A.weight"] = table
            continue
        if key == "cls_token" or key.startswith("patch_embed."):
            published["beit3.vision_embed." + key.removeprefix("patch_embed.")] = value
            continue
        if ".attn.qkv." in key:
            block, kind = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(.*)", key).groups()  # type: ignore[union-attr]
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                published[f"beit3.encoder.layers.{block}.self_attn.{letter}_proj.A.{kind}"] = part.clone()
            continue
        for ours, theirs in (
            (".attn.norm.", ".self_attn.inner_attn_ln.A."),
            (".attn.proj.", ".self_attn.out_proj.A."),
            (".norm1.", ".self_attn_layer_norm.A."),
            (".norm2.", ".final_layer_norm.A."),
            (".mlp.norm.", ".ffn.A.ffn_layernorm."),
            (".mlp.fc", ".ffn.A.fc"),
        ):
            if ours in key:
                key = key.replace(ours, theirs).replace("blocks.", "layers.")
                break
        else:
            key = key.replace("norm.", "layer_norm.A.")
        published[f"beit3.encoder.{key}"] = value
    # The branch for text, and what only retrieval needs.
    published |= {key.replace(".A.", ".B."): value + 1 for key, value in published.items() if ".A." in key}
    published |= {"vision_head.weight": torch.ones(2, 2), "language_head.weight": torch.ones(2, 2)}
    published |= {"logit_scale": torch.ones(()), "beit3.text_embed.weight": torch.ones(3, 2)}
    published["beit3.vision_embed.mask_token"] = torch.ones(1, 1, 2)
    save_file({key: value.contiguous() for key, value in published.items()}, folder / "model.safetensors")

    def embed(images: torch.Tensor) -> torch.Tensor:
        # By timm's own converter, which leaves the names of the last norm and of the heads.
        theirs = timm.models.vision_transformer.checkpoint_filter_fn(dict(published), model)
        theirs = {key.replace("layer_norm.", "norm."): value for key, value in theirs.items()}
        reference: Any = create_model(one)
        reference.load_state_dict({key: theirs[key] for key in filled}, assign=True)
        return reference.eval().forward_features(images)[:, 0]

    return embed


def _publish_ctranspath(one: EncoderCard, folder: Path) -> Reference:
    model: Any = create_model(one, "cpu")
    state = fill(model.state_dict())
    model.load_state_dict(state)
    model.eval()
    published = {}
    for key, value in state.items():
        name = re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", key)
        published[name] = value
    buffers = {key: value for key, value in model.named_buffers() if key not in state}
    torch.save({"model": {**published, **buffers}}, folder / "ctranspath.pth")

    def stem(images: torch.Tensor) -> torch.Tensor:
        x = images
        for conv, norm in ((0, 1), (3, 4)):
            get = {name: state.get(f"patch_embed.proj.{norm}.{name}") for name in ("running_mean", "running_var")}
            x = functional.conv2d(x, state[f"patch_embed.proj.{conv}.weight"], stride=2, padding=1)
            scale = (state[f"patch_embed.proj.{norm}.weight"], state[f"patch_embed.proj.{norm}.bias"])
            x = functional.batch_norm(x, get["running_mean"], get["running_var"], *scale).relu()
        x = functional.conv2d(x, state["patch_embed.proj.6.weight"], state["patch_embed.proj.6.bias"])
        x = x.permute(0, 2, 3, 1)
        return functional.layer_norm(x, x.shape[-1:], state["patch_embed.norm.weight"], state["patch_embed.norm.bias"])

    def embed(images: torch.Tensor) -> torch.Tensor:
        return model.norm(model.layers(stem(images))).mean((1, 2))

    return embed


def _publish_conch(one: EncoderCard, folder: Path) -> Reference:
    model: Any = create_model(one)
    state = fill(model.state_dict())
    trunk = {key.removeprefix("trunk."): value for key, value in state.items() if key.startswith("trunk.")}
    published = dict(state)
    if one.name == "conch":
        text = {
            "text.transformer.weight": torch.ones(2),
            "text_decoder.x": torch.ones(2),
            "logit_scale": torch.ones(()),
        }
        spare = {"visual.proj_contrast": torch.ones(2, 2), "visual.ln_caption.weight": torch.ones(2)}
        spare["visual.attn_pool_caption.query"] = torch.ones(2, 2)
        published = {f"visual.{key}": value for key, value in state.items()} | text | spare
    torch.save(published, folder / one.files[0])

    def embed(images: torch.Tensor) -> torch.Tensor:
        arguments = {key: value for key, value in one.arguments.items() if key != "pooler"}
        vit: Any = timm.create_model(one.architecture, num_classes=0, **arguments)
        vit.load_state_dict(trunk)
        tokens = vit.eval().forward_features(images).double()
        return _pool(tokens, {key: value.double() for key, value in state.items()}, one.name).float()

    return embed


def _pool(tokens: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """Attention pooling with 8 heads, head by head."""
    get = {key.removeprefix("attn_pool_contrast."): value for key, value in state.items()}
    tokens = functional.layer_norm(tokens, tokens.shape[-1:], get["ln_k.weight"], get["ln_k.bias"])
    query = functional.layer_norm(get["query"], get["query"].shape[-1:], get["ln_q.weight"], get["ln_q.bias"])[0]
    if name == "conch":
        biases = get["attn.in_proj_bias"].chunk(3)
        query = get["attn.q_proj_weight"] @ query + biases[0]
        key = tokens @ get["attn.k_proj_weight"].T + biases[1]
        value = tokens @ get["attn.v_proj_weight"].T + biases[2]
        out, out_bias = get["attn.out_proj.weight"], get["attn.out_proj.bias"]
    else:
        query = get["to_q.weight"] @ query
        key, value = (tokens @ part.T for part in get["to_kv.weight"].chunk(2))
        out, out_bias = get["to_out.weight"], torch.zeros(())
    size, heads = len(query) // 8, []
    for number in range(8):
        part = slice(number * size, (number + 1) * size)
        weight = (key[..., part] @ query[part] / size**0.5).softmax(-1)
        heads.append((weight[..., None] * value[..., part]).sum(1))
    pooled = torch.cat(heads, 1) @ out.T + out_bias
    return functional.layer_norm(pooled, pooled.shape[-1:], state["ln_contrast.weight"], state["ln_contrast.bias"])
