"""Correspondence by attention to a reference's cells: PSLA and what it is compared with (002, sections 3.2 and 4.3).

Legend: N current frames · K = 1 or N references · C channels · E embedding channels · (h, w) cells · P neighbours
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.alignment.correspondence import Aligner, Correspondence
from keywarp.errors import UserError
from keywarp.ops.neighbourhood import Offsets, affinity, dense_offsets, gather_sum, sparse_offsets
from keywarp.structures import Features, Frame, Memory


@dataclass(frozen=True)
class LocalAttention(Correspondence):
    """How much of each neighbouring cell of the reference goes into a cell.

    weights: `[N, P, h, w]`, of sum one over the P neighbours that lie on the map. offsets: where they are, (dx, dy) in
    cells. The features that are propagated have the same cells.
    """

    weights: Tensor
    offsets: Offsets
    quality: Tensor | None = None
    fallback: tuple[float, ...] = ()

    def propagate(self, features: Features) -> Features:
        return tuple(gather_sum(level, self.weights, self.offsets) for level in features)  # Eq. 5

    def first(self, count: int) -> LocalAttention:
        return LocalAttention(self.weights[:count], self.offsets)


@dataclass(frozen=True)
class GlobalAttention(Correspondence):
    """The same with every cell of the reference as a neighbour, by a softmax over inner products.

    query: `[N, E, h, w]`. key: `[K, E, h, w]`. The weights of every pair of cells are computed where they are used,
    and of one frame at a time.
    """

    query: Tensor
    key: Tensor
    quality: Tensor | None = None
    fallback: tuple[float, ...] = ()

    def propagate(self, features: Features) -> Features:
        maps = torch.cat(features, dim=1)
        queries, keys, values = (x.to(maps.dtype).flatten(2).mT for x in (self.query, self.key, maps))  # [·, h·w, ·]
        N = len(queries)
        carried = [
            F.scaled_dot_product_attention(q, k, v, scale=1.0)
            for q, k, v in zip(queries.split(1), keys.expand(N, -1, -1), values.expand(N, -1, -1), strict=True)
        ]
        levels = torch.cat(carried).mT.unflatten(2, self.query.shape[2:])
        return levels.split([level.shape[1] for level in features], dim=1)

    def first(self, count: int) -> GlobalAttention:
        return GlobalAttention(self.query[:count], self.key if len(self.key) == 1 else self.key[:count])


class AttentionAligner(Aligner):
    """Compares embeddings of the two frames' features, cell with cell: f of the reference's, g of the current's.

    channels: C. embedding: E channels of the 1×1 convolutions f and g (section 3.5); None = the features themselves,
    as the paper's model sizes and its "parameter-free PSLA" imply (Table 3, section 4.4). cosine: None = the inner
    products are raw (Eq. 1); a number = they are of unit vectors, times it, which is not in the paper. Raw ones favour
    cells of large features whatever they show, until training has made the features suit them; unit vectors find the
    same thing again from the first step on, in the features of any trained detector.

    f and g start alike, which the paper leaves out: then their products are those of the features but for a factor and
    for what the projection loses, so like attracts like from the first step. It reads the first of a frame's maps.
    """

    def __init__(self, channels: int, embedding: int | None, cosine: float | None) -> None:
        super().__init__()
        if cosine is not None and not cosine > 0:
            raise UserError(f"cosine must be more than 0, or None for raw inner products, got {cosine}")
        self.cosine = cosine
        self.f: nn.Module = nn.Identity()
        self.g: nn.Module = nn.Identity()
        if embedding is not None:
            # A bias of f would add the same to all of a cell's products, which the softmax takes off again.
            f, g = nn.Conv2d(channels, embedding, 1, bias=False), nn.Conv2d(channels, embedding, 1)
            assert g.bias is not None
            nn.init.xavier_normal_(f.weight)
            g.load_state_dict({"weight": f.weight, "bias": torch.zeros_like(g.bias)})
            self.f, self.g = f, g

    def forward(self, reference: Memory, current: Frame) -> Correspondence:
        """Of frames whose features are known; where they are not computed in full, a transform net's."""
        theirs = reference.work
        if theirs is None:
            theirs = self.remember(Frame(reference.image, features=reference.features))
        return self.attend(self._compared(self.g(_features(current))), theirs)

    def remember(self, frame: Frame) -> Tensor:
        """The embedding `[K, E, h, w]` of a reference."""
        return self._compared(self.f(_features(frame)))

    def _compared(self, embedding: Tensor) -> Tensor:
        """As its inner products are taken: as it is, or of length √cosine."""
        return embedding if self.cosine is None else self.cosine**0.5 * F.normalize(embedding, dim=1)

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor) -> Correspondence:
        """Of embeddings `[N, E, h, w]` of the current frames and `[K, E, h, w]` of the references."""


class LocalAligner(AttentionAligner):
    """Attends to the cells at most `displacement` d away."""

    def __init__(
        self, channels: int, *, displacement: int = 4, embedding: int | None = 256, cosine: float | None = None
    ) -> None:
        super().__init__(channels, embedding, cosine)
        if displacement < 0:
            raise UserError(f"displacement must be 0 or more cells, got {displacement}; the paper has 2 to 5")
        self.offsets = self.neighbourhood(displacement)

    def attend(self, query: Tensor, key: Tensor) -> LocalAttention:
        return LocalAttention(self.weights(affinity(query, key, self.offsets)), self.offsets)

    @staticmethod
    @abstractmethod
    def neighbourhood(displacement: int) -> Offsets:
        """The cells attended to."""

    def weights(self, affinities: Tensor) -> Tensor:
        """The weights `[N, P, h, w]` of affinities, which are -inf off the map: they compete by a softmax."""
        return affinities.softmax(dim=1)  # Eq. 4


class PSLA(LocalAligner):
    """Progressive sparse local attention: dense near the cell, sparser further away (section 3.2)."""

    @staticmethod
    def neighbourhood(displacement: int) -> Offsets:
        return sparse_offsets(displacement)


class DensePSLA(LocalAligner):
    """The same over all cells of the square (section 4.3)."""

    @staticmethod
    def neighbourhood(displacement: int) -> Offsets:
        return dense_offsets(displacement)


class MatchTrans(LocalAligner):
    """Weights in proportion to the similarities, over all cells of the square (section 4.3, after STMN).

    The paper does not say what a negative similarity counts: here nothing, and a cell that resembles none of its
    neighbours keeps what lies at its own place.
    """

    @staticmethod
    def neighbourhood(displacement: int) -> Offsets:
        return dense_offsets(displacement)

    def weights(self, affinities: Tensor) -> Tensor:
        similarities = affinities.clamp(min=0)
        total = similarities.sum(dim=1, keepdim=True)
        own = torch.zeros_like(affinities)
        own[:, self.offsets.index((0, 0))] = 1
        return torch.where(total > 0, similarities / torch.where(total > 0, total, 1), own)


class Nonlocal(AttentionAligner):
    """Attends to all cells of the reference (section 4.3)."""

    def __init__(self, channels: int, *, embedding: int | None = 256, cosine: float | None = None) -> None:
        super().__init__(channels, embedding, cosine)

    def attend(self, query: Tensor, key: Tensor) -> GlobalAttention:
        return GlobalAttention(query, key)


def _features(frame: Frame) -> Tensor:
    assert frame.features is not None, "attention needs the features of both frames"
    return frame.features[0]
