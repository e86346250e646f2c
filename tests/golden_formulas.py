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

STORED = Path(__file__).with_name('golden.json')
IMAGE = (24, 32)  # pixels, of maps with 6 x 8 cells
BOXES = [[[0, 0, 13, 9], [8, 4, 30, 22]], [[17.5, 11, 19, 12]]]
LABELS = [2, 0, 1, 4, 3]
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


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return p * (np.log(p) - np.log(q))


# ---- criteria ---------------------------------------------------------------------


def mse(s, t, w, **_):
    return [((s - t) ** 2).mean(), (w * (s - t) ** 2).mean()]


def at(s, wide, w, **_):
    maps = [(f**2).mean(1).reshape(2, -1) for f in (s, wide)]
    a, b = (m / np.sqrt((m**2).sum(1, keepdims=True)) for m in maps)
    return [((a - b) ** 2).mean(), (w.reshape(2, -1) * (a - b) ** 2).mean()]


def cwd(s, t, w, **_):
    tau, out = 2.0, []
    p, q = (softmax(f.reshape(2, 4, -1) / tau, 2) for f in (t, s))
    for weight in (np.ones_like(w), w):
        terms = weight.reshape(2, 1, -1) * (kl(p, q) - p + q)
        out.append(tau**2 * terms.sum(2).mean())
    return out


def pkd(s, t, w, **_):
    z = []
    for f in (s, t):
        mean, variance = f.mean((0, 2, 3), keepdims=True), f.var((0, 2, 3))
        z.append((f - mean) / np.sqrt(variance + 1e-6)[None, :, None, None])
    return [((z[0] - z[1]) ** 2).mean() / 2, (w * (z[0] - z[1]) ** 2).mean() / 2]


def ofd(s, t, w, **_):
    error = np.where((s <= t) & (t <= 0), 0, (s - t) ** 2)
    return [error.mean(), (w * error).mean()]


def hcl(s, t, w, **_):
    out = []
    for weight in (np.ones_like(w), w):
        total, share = (weight * (s - t) ** 2).mean(), 1.0
        for level, cells in enumerate((4, 2, 1), 1):
            coarse, here = _pooled(s - t, cells), _pooled(weight, cells)
            total += 0.5**level * (here * coarse**2).mean()
            share += 0.5**level
        out.append(total / share)
    return out


def _pooled(x, cells):
    """Means of ``cells`` x ``cells`` parts; they overlap where they do not divide."""
    height, width = x.shape[2:]
    rows = [(i * height // cells, -(-(i + 1) * height // cells)) for i in range(cells)]
    columns = [(i * width // cells, -(-(i + 1) * width // cells)) for i in range(cells)]
    means = [
        [x[:, :, a:b, c:d].mean((2, 3)) for c, d in columns] for a, b in rows
    ]  # rows, columns, (N, C)
    return np.moveaxis(np.array(means), (0, 1), (2, 3))


def sp(s, wide, **_):
    grams = []
    for f in (s, wide):
        flat = f.reshape(2, -1)
        gram = flat @ flat.T
        grams.append(gram / np.sqrt((gram**2).sum(1, keepdims=True)))
    return [((grams[0] - grams[1]) ** 2).mean()]


def kd(p, q, **_):
    a, b = softmax(q / 3, 1), softmax(p / 3, 1)
    return [9 * kl(a, b).sum(1).mean()]


def kd_binary(s, t, w, **_):
    p, q = sigmoid(t / 2), sigmoid(s / 2)
    terms = kl(p, q) + kl(1 - p, 1 - q)
    return [4 * terms.mean(), 4 * (w * terms).mean()]


def kd_standardised(p, q, **_):
    a, b = (
        softmax((x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) / 2, 1)
        for x in (q, p)
    )
    return [4 * kl(a, b).sum(1).mean()]


def dkd(p, q, **_):
    total = 0.0
    for row_p, row_q, y in zip(softmax(p / 4, 1), softmax(q / 4, 1), LABELS):
        target = kl(row_q[y], row_p[y]) + kl(1 - row_q[y], 1 - row_p[y])
        others = [k for k in range(len(row_p)) if k != y]
        rest = kl(row_q[others] / (1 - row_q[y]), row_p[others] / (1 - row_p[y]))
        total += target + 8 * rest.sum()
    return [16 * total / len(p)]


def dist(p, q, **_):
    a, b = softmax(p / 2, 1), softmax(q / 2, 1)
    rows = np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b)])
    columns = np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T)])
    return [4 * (2 * (1 - rows) + 2 * (1 - columns))]


def crd_nce(positive, negative, **_):
    images, total = 50, 0.0
    for row, (hit, missed) in enumerate(zip(positive, negative)):
        valid = [j for j in range(9) if (row + j) % 3]
        noise = len(valid) / images
        total -= math.log(math.exp(hit) / (math.exp(hit) + noise))
        for j in valid:
            total -= math.log(noise / (math.exp(missed[j]) + noise))
    return [total / len(positive)]


def crd(p, q, bank, **_):
    """Two batches: what the first leaves in the banks, the second compares with."""
    sides = dict(student=p, teacher=q)
    weights = bank['weights']
    banks = {side: weights[f'bank_{side}'] for side in sides}
    banks = {k: b / np.linalg.norm(b, axis=1, keepdims=True) for k, b in banks.items()}
    m, classes, constants, out = len(banks['student']), {}, None, []
    for where, drawn in zip(bank['where'], bank['drawn'], strict=True):
        own = {}
        for side, x in sides.items():
            y = x @ weights[f'{side}.weight'].T + weights[f'{side}.bias']
            own[side] = y / np.linalg.norm(y, axis=1, keepdims=True)
        found = []
        for side, other in (('student', 'teacher'), ('teacher', 'student')):
            critic = np.exp(own[side] @ banks[other].T / bank['tau'])
            found.append(critic)
        if constants is None:
            constants = [critic[:, drawn].mean() * m for critic in found]
        loss = 0.0
        for critic, z in zip(found, constants):
            for row, image in enumerate(where):
                wanted = [
                    j for j in drawn if j != image and classes.get(j) != LABELS[row]
                ]
                noise = len(wanted) / m
                hit = critic[row, image] / z
                loss -= math.log(hit / (hit + noise))
                for j in wanted:
                    loss -= math.log(noise / (critic[row, j] / z + noise))
        out.append(loss / len(where))
        for side, old in banks.items():
            mean = bank['momentum'] * old[where] + (1 - bank['momentum']) * own[side]
            old[where] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        classes |= dict(zip(where, LABELS))
    return out


def fgd(s, t, contexts, **_):
    n, c, height, width = s.shape
    spatial, channel = [], []
    for f in (s, t):
        size = np.abs(f)
        spatial.append(softmax(size.mean(1).reshape(n, -1) / 0.5, 1) * height * width)
        channel.append(softmax(size.mean((2, 3)) / 0.5, 1) * c)
    masks = np.zeros((2, n, height, width))
    for image, boxes in enumerate(BOXES):
        for y in range(height):
            for x in range(width):
                inside = [1 / _cells(b) for b in boxes if _touches(b, y, x)]
                masks[0, image, y, x] = max(inside, default=0)
        outside = masks[0, image] == 0
        masks[1, image] = outside / max(outside.sum(), 1)
    focus = (channel[1][:, :, None, None] * (s - t) ** 2).mean(1)
    focus = focus * spatial[1].reshape(n, height, width)
    seen = [_context(f, contexts[side]) for f, side in ((s, 'student'), (t, 'teacher'))]
    apart = sum(np.abs(a - b).mean() for a, b in (spatial, channel))
    return [
        0.512 * (focus * masks[0]).sum((1, 2)).mean()
        + 0.0512 * (focus * masks[1]).sum((1, 2)).mean()
        + 0.0768 * apart
        + 1.34 * ((seen[0] - seen[1]) ** 2).mean()
    ]


def _span(low, high, cells):
    """First and last cell that a side touches; at least the one it begins in."""
    low, high = low / 4, high / 4  # pixels to cells
    return range(
        max(0, math.floor(low)), min(cells, max(math.ceil(high), math.floor(low) + 1))
    )


def _touches(box, y, x):
    return y in _span(box[1], box[3], 6) and x in _span(box[0], box[2], 8)


def _cells(box):
    return len(_span(box[1], box[3], 6)) * len(_span(box[0], box[2], 8))


def _context(f, weight):
    """GCNet's block with attention pooling and channel addition."""
    n, c = f.shape[:2]
    flat = f.reshape(n, c, -1)
    score = np.einsum('c,ncl->nl', weight['conv_mask.weight'].ravel(), flat)
    mask = softmax(score + weight['conv_mask.bias'], 1)
    pooled = np.einsum('ncl,nl->nc', flat, mask)
    name = 'channel_add_conv'
    low = pooled @ weight[f'{name}.0.weight'][:, :, 0, 0].T + weight[f'{name}.0.bias']
    low = _layer_norm(
        low, weight[f'{name}.1.weight'].ravel(), weight[f'{name}.1.bias'].ravel()
    )
    low = np.maximum(low, 0) @ weight[f'{name}.3.weight'][:, :, 0, 0].T
    return f + (low + weight[f'{name}.3.bias'])[:, :, None, None]


def _layer_norm(x, gain, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * gain + bias


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
        tokens[side] = _layer_norm(
            x, net[f'encoders.{side}.1.weight'], net[f'encoders.{side}.1.bias']
        )
    every = np.concatenate([tokens['teacher'], tokens['student']], 1)
    every = every @ net['project.weight'].T
    x = np.zeros((2, 12, 8))
    for n in range(2):
        x[n, order[n]] = every[n]
    x = _block(x + at, net, 'decoder.0', 2)
    x = _layer_norm(x, net['decoder.1.weight'], net['decoder.1.bias'])
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
    y = _layer_norm(x, w['norm1.weight'], w['norm1.bias'])
    q, k, v = (y @ part.T for part in np.split(w['qkv.weight'], 3))
    q, v = q + w['q_bias'], v + w['v_bias']
    seen, each = [], width // heads
    for h in range(heads):
        own = slice(h * each, (h + 1) * each)
        score = q[..., own] @ k[..., own].transpose(0, 2, 1) / math.sqrt(each)
        seen.append(softmax(score, 2) @ v[..., own])
    x = x + np.concatenate(seen, 2) @ w['proj.weight'].T + w['proj.bias']
    y = _layer_norm(x, w['norm2.weight'], w['norm2.bias'])
    y = y @ w['mlp.0.weight'].T + w['mlp.0.bias']
    y = y * (1 + erf(y / math.sqrt(2))) / 2
    return x + y @ w['mlp.2.weight'].T + w['mlp.2.bias']


CRITERIA = (
    mse, at, cwd, pkd, ofd, hcl, sp, kd, kd_binary, kd_standardised, dkd, dist, crd_nce,
    crd, fgd, cka,
)  # fmt: skip


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
    out = {f.__name__: digest(f(**given)) for f in CRITERIA}
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
