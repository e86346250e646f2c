"""The criteria once more, in NumPy and float64, for golden_formulas.py."""

import math

import numpy as np

BOXES = [[[0, 0, 13, 9], [8, 4, 30, 22]], [[17.5, 11, 19, 12]]]
LABELS = [2, 0, 1, 4, 3]


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return p * (np.log(p) - np.log(q))


def layer_norm(x, gain, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * gain + bias


# ---- features ---------------------------------------------------------------------


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
    low = layer_norm(
        low, weight[f'{name}.1.weight'].ravel(), weight[f'{name}.1.bias'].ravel()
    )
    low = np.maximum(low, 0) @ weight[f'{name}.3.weight'][:, :, 0, 0].T
    return f + (low + weight[f'{name}.3.bias'])[:, :, None, None]


# ---- logits and vectors -----------------------------------------------------------


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


CRITERIA = (
    mse, at, cwd, pkd, ofd, hcl, sp, kd, kd_binary, kd_standardised, dkd, dist, crd_nce,
    crd, fgd,
)  # fmt: skip
