"""The network of Hist2Cell in torch, written from its published description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from ...errors import MissingExtraError
from ..neighbourhood import Positions

WIDTH, BACKBONE, HEADS, DEPTH = 256, 512, 8, 3
#: Spots nearer than this many pitches are joined: the 4 of a square lattice, the 6 of a hexagonal one.
_EDGE = 1.3
_MAX_NEIGHBOURS = 6
#: Of the last ReLU below zero, in training alone.
_SLOPE = 0.1


@dataclass(frozen=True, eq=False)
class SpotGraph:
    """The spots around each spot.

    Parameters
    ----------
    adjacency
        Which rows are joined, boolean sparse ``(n, n)``, without the diagonal.
    within_two
        Rows within two steps of each row, itself included.
    """

    adjacency: sparse.csr_matrix
    within_two: sparse.csr_matrix

    @classmethod
    def of(cls, positions: Positions, pitch_um: float) -> SpotGraph:
        """Join neighbours within sections: the nearest six at most, within 1.3 pitches."""
        here, there = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
        for name in np.unique(positions.section):
            rows = np.flatnonzero(positions.section == name)
            k = min(_MAX_NEIGHBOURS + 1, len(rows))
            distance, neighbour = cKDTree(positions.xy_um[rows]).query(positions.xy_um[rows], k=range(1, k + 1))
            near = (distance <= _EDGE * pitch_um) & (neighbour != np.arange(len(rows))[:, None])
            start, column = np.nonzero(near)
            here.append(rows[start])
            there.append(rows[neighbour[start, column]])
        i, j = np.concatenate(here), np.concatenate(there)
        n = len(positions)
        one_way = sparse.csr_matrix((np.ones(len(i), bool), (i, j)), shape=(n, n))
        adjacency = sparse.csr_matrix(one_way + one_way.T)
        step = adjacency + sparse.identity(n, dtype=bool, format="csr")
        # Counts of ways, then whether there is any.
        within_two = sparse.csr_matrix((step.astype(np.int32) @ step.astype(np.int32)) > 0)
        within_two.sort_indices()
        return cls(adjacency, within_two)

    def around(self, centres: np.ndarray) -> Subgraphs:
        """The centres' own neighbourhoods, side by side and not joined to one another."""
        parts = [
            self.within_two.indices[self.within_two.indptr[row] : self.within_two.indptr[row + 1]] for row in centres
        ]
        width = max(map(len, parts))
        nodes = np.full((len(parts), width), -1)
        middle = np.empty(len(parts), np.intp)
        starts: list[np.ndarray] = []
        ends: list[np.ndarray] = []
        for number, (part, centre) in enumerate(zip(parts, centres, strict=True)):
            nodes[number, : len(part)] = part
            middle[number] = np.searchsorted(part, centre)
            inside = self.adjacency[part][:, part].tocoo()
            starts.append(inside.row + number * width)
            ends.append(inside.col + number * width)
        edges = np.stack([np.concatenate(starts), np.concatenate(ends)]).astype(np.int64)
        return Subgraphs(nodes, middle, edges)


@dataclass(frozen=True, eq=False)
class Subgraphs:
    """Neighbourhoods of some centres, padded to one width.

    Parameters
    ----------
    nodes
        Row of each node, ``(n_centres, width)``, -1 for padding.
    middle
        Where the centre stands among its nodes, ``(n_centres,)``.
    edges
        Pairs of node positions ``(2, n_edges)`` in ``nodes`` laid out flat.
    """

    nodes: np.ndarray
    middle: np.ndarray
    edges: np.ndarray


class Block(nn.Module):
    """A transformer block, normalised first: attention over the nodes, then a perceptron four times as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Apply to ``x`` (centres, nodes, width); ``there`` (centres, nodes) is False for padding."""
        n, s, _ = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(n, s, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).reshape(n, s, WIDTH))
        attended: Tensor = x + self.down(functional.gelu(self.up(self.norm_2(x))))
        return attended


class Hist2CellGraph(nn.Module):
    """What stands on the tile features: graph attention, a transformer over the neighbourhood, and four heads.

    Parameters
    ----------
    n_features
        Of a tile; projected to 512 where they are not a ResNet18's.
    n_types
        Outputs.
    project
        Put a linear layer before, in the place of the ResNet18.
    """

    def __init__(self, n_features: int, n_types: int, project: bool) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import GATv2Conv
        except ImportError as error:
            raise MissingExtraError("torch-geometric", "baselines", "the head hist2cell") from error
        self.project: nn.Module = nn.Linear(n_features, BACKBONE) if project else nn.Identity()
        self.spot = nn.Linear(BACKBONE, WIDTH)
        self.graph: Any = GATv2Conv(BACKBONE, WIDTH // HEADS, heads=HEADS)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.last_norm = nn.LayerNorm(WIDTH)
        self.fuse = nn.Linear(3 * WIDTH, WIDTH)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, n_types) for _ in range(4))

    def forward(self, x: Tensor, graphs: Subgraphs, row_of: np.ndarray) -> Tensor:
        """Abundances of the centres, ``(n_centres, n_types)``.

        Parameters
        ----------
        x
            Features ``(m, n_features)`` of the tiles that the graphs need.
        graphs
            The centres' neighbourhoods.
        row_of
            Which row of ``x`` each row of the table is.
        """
        there = torch.from_numpy(graphs.nodes >= 0).to(x.device)
        x = functional.relu(self.project(x)) if isinstance(self.project, nn.Linear) else x
        nodes = x[torch.from_numpy(row_of[np.maximum(graphs.nodes, 0)]).to(x.device)]
        n, s, _ = nodes.shape
        flat: Tensor = self.graph(nodes.reshape(n * s, -1), torch.from_numpy(graphs.edges).to(x.device))
        local = functional.relu(self.norm(flat)).view(n, s, WIDTH)
        wide = local
        for block in self.blocks:
            wide = block(wide, there)
        every, middle = torch.arange(n), torch.from_numpy(graphs.middle)
        views = [
            functional.relu(self.spot(nodes[every, middle])),
            local[every, middle],
            self.last_norm(wide)[every, middle],
        ]
        views.append(functional.relu(self.fuse(torch.cat(views, dim=1))))
        outputs = [head(view) for head, view in zip(self.heads, views, strict=True)]
        mean = torch.stack(outputs).mean(dim=0)
        # A type that is below zero everywhere would learn nothing more through a ReLU.
        return functional.leaky_relu(mean, _SLOPE) if self.training else functional.relu(mean)


class Hist2CellTiles(nn.Module):
    """The whole network: a ResNet18 on the tiles, and the graph on its features."""

    def __init__(self, n_types: int) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.rest = Hist2CellGraph(BACKBONE, n_types, project=False)

    def encode(self, tiles: np.ndarray) -> Tensor:
        """Features of uint8 tiles ``(m, px, px, 3)``, scaled as ImageNet's."""
        device = self.backbone.conv1.weight.device
        x = torch.from_numpy(np.ascontiguousarray(tiles)).to(device).permute(0, 3, 1, 2).float() / 255
        mean, spread = (torch.tensor(c, device=device) for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        encoded: Tensor = self.backbone((x - mean[:, None, None]) / spread[:, None, None])
        return encoded
