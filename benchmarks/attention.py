#!/usr/bin/env python
"""Which attention is fastest at the sizes of DPK's modules, forwards and backwards.

    python benchmarks/attention.py

Torch's fused kernel, its plain one, and two products with a softmax in between, in
turns within one run; the last is what `kd_mm.stages.dpk.prior_net.attend` takes for
bf16 on a CPU.
"""

import functools
import statistics

import torch
import torch.nn.functional as F
from digits_runs import ROOT
from steps import measure, store
from tables import refresh
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kd_mm.stages.dpk.prior_net import attend, products

SIZES = {  # images, heads, tokens, width of a head: at a ratio of 0.5, and decoders
    'CIFAR, encoders': (64, 8, 128, 32),
    'CIFAR, last stage': (64, 8, 64, 32),
    'digits, finest level': (8, 4, 64, 16),
    'digits, next level': (8, 4, 16, 16),
    'ImageNet, decoder': (8, 8, 196, 32),
    'ImageNet, last stage': (8, 8, 49, 32),
    'RetinaNet, 320 pixels': (1, 8, 400, 32),
}
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def both_ways(how, packed: Tensor) -> None:
    """One forward and backward pass, from packed queries, keys and values."""
    how(*packed.permute(2, 0, 3, 1, 4)).sum().backward()


def report(name: str, dtype: str) -> dict:
    """Median milliseconds of every way, and which one is taken."""
    images, heads, tokens, width = SIZES[name]
    shape = (images, tokens, 3, heads, width)
    packed = torch.randn(shape, dtype=DTYPES[dtype], requires_grad=True)
    ways = dict(fused=fused, plain=plain, products=products, taken=attend)
    runs = {way: functools.partial(both_ways, how, packed) for way, how in ways.items()}
    times = measure(runs, repeats=15, device='cpu')
    row: dict = dict(config=f'{name}, {dtype}', heads=heads, tokens=tokens)
    for way, seconds in times.items():
        row[f'{way}_ms'] = float(f'{1000 * statistics.median(seconds):.3g}')
    return row


def main() -> None:
    torch.set_num_threads(1)
    for dtype in DTYPES:
        for name in SIZES:
            row = report(name, dtype)
            store(ROOT / 'benchmarks/results/attention_cpu.json', row['config'], [row])
            print(row)
    refresh()


if __name__ == '__main__':
    main()
