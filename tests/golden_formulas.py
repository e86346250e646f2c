#!/usr/bin/env python
"""Golden values: every formula once more, in NumPy and float64, without the package.

    PYTHONPATH=. python tests/golden_formulas.py     # writes tests/golden.json

Written from the papers and the docstrings. ``tests/test_golden.py`` holds package and
formulas against the stored numbers, so that a change of method is seen even where both
are changed together. Write the file again only where a method is meant to change.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from golden_criteria import CRITERIA, layer_norm, sigmoid, softmax

STORED = Path(__file__).with_name('golden.json')
IMAGE = (24, 32)  # pixels, of maps with 6 x 8 cells
erf = np.vectorize(math.erf)


def inputs() -> dict[str, np.ndarray]:
    """Random numbers that every version of torch draws alike on a CPU."""
    g = torch.Generator().manual_seed(1412)
    normal = dict(
        s=(2, 4, 6, 8), t=(2, 4, 6, 8), wide=(2, 6, 6, 8), p=(5, 7), q=(5, 7),
        size=(2, 2, 6, 8), offset=(2, 2, 6, 8), heat=(2, 2, 6, 8),
        x=(6, 5), y=(6, 3), positive=(5,), negative=(5, 9),
    )  # fmt: skip
    drawn = {
        name: torch.randn(shape, generator=g, dtype=torch.float64)
        for name, shape in normal.items()
    }
    drawn['w'] = torch.rand((2, 1, 6, 8), generator=g, dtype=torch.float64)
    drawn['order'] = torch.rand((2, 12), generator=g).argsort(1)
    return {name: value.numpy() for name, value in drawn.items()}


def weights(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Parameters of a network, by name, in the order of their names."""
    g = torch.Generator().manual_seed(1907)
    return {
        name: torch.randn(shapes[name], generator=g, dtype=torch.float64).numpy() * 0.4
        for name in sorted(shapes)
    }


# ---- CKA --------------------------------------------------------------------------


def cka(x, y, **_):
    """Biased by centring matrices, unbiased by U-centred ones (Szekely and Rizzo)."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    h = np.eye(n) - 1 / n
    biased = [np.trace(a @ h @ b @ h) for a, b in ((k, m), (k, k), (m, m))]
    u = []
    for gram in (k, m):
        gram = gram - np.diag(np.diag(gram))
        rows = gram.sum(1, keepdims=True) / (n - 2)
        centred = gram - rows - rows.T + gram.sum() / ((n - 1) * (n - 2))
        u.append(centred - np.diag(np.diag(centred)))
    free = [(a * b).sum() / (n * (n - 3)) for a, b in (u, (u[0], u[0]), (u[1], u[1]))]
    return [
        *(terms[0] / math.sqrt(terms[1] * terms[2]) for terms in (biased, free)),
        *free,
    ]


# ---- DAFA -------------------------------------------------------------------------


def warped(f, theta):
    """Bilinear, 0 outside; the centres of the outer cells are half a cell inside."""
    n, c, height, width = f.shape
    out = np.zeros_like(f)
    for i in range(height):
        for j in range(width):
            x, y = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            from_x, from_y = (
                (a * x + b * y + shift + 1) * cells / 2 - 0.5
                for (a, b, shift), cells in zip(theta, (width, height), strict=True)
            )
            for row in (math.floor(from_y), math.floor(from_y) + 1):
                for column in (math.floor(from_x), math.floor(from_x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        share = (1 - abs(from_y - row)) * (1 - abs(from_x - column))
                        out[:, :, i, j] += share * f[:, :, row, column]
    return out


def operators(t, chance, **_):
    """Every operator at magnitude 0.8, aspect 0.75; ``chance`` is what was drawn."""
    angle = math.radians(-30 + 60 * 0.8)
    cos, sin = math.cos(angle), math.sin(angle)
    shear, shift = -0.3 + 0.6 * 0.8, -0.45 + 0.9 * 0.8
    hole = t.copy()
    for i in range(6):
        for j in range(8):
            middle = int((0.3 + 1) / 2 * 6), int((-0.4 + 1) / 2 * 8)
            half = [max(0.2 * 0.8 * cells / 2, 0.5) for cells in (6, 8)]
            if abs(i - middle[0]) < half[0] and abs(j - middle[1]) < half[1]:
                hole[:, :, i, j] = 0
    drop = chance['uniform'] < 0.5 * 0.8
    return dict(
        ShearX=warped(t, [[1, shear, 0], [0, 1, 0]]),
        ShearY=warped(t, [[1, 0, 0], [shear, 1, 0]]),
        TranslateX=warped(t, [[1, 0, 2 * shift], [0, 1, 0]]),
        TranslateY=warped(t, [[1, 0, 0], [0, 1, 2 * shift]]),
        Rotate=warped(t, [[cos, -sin * 0.75, 0], [sin / 0.75, cos, 0]]),
        Cutout=hole,
        Noise=t + 0.1 * 0.8 * t.std(ddof=1) * chance['normal'],
        ChannelShuffle=t[:, chance['order']],
        ChannelDrop=np.where(drop[None, :, None, None], 0, t),
    )


# ---- DAM --------------------------------------------------------------------------


def areas(heat, size, offset, **_):
    """Boxes around the three highest peaks, and the weights they give."""
    heat, size, offset = sigmoid(heat), np.abs(size) * 2, sigmoid(offset)
    boxes, mask = [], np.zeros((2, 1, 6, 8))
    for n in range(2):
        peaks = []
        for k in range(2):
            for i in range(6):
                for j in range(8):
                    near = heat[n, k, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                    if heat[n, k, i, j] == near.max():
                        peaks.append((heat[n, k, i, j], i, j))
        for _, i, j in sorted(peaks, reverse=True)[:3]:
            centre = np.array([j, i]) + offset[n, :, i, j]
            half = size[n, :, i, j] / 2
            low, high = (np.clip(v, 0, [8, 6]) for v in (centre - half, centre + half))
            boxes.append([*low, *high])
            columns, rows = (
                range(math.floor(a), min(limit, max(math.ceil(b), math.floor(a) + 1)))
                for a, b, limit in zip(low, high, (8, 6))
            )
            for y in rows:
                for x in columns:
                    mask[n, 0, y, x] += 1
    return dict(boxes=np.array(boxes).reshape(2, 3, 4), mask=mask)


# ---- DPK --------------------------------------------------------------------------


def prior_net(s, wide, order, net, **_):
    """Patches of 2 x 2 cells on a grid of 3 x 4, five given by the teacher."""
    tokens = {}
    at = _positions(8)
    given = ('teacher', wide, order[:, :5]), ('student', s, order[:, 5:])
    for side, f, places in given:
        weight = net[f'embed.{side}.weight']
        cells = f.reshape(2, f.shape[1], 3, 2, 4, 2)
        embedded = np.einsum('ncyixj,dcij->nyxd', cells, weight).reshape(2, 12, 8)
        embedded = embedded + net[f'embed.{side}.bias'] + at
        x = np.stack([embedded[n, places[n]] for n in range(2)])
        x = _block(x, net, f'encoders.{side}.0', 2)
        tokens[side] = layer_norm(
            x, net[f'encoders.{side}.1.weight'], net[f'encoders.{side}.1.bias']
        )
    every = np.concatenate([tokens['teacher'], tokens['student']], 1)
    every = every @ net['project.weight'].T
    x = np.zeros((2, 12, 8))
    for n in range(2):
        x[n, order[n]] = every[n]
    x = _block(x + at, net, 'decoder.0', 2)
    x = layer_norm(x, net['decoder.1.weight'], net['decoder.1.bias'])
    x = x @ net['decoder.2.weight'].T + net['decoder.2.bias']  # (N, 12, 6 * 2 * 2)
    x = x.reshape(2, 3, 4, 6, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(2, 6, 6, 8)


def _positions(dim):
    rows = []
    for y in range(3):
        for x in range(4):
            rates = [10000 ** (-k / (dim // 4)) for k in range(dim // 4)]
            rows.append(
                [f(v * r) for v in (y, x) for f in (math.sin, math.cos) for r in rates]
            )
    return np.array(rows)


def _block(x, net, name, heads):
    w = {k.removeprefix(f'{name}.'): v for k, v in net.items() if k.startswith(name)}
    width = x.shape[2]
    y = layer_norm(x, w['norm1.weight'], w['norm1.bias'])
    q, k, v = (y @ part.T for part in np.split(w['qkv.weight'], 3))
    q, v = q + w['q_bias'], v + w['v_bias']
    seen, each = [], width // heads
    for h in range(heads):
        own = slice(h * each, (h + 1) * each)
        score = q[..., own] @ k[..., own].transpose(0, 2, 1) / math.sqrt(each)
        seen.append(softmax(score, 2) @ v[..., own])
    x = x + np.concatenate(seen, 2) @ w['proj.weight'].T + w['proj.bias']
    y = layer_norm(x, w['norm2.weight'], w['norm2.bias'])
    y = y @ w['mlp.0.weight'].T + w['mlp.0.bias']
    y = y * (1 + erf(y / math.sqrt(2))) / 2
    return x + y @ w['mlp.2.weight'].T + w['mlp.2.bias']


# ---- all of them ------------------------------------------------------------------


def digest(values) -> list[float]:
    """A short list as it is; of an array its mean, mean square and eight entries."""
    flat = np.asarray(values, dtype=float).ravel()
    if len(flat) <= 8:
        return flat.tolist()
    some = flat[:: max(1, len(flat) // 8)][:8]
    return [flat.mean(), (flat**2).mean(), *some]


def results(**more) -> dict[str, list[float]]:
    """Everything by name; ``more`` are weights and draws of the package's parts."""
    given = inputs() | more
    out = {f.__name__: digest(f(**given)) for f in (*CRITERIA, cka)}
    out['inputs'] = digest([given[name].sum() for name in sorted(inputs())])
    for name, value in operators(**given).items():
        out[f'dafa {name}'] = digest(value)
    for name, value in areas(**given).items():
        out[f'dam {name}'] = digest(value)
    out['dpk'] = digest(prior_net(**given))
    return out


if __name__ == '__main__':
    from test_golden import drawn_by_the_package

    found = results(**drawn_by_the_package())
    rows = ',\n '.join(f'{json.dumps(k)}: {json.dumps(v)}' for k, v in found.items())
    STORED.write_text(f'{{{rows}}}\n')
