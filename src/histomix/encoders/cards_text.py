"""Cards of encoders trained on pairs of images and text; only their image towers are used."""

from __future__ import annotations

from .card_parts import CLIP, HALVES, IMAGENET, NON_COMMERCIAL, hub_card

#: 448 px that show what 512 px at 20x show, as their authors' own slide pipeline cuts them.
_CONCH_MPP = 0.5 * 512 / 448

CARDS = (
    hub_card(
        name="conch",
        # Its authors advise this embedding, before the projection to the space shared with text, for other tasks.
        title="CONCH, ViT-B/16 with attention pooling, not projected",
        hub_id="MahmoodLab/CONCH",
        revision="f9ca9f877171a28ade80228fb195ac5d79003357",
        files=("pytorch_model.bin",),
        architecture="vit_base_patch16_224",
        arguments={"img_size": 448, "pooler": "multihead"},
        size_px=448,
        mpp=_CONCH_MPP,
        pooling="attention",
        dim=512,
        parameters=87.6,
        gated=True,
        paper="https://doi.org/10.1038/s41591-024-02856-4",
        **CLIP,
        **NON_COMMERCIAL,
    ),
    hub_card(
        name="conch-v1.5",
        title="CONCH v1.5, ViT-L/16 with attention pooling",
        hub_id="MahmoodLab/TITAN",
        revision="b2fb4f475256eb67c6e9ccbf2d6c9c3f25f20791",
        files=("conch_v1_5_pytorch_model.bin",),
        architecture="vit_large_patch16_224",
        arguments={"img_size": 448, "init_values": 1e-6, "pooler": "plain"},
        size_px=448,
        mpp=_CONCH_MPP,
        pooling="attention",
        dim=768,
        parameters=306.7,
        gated=True,
        paper="https://doi.org/10.48550/arXiv.2411.19666",
        **IMAGENET,
        **NON_COMMERCIAL,
    ),
    hub_card(
        name="plip",
        title="PLIP, ViT-B/32, projected",
        hub_id="vinid/plip",
        architecture="vit_base_patch32_clip_quickgelu_224",
        arguments={"num_classes": 512},
        pooling="projection",
        dim=512,
        parameters=87.8,
        licence="not stated; for research",
        commercial_use=False,
        paper="https://doi.org/10.1038/s41591-023-02504-3",
        # Its images come from social media, at no known scale.
        unconfirmed=("mpp", "licence"),
        **CLIP,
    ),
    hub_card(
        name="musk",
        title="MUSK, BEiT-3 large/16, class token at one scale, not projected",
        hub_id="xiangjx/musk",
        architecture="beit3_large_patch16_224",
        arguments={"img_size": 384, "global_pool": "token"},
        size_px=384,
        pooling="class",
        dim=1024,
        parameters=303.9,
        gated=True,
        paper="https://doi.org/10.1038/s41586-024-08378-w",
        **HALVES,
        **NON_COMMERCIAL,
    ),
)
