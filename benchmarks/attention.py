#!/usr/bin/env python
"""Which attention is fastest at the sizes of DPK's modules, forwards and backwards.

    python benchmarks/attention.py            # then the whole block, compiled or not
    python benchmarks/attention.py --blocks   # that only

Torch's fused kernel, its plain one, and two products with a softmax in between, in
turns within one run; the last is what `kd_mm.stages.dpk.prior_net.attend` takes for
bf16 on a CPU. And whether `torch.compile` makes two of the blocks cheaper.
"""

import functools
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from digits_runs import ROOT
from steps import measure, ratio, store
from tables import refresh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kd_mm.stages.dpk.prior_net import Block, attend, products

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


def compiled(name: str) -> dict:
    """Two blocks of one size, compiled for any number of tokens, over plain ones."""
    images, heads, tokens, width = SIZES[name]
    blocks = nn.ModuleList([Block(heads * width, heads) for _ in range(2)])
    fused = torch.compile(Block._block, dynamic=True)
    x = torch.randn(images, tokens, heads * width, requires_grad=True)

    def run(block) -> None:
        out = x
        for own in blocks:
            out = block(own, out)
        out.square().mean().backward()

    began = time.perf_counter()
    run(fused)
    first = time.perf_counter() - began
    runs = dict(plain=lambda: run(Block._block), compiled=lambda: run(fused))
    times = measure(runs, repeats=9, device='cpu')
    return dict(
        config=name,
        tokens=tokens,
        width=heads * width,
        first_s=round(first, 1),
        compiled_over_plain=ratio(times['compiled'], times['plain']),
    )


def main() -> None:
    torch.set_num_threads(1)
    results = ROOT / 'benchmarks/results'
    if '--blocks' not in sys.argv[1:]:
        for dtype in DTYPES:
            for name in SIZES:
                row = report(name, dtype)
                store(results / 'attention_cpu.json', row['config'], [row])
                print(row)
    for name in SIZES:
        row = compiled(name)
        store(results / 'compiled_block_cpu.json', name, [row])
        print(row, flush=True)
    refresh()


if __name__ == '__main__':
    main()
