"""Cards of the smaller tile encoders trained on slides, and of general ones trained on natural images."""

from __future__ import annotations

from functools import partial
from typing import Any

from .card_parts import APACHE, HALVES, IMAGENET, hub_card

#: Published with the weights; the timm ports on the hub name ImageNet's instead.
_LUNIT: dict[str, Any] = {"mean": (0.70322989, 0.53606487, 0.66096631), "std": (0.21716536, 0.26081574, 0.20723464)}
_KAIKO = "kaiko_ai_towards_large_pathology_fms"

_lunit = partial(
    hub_card,
    pooling="class",
    dim=384,
    licence="Lunit non-commercial",
    commercial_use=False,
    paper="https://doi.org/10.48550/arXiv.2212.04690",
    **_LUNIT,
)
_kaiko = partial(
    hub_card,
    pooling="class",
    licence="Kaiko non-commercial",
    commercial_use=False,
    paper="https://doi.org/10.48550/arXiv.2404.15217",
    **HALVES,
)

SLIDES = (
    hub_card(
        name="phikon",
        title="Phikon, ViT-B/16",
        hub_id="owkin/phikon",
        architecture="vit_base_patch16_224",
        # That of transformers' ViT, whose class the authors load it with.
        arguments={"norm_eps": 1e-12},
        pooling="class",
        dim=768,
        parameters=85.8,
        licence="Owkin non-commercial",
        commercial_use=False,
        paper="https://doi.org/10.1101/2023.07.21.23292757",
        **IMAGENET,
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
    *(
        _kaiko(
            name=f"kaiko-{letter}{patch}",
            title=f"Kaiko, ViT-{letter.upper()}/{patch} (timm port)",
            hub_id=f"1aurent/vit_{size}_patch{patch}_224.{_KAIKO}",
            revision="a4eb74de76274a5f3fe8260841a1b07a90930f43" if (letter, patch) == ("b", 8) else None,
            architecture=f"vit_{size}_patch{patch}_224",
            dim=dim,
            parameters=parameters,
        )
        for letter, size, patch, dim, parameters in (
            ("s", "small", 16, 384, 21.7),
            ("s", "small", 8, 384, 21.7),
            ("b", "base", 16, 768, 85.8),
            ("b", "base", 8, 768, 85.8),
        )
    ),
    _kaiko(
        name="kaiko-l14",
        title="Kaiko, ViT-L/14 with 4 registers (timm port)",
        hub_id=f"1aurent/vit_large_patch14_reg4_224.{_KAIKO}",
        architecture="vit_large_patch14_reg4_dinov2",
        # The weights hold positions of 518 px tiles; timm interpolates them to the tile it is given.
        arguments={"img_size": 518, "dynamic_img_size": True},
        dim=1024,
        parameters=304.4,
    ),
    hub_card(
        name="ctranspath",
        title="CTransPath, Swin-T with a convolutional stem",
        hub_id=None,
        files=("ctranspath.pth",),
        website="https://github.com/Xiyue-Wang/TransPath",
        architecture="swin_tiny_patch4_window7_224",
        arguments={"embed_layer": "ConvStem"},
        # 10x, as published feature extractors use it; the paper names no one scale.
        mpp=1.0,
        pooling="mean",
        dim=768,
        parameters=27.5,
        licence="GPL-3.0",
        commercial_use=None,
        paper="https://doi.org/10.1016/j.media.2022.102559",
        unconfirmed=("mpp", "commercial_use"),
        **IMAGENET,
    ),
)

#: Late layers of these name objects; earlier ones describe texture. Which are pooled is our choice, and so is the
#: scale, since natural images have none.
NATURAL = (
    hub_card(
        name="resnet50-imagenet",
        title="ResNet50, ImageNet (torchvision's first weights), second and third stage",
        hub_id="timm/resnet50.tv_in1k",
        revision="78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        architecture="resnet50",
        pooling="stages",
        layers=(2, 3),
        dim=1536,
        parameters=23.5,
        licence="BSD-3-Clause",
        commercial_use=True,
        paper="https://doi.org/10.48550/arXiv.1512.03385",
        unconfirmed=("mpp", "layers"),
        **IMAGENET,
    ),
    *(
        hub_card(
            name=f"dinov2-{letter}",
            title=f"DINOv2, ViT-{letter.upper()}/14, natural images, blocks 6, 9 and 12",
            hub_id=f"timm/vit_{size}_patch14_dinov2.lvd142m",
            architecture=f"vit_{size}_patch14_dinov2",
            arguments={"img_size": 518, "dynamic_img_size": True},
            pooling="stages",
            layers=(5, 8, 11),
            dim=3 * width,
            parameters=parameters,
            paper="https://doi.org/10.48550/arXiv.2304.07193",
            unconfirmed=("mpp", "layers"),
            **IMAGENET,
            **APACHE,
        )
        for letter, size, width, parameters in (("s", "small", 384, 22.1), ("b", "base", 768, 86.6))
    ),
)
