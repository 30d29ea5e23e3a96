"""The encoders that histomix knows.

Architecture, normalisation, pooling and licence come from each model's card on the hub or from the code that its
authors, lazyslide-models (MIT) or TRIDENT publish; the scale is the 20x of TRIDENT's table. The number of weights of
every timm architecture equals the published one. Natural images have no scale: there ``mpp`` is ours.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

from ..errors import EncoderError
from .builtin import CARD as BUILTIN
from .card import EncoderCard

_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_BIOPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
#: Published with the weights; the timm ports on the hub name ImageNet's instead.
_LUNIT: dict[str, Any] = {"mean": (0.70322989, 0.53606487, 0.66096631), "std": (0.21716536, 0.26081574, 0.20723464)}
_HALVES: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_SWIGLU: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_NON_COMMERCIAL: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "commercial_use": False}
_APACHE: dict[str, Any] = {"licence": "Apache-2.0", "commercial_use": True}

_timm = partial(EncoderCard, source="timm", size_px=224, mpp=0.5, gated=False)
_gated = partial(_timm, gated=True)
_lunit = partial(
    _timm,
    pooling="class",
    dim=384,
    licence="Lunit non-commercial",
    commercial_use=False,
    paper="https://doi.org/10.48550/arXiv.2212.04690",
    **_LUNIT,
)
_kaiko = partial(
    _timm,
    pooling="class",
    licence="Kaiko non-commercial",
    commercial_use=False,
    paper="https://doi.org/10.48550/arXiv.2404.15217",
    **_HALVES,
)

_CARDS = (
    BUILTIN,
    _gated(
        name="uni",
        title="UNI, ViT-L/16",
        hub_id="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        arguments={"init_values": 1e-5},
        pooling="class",
        dim=1024,
        parameters=303.4,
        paper="https://doi.org/10.1038/s41591-024-02857-3",
        **_IMAGENET,
        **_NON_COMMERCIAL,
    ),
    _gated(
        name="uni2-h",
        title="UNI2-h, ViT-H/14 with 8 registers",
        hub_id="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            **_SWIGLU,
        },
        pooling="class",
        dim=1536,
        parameters=681.4,
        paper="https://doi.org/10.1038/s41591-024-02857-3",
        **_IMAGENET,
        **_NON_COMMERCIAL,
    ),
    _gated(
        name="virchow",
        title="Virchow, ViT-H/14",
        hub_id="paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        arguments={"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU},
        pooling="class+mean",
        dim=2560,
        parameters=631.2,
        paper="https://doi.org/10.1038/s41591-024-03141-0",
        **_IMAGENET,
        **_APACHE,
    ),
    _gated(
        name="virchow2",
        title="Virchow2, ViT-H/14 with 4 registers",
        hub_id="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        arguments={"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, "global_pool": "", **_SWIGLU},
        pooling="class+mean",
        dim=2560,
        parameters=631.2,
        paper="https://doi.org/10.48550/arXiv.2408.00738",
        **_IMAGENET,
        **_NON_COMMERCIAL,
    ),
    _gated(
        name="prov-gigapath",
        title="Prov-GigaPath tile encoder, ViT-g/16",
        hub_id="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        arguments={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
        },
        pooling="class",
        dim=1536,
        parameters=1135.0,
        licence="Apache-2.0 with conditions",
        commercial_use=False,
        paper="https://doi.org/10.1038/s41586-024-07441-w",
        **_IMAGENET,
    ),
    _timm(
        name="h-optimus-0",
        title="H-optimus-0, ViT-g/14 with 4 registers",
        hub_id="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5},
        pooling="class",
        dim=1536,
        parameters=1134.8,
        paper="https://github.com/bioptimus/releases/tree/main/models/h-optimus/v0",
        unconfirmed=("gated",),
        **_BIOPTIMUS,
        **_APACHE,
    ),
    _gated(
        name="h-optimus-1",
        title="H-optimus-1, ViT-g/14 with 4 registers",
        hub_id="bioptimus/H-optimus-1",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5},
        pooling="class",
        dim=1536,
        parameters=1134.8,
        paper="https://huggingface.co/bioptimus/H-optimus-1",
        **_BIOPTIMUS,
        **_NON_COMMERCIAL,
    ),
    _gated(
        name="h0-mini",
        title="H0-mini, ViT-B/14 with 4 registers",
        hub_id="bioptimus/H0-mini",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, "global_pool": "", **_SWIGLU},
        pooling="class+mean",
        dim=1536,
        parameters=85.7,
        paper="https://doi.org/10.48550/arXiv.2501.16239",
        unconfirmed=("architecture", "arguments"),
        **_BIOPTIMUS,
        **_NON_COMMERCIAL,
    ),
    _timm(
        name="phikon",
        title="Phikon, ViT-B/16 (timm port)",
        hub_id="1aurent/vit_base_patch16_224.owkin_pancancer",
        architecture="vit_base_patch16_224",
        pooling="class",
        dim=768,
        parameters=85.8,
        licence="Owkin non-commercial",
        commercial_use=False,
        paper="https://doi.org/10.1101/2023.07.21.23292757",
        **_IMAGENET,
    ),
    _lunit(
        name="lunit-s16",
        title="Lunit DINO, ViT-S/16 (timm port)",
        hub_id="1aurent/vit_small_patch16_224.lunit_dino",
        architecture="vit_small_patch16_224",
        parameters=21.7,
    ),
    _lunit(
        name="lunit-s8",
        title="Lunit DINO, ViT-S/8 (timm port)",
        hub_id="1aurent/vit_small_patch8_224.lunit_dino",
        revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4",
        architecture="vit_small_patch8_224",
        parameters=21.7,
    ),
    _kaiko(
        name="kaiko-s16",
        title="Kaiko, ViT-S/16 (timm port)",
        hub_id="1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_small_patch16_224",
        dim=384,
        parameters=21.7,
    ),
    _kaiko(
        name="kaiko-b8",
        title="Kaiko, ViT-B/8 (timm port)",
        hub_id="1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms",
        revision="a4eb74de76274a5f3fe8260841a1b07a90930f43",
        architecture="vit_base_patch8_224",
        dim=768,
        parameters=85.8,
    ),
    _kaiko(
        name="kaiko-l14",
        title="Kaiko, ViT-L/14 with 4 registers (timm port)",
        hub_id="1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_large_patch14_reg4_dinov2",
        # The weights hold positions of 518 px tiles; timm interpolates them to the tile it is given.
        arguments={"img_size": 518, "dynamic_img_size": True},
        dim=1024,
        parameters=304.4,
    ),
    _timm(
        name="resnet50-imagenet",
        title="ResNet50, ImageNet (torchvision's first weights)",
        hub_id="timm/resnet50.tv_in1k",
        architecture="resnet50",
        pooling="mean",
        dim=2048,
        parameters=23.5,
        licence="BSD-3-Clause",
        commercial_use=True,
        paper="https://doi.org/10.48550/arXiv.1512.03385",
        unconfirmed=("mpp",),
        **_IMAGENET,
    ),
    *(
        _timm(
            name=f"dinov2-{letter}",
            title=f"DINOv2, ViT-{letter.upper()}/14, natural images",
            hub_id=f"timm/vit_{size}_patch14_dinov2.lvd142m",
            architecture=f"vit_{size}_patch14_dinov2",
            arguments={"img_size": 518, "dynamic_img_size": True},
            pooling="class",
            dim=dim,
            parameters=parameters,
            paper="https://doi.org/10.48550/arXiv.2304.07193",
            unconfirmed=("mpp",),
            **_IMAGENET,
            **_APACHE,
        )
        for letter, size, dim, parameters in (("s", "small", 384, 22.1), ("b", "base", 768, 86.6))
    ),
)


def cards() -> list[EncoderCard]:
    """The cards of all encoders, the built-in one first."""
    return list(_CARDS)


def card(name: str) -> EncoderCard:
    """The card of one encoder; capitals and underscores in ``name`` do not matter.

    Raises
    ------
    EncoderError
        There is no encoder of that name; the message offers the closest ones.
    """
    wanted = name.lower().replace("_", "-")
    known = {one.name: one for one in _CARDS}
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    mend = f"Did you mean {' or '.join(close)}" if close else f"Choose one of {', '.join(known)}"
    raise EncoderError(f"there is no encoder {name!r}", mend=mend)
