"""The networks inside DPK: a masked autoencoder with two encoders."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Size:
    """Size of a transformer: width, number of blocks, heads."""

    dim: int
    depth: int
    heads: int


class Block(nn.Module):
    """Pre-norm transformer block; bias on queries and values only.

    Args:
        dim (int): Width.
        heads (int): Attention heads.
        checkpoint (bool): Whether the backward pass computes it once more instead of
            keeping what is inside. Defaults to False.
    """

    def __init__(self, dim: int, heads: int, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.heads, self.checkpoint = heads, checkpoint
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, D)`` -> ``(N, T, D)``."""
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(
                self._block, x, use_reentrant=False, preserve_rng_state=False
            )
        return self._block(x)

    def _block(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(self.norm1(x), self.qkv.weight, bias)
        # taken apart as they lie, so that their gradients are put together in one copy
        parts = qkv.unflatten(2, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        seen = attend(q, k, v)  # (N, heads, T, D / heads)
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, by what is fastest forwards and backwards.

    That is torch's, fused, but for bf16 on a CPU, where two products take a quarter of
    its time at the sizes of these networks (benchmarks/attention.py).

    Args:
        q (Tensor): ``(N, heads, T, D)``.
        k (Tensor): The same.
        v (Tensor): The same.

    Returns:
        Tensor: ``(N, heads, T, D)``.
    """
    if q.device.type == 'cpu' and q.dtype == torch.bfloat16:
        return products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as two products with a softmax in between."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


class PriorNet(nn.Module):
    """Rebuild the teacher's map from some of its own tokens and the student's others.

    Source: DPK, arXiv 2206.06067, in the form of the authors' code. Selection comes
    before encoding: no encoder sees a token of the other side.

    Args:
        student (int): Channels of the student's map.
        teacher (int): Channels of the teacher's.
        patch (int): Side of a token in cells.
        encoder (Size): Of both encoders; they do not share weights.
        decoder (Size): Of the decoder.
        checkpoint (bool): Of the blocks, see :class:`Block`. Defaults to False.
    """

    def __init__(
        self,
        *,
        student: int,
        teacher: int,
        patch: int,
        encoder: Size,
        decoder: Size,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()

        def blocks(size: Size) -> list[Block]:
            own = range(size.depth)
            return [Block(size.dim, size.heads, checkpoint=checkpoint) for _ in own]

        self.patch, self.dims = patch, (encoder.dim, decoder.dim)
        self.embed = nn.ModuleDict(
            dict(
                student=nn.Conv2d(student, encoder.dim, patch, patch),
                teacher=nn.Conv2d(teacher, encoder.dim, patch, patch),
            )
        )
        self.encoders = nn.ModuleDict(
            {
                side: nn.Sequential(*blocks(encoder), nn.LayerNorm(encoder.dim))
                for side in ('student', 'teacher')
            }
        )
        self.project = nn.Linear(encoder.dim, decoder.dim, bias=False)
        self.decoder = nn.Sequential(
            *blocks(decoder),
            nn.LayerNorm(decoder.dim),
            nn.Linear(decoder.dim, teacher * patch * patch),
        )
        self.positions: dict[tuple, tuple[Tensor, Tensor]] = {}
        for part in (self.encoders, self.decoder):
            part.apply(_xavier)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens down and across a map; the last may hang over the edge."""
        return -(-height // self.patch), -(-width // self.patch)

    def forward(
        self, student: Tensor, teacher: Tensor, order: Tensor, count: int
    ) -> Tensor:
        """Decode.

        Args:
            student (Tensor): ``(N, Cs, H, W)``.
            teacher (Tensor): ``(N, Ct, H, W)``.
            order (Tensor): ``(N, T)``, a permutation of the token positions per image.
            count (int): The first ``count`` of them are the teacher's.

        Returns:
            Tensor: ``(N, Ct, H, W)``.
        """
        height, width = student.shape[2:]
        rows, columns = self.grid(height, width)
        enc_at, dec_at = self._positions((rows, columns), student.device)

        encoded, places = [], order.split([count, order.shape[1] - count], dim=1)
        for (side, feature), place in zip(
            (('teacher', teacher), ('student', student)), places, strict=True
        ):
            if place.shape[1] == 0:
                encoded.append(self._tied(side))
                continue
            patches = F.pixel_unshuffle(self._pad(feature, rows, columns), self.patch)
            chosen = pick(patches.flatten(2).transpose(1, 2), place)
            # the convolution, on the chosen places only: what is left is one product
            weight, bias = self.embed[side].weight.flatten(1), self.embed[side].bias
            tokens = F.linear(chosen, weight, bias) + enc_at[0, place]
            encoded.append(self.encoders[side](tokens))
        full = [x for x in encoded if x.ndim == 3]
        tokens = torch.cat(full, 1)  # (N, T, De) in the order of `order`
        for zero in (x for x in encoded if x.ndim == 0):
            tokens = tokens + zero
        tokens = pick(self.project(tokens), order.argsort(1)) + dec_at
        out = self.decoder(tokens).transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(out, self.patch)[..., :height, :width]

    def _pad(self, feature: Tensor, rows: int, columns: int) -> Tensor:
        below = rows * self.patch - feature.shape[2]
        right = columns * self.patch - feature.shape[3]
        return F.pad(feature, (0, right, 0, below)) if below or right else feature

    def _positions(
        self, grid: tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Fixed sine-cosine positions of encoders and decoder, ``(1, T, D)``."""
        key = (*grid, device)
        if key not in self.positions:
            if len(self.positions) > 64:  # images of many sizes
                self.positions.clear()
            made = [sine_cosine(grid, dim).to(device) for dim in self.dims]
            self.positions[key] = (made[0], made[1])
        return self.positions[key]

    def _tied(self, side: str) -> Tensor:
        """0, with the parameters of an idle side behind it: DDP waits for them."""
        parts = (*self.embed[side].parameters(), *self.encoders[side].parameters())
        return torch.stack([p.flatten()[:0].sum() for p in parts]).sum()


def _xavier(module: nn.Module) -> None:
    """The authors' initialisation of what lies in encoders and decoder."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens ``(N, T, D)`` at ``(N, K)`` places, ``(N, K, D)``."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


def sine_cosine(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed positions of tokens in two dimensions, as of MoCo v3 and MAE.

    Args:
        grid (tuple[int, int]): Rows and columns; tokens go row by row.
        dim (int): Their width, divisible by 4: sine and cosine of the row, then of
            the column, each at ``dim / 4`` frequencies from 1 down to 1e-4.

    Returns:
        Tensor: ``(1, rows * columns, dim)``.
    """
    step = torch.arange(dim // 4, dtype=torch.float32) / (dim // 4)
    frequency = 1.0 / (10000.0**step)
    places = [torch.arange(n, dtype=torch.float32) for n in grid]
    rows, columns = torch.meshgrid(*places, indexing='ij')
    down = torch.einsum('m,d->md', rows.flatten(), frequency)
    across = torch.einsum('m,d->md', columns.flatten(), frequency)
    return torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], dim=1)[None]
