"""The names that publishers give to tensors, turned into the names of our networks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch.nn.functional import interpolate

State = dict[str, torch.Tensor]

#: Put in front of every name by training frameworks.
_WRAPPERS = ("module.", "model.", "teacher.", "student.", "backbone.", "vit.", "dinov2.", "_orig_mod.")
#: Tensors of no use for embedding: masks of training, text towers, buffers that are computed, classifiers.
_SPARE = re.compile(
    r"(.*\.)?(mask_token|relative_position_index|attn_mask)$|embeddings\.mask_token$|pooler\."
    r"|(text|text_model|text_decoder|text_projection|language_head|vision_head|logit_scale)(\.|$)"
    r"|beit3\.text_embed\.|.*\.B\.|visual\.(attn_pool_caption|ln_caption|proj_contrast|head)(\.|$)"
    r"|.*position_ids$|(.*\.)?(dino_head|ibot_head|dino_loss|ibot_patch_loss|koleo_loss)\."
)
#: Blocks of DINOv2 in chunks, for training on several devices; the second number counts them all.
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.")


def rename(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> State:
    """Tensors of published weights under the names, and in the arrangement, of the network they are for.

    Known layouts: timm; Hugging Face transformers' ViT, DINOv2 (with and without registers) and CLIP; Meta's DINOv2;
    torchscale's BEiT-3; CONCH's image tower; Swin as published before timm 1.0. A layout is told by its names. What is
    not known stays as it is, for the comparison with ``expected`` to report.

    Parameters
    ----------
    state
        Tensors by published name.
    expected
        Tensors of the network by name; only their shapes count.
    """
    tensors = _without_wrappers({key: value for key, value in _of_one(state).items() if not _SPARE.match(key)})
    tensors = {key: value for key, value in tensors.items() if not _SPARE.match(key)}
    tensors = {_CHUNKED.sub(r"blocks.\1.", key, count=1) if _CHUNKED.match(key) else key: value
               for key, value in tensors.items()}  # fmt: skip
    if "vision_model.embeddings.class_embedding" in tensors:
        tensors = _with_bias(_clip(tensors), expected)
    elif "embeddings.cls_token" in tensors:
        tensors = _with_positions(_transformers(tensors), expected)
    elif any(key.startswith("beit3.") for key in tensors):
        tensors = _beit3(tensors)
    elif any(key.startswith("visual.trunk.") for key in tensors):
        tensors = {key.removeprefix("visual."): value for key, value in tensors.items()}
    elif "layers.0.downsample.reduction.weight" in tensors:
        tensors = {re.sub(r"^layers\.(\d+)\.downsample", _next_stage, key): value for key, value in tensors.items()}
    elif "trunk.pos_embed" in tensors:
        tensors = _with_positions(tensors, expected)
    if "register_tokens" in tensors or any(".mlp.w12." in key for key in tensors):
        tensors = _dinov2(tensors)
    return tensors


def _of_one(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Of a student and its teacher in one table, the teacher."""
    teacher = {key: value for key, value in state.items() if re.match(r"(model\.|module\.)?teacher\.", key)}
    others = any(re.match(r"(model\.|module\.)?student\.", key) for key in state)
    return teacher if teacher and others else state


def _without_wrappers(state: State) -> State:
    while wrapper := next((name for name in _WRAPPERS if state and all(key.startswith(name) for key in state)), None):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _next_stage(match: re.Match[str]) -> str:
    """Swin was published with the halving at the end of a stage; timm has it at the start of the next."""
    return f"layers.{int(match[1]) + 1}.downsample"


def _renamed(keys: Iterable[str], rules: Iterable[tuple[str, str]]) -> dict[str, str]:
    names = {}
    for key in keys:
        name = key
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names


def _join_qkv(state: State, pattern: str, order: tuple[str, str, str]) -> State:
    """Join the projections of query, key and value, whose names differ in the group ``part`` of ``pattern``."""
    joined: State = {}
    parts: dict[str, State] = {}
    for key, value in state.items():
        if match := re.fullmatch(pattern, key):
            parts.setdefault(f"blocks.{match['block']}.attn.qkv.{match['kind']}", {})[match["part"]] = value
        else:
            joined[key] = value
    for key, three in parts.items():
        # An incomplete set is left out, and then reported as missing.
        if len(three) == 3:
            joined[key] = torch.cat([three[name] for name in order])
    return joined


def _transformers(state: State) -> State:
    names = _renamed(
        state,
        (
            (r"^embeddings\.cls_token$", "cls_token"),
            (r"^embeddings\.register_tokens$", "register_tokens"),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^layernorm\.", "norm."),
            (r"^encoder\.layer\.", "blocks."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
            (r"\.mlp\.weights_in\.", ".mlp.fc1."),
            (r"\.mlp\.weights_out\.", ".mlp.fc2."),
            (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        ),
    )
    pattern = r"blocks\.(?P<block>\d+)\.attention\.attention\.(?P<part>query|key|value)\.(?P<kind>weight|bias)"
    return _join_qkv({names[key]: value for key, value in state.items()}, pattern, ("query", "key", "value"))


def _clip(state: State) -> State:
    names = _renamed(
        state,
        (
            (r"^visual_projection\.", "head."),
            (r"^vision_model\.", ""),
            (r"^embeddings\.class_embedding$", "cls_token"),
            (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
            (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
            (r"^pre_layrnorm\.", "norm_pre."),
            (r"^post_layernorm\.", "norm."),
            (r"^encoder\.layers\.", "blocks."),
            (r"\.layer_norm(\d)\.", r".norm\1."),
            (r"\.self_attn\.out_proj\.", ".attn.proj."),
        ),
    )
    tensors = {names[key]: value for key, value in state.items()}
    for key, axes in (("cls_token", 2), ("pos_embed", 1)):
        if key in tensors:
            tensors[key] = tensors[key].reshape((1,) * axes + tuple(tensors[key].shape))
    pattern = r"blocks\.(?P<block>\d+)\.self_attn\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)"
    return _join_qkv(tensors, pattern, ("q", "k", "v"))


def _beit3(state: State) -> State:
    names = _renamed(
        state,
        (
            (r"^beit3\.", ""),
            (r"^encoder\.", ""),
            (r"\.A\.", "."),
            (r"^vision_embed\.cls_token$", "cls_token"),
            (r"^vision_embed\.", "patch_embed."),
            (r"^embed_positions\.weight$", "pos_embed"),
            (r"^layer_norm\.", "norm."),
            (r"^layers\.", "blocks."),
            (r"\.self_attn_layer_norm\.", ".norm1."),
            (r"\.final_layer_norm\.", ".norm2."),
            (r"\.self_attn\.inner_attn_ln\.", ".attn.norm."),
            (r"\.self_attn\.out_proj\.", ".attn.proj."),
            (r"\.ffn\.ffn_layernorm\.", ".mlp.norm."),
            (r"\.ffn\.", ".mlp."),
        ),
    )
    tensors = {names[key]: value for key, value in state.items()}
    if "pos_embed" in tensors:
        # The table's first two places belong to text.
        tensors["pos_embed"] = tensors["pos_embed"][2:].unsqueeze(0)
    pattern = r"blocks\.(?P<block>\d+)\.self_attn\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)"
    return _join_qkv(tensors, pattern, ("q", "k", "v"))


def _dinov2(state: State) -> State:
    """DINOv2: gated layers have other names; with registers, timm adds the class token's position beforehand."""
    names = _renamed(state, ((r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2.")))
    tensors = {names[key]: value for key, value in state.items()}
    if "register_tokens" in tensors and {"cls_token", "pos_embed"} <= tensors.keys():
        tensors["reg_token"] = tensors.pop("register_tokens")
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    return tensors


def _with_bias(state: State, expected: Mapping[str, torch.Tensor]) -> State:
    """CLIP projects without a bias; timm's layer has one."""
    if "head.weight" in state and "head.bias" in expected and "head.bias" not in state:
        return {**state, "head.bias": torch.zeros(expected["head.bias"].shape)}
    return state


def _with_positions(state: State, expected: Mapping[str, torch.Tensor]) -> State:
    """Position embeddings at the grid of the tile, resampled as the publishers' own code does (bicubic).

    The first place is the class token's. Patches of another size are another network: then nothing is resampled.
    """
    head = "trunk." if "trunk.pos_embed" in state else ""
    place, patches = f"{head}pos_embed", f"{head}patch_embed.proj.weight"
    if not {place, patches} <= state.keys() & expected.keys() or state[patches].shape != expected[patches].shape:
        return state
    # A network with registers has no place for the class token.
    wanted = expected[place].shape[1] + ("reg_token" in expected)
    positions = state[place].float()
    if positions.shape[1] != wanted:
        grid = _resample(positions[:, 1:], round((wanted - 1) ** 0.5), dino=bool(head))
        state = {**state, place: torch.cat([positions[:, :1], grid], dim=1)}
    return state


def _resample(positions: torch.Tensor, side: int, dino: bool) -> torch.Tensor:
    old = round(positions.shape[1] ** 0.5)
    grid = positions.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    # DINO's code gives a scale, a little too large so that rounding cannot lose a row; transformers gives the size.
    scale = (side + 0.1) / old
    options = {"scale_factor": (scale, scale)} if dino else {"size": (side, side)}
    resampled = interpolate(grid, mode="bicubic", align_corners=False, **options)
    return resampled.permute(0, 2, 3, 1).flatten(1, 2)
