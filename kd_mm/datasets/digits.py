"""Handwritten digits over photographs: a small detection set in COCO format.

Digits and photographs come with scikit-learn (the UCI test set of handwritten digits,
and two sample images), so nothing is downloaded.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

from ..errors import ConfigError
from ..options import Count, Natural, Rule, checked

CLASSES = tuple('0123456789')
_DONE = 'digits.json'  # written last: its presence says that the folder is complete


# a background is a crop, up to twice as large, of photographs of 427 x 640 pixels
Side = Annotated[int, Rule('from 64 to 213', lambda side: 64 <= side <= 213)]


@checked
def make_digits(
    out: str | Path,
    *,
    train: Count = 1600,
    val: Count = 200,
    size: Side = 128,
    seed: Natural = 0,
) -> bool:
    """Write the data set, or leave a complete one alone.

    ``out/{train,val}/*.png`` and ``out/annotations/instances_{train,val}.json``. An
    image has 1 to 5 digits of 20 to 56 pixels, rotated by up to 25 degrees. The
    handwritten samples of train and val are disjoint; their photographs are the same.

    Args:
        out (str | Path): Folder to make.
        train (int): Number of training images. Defaults to 1600.
        val (int): Number of validation images. Defaults to 200.
        size (int): Side of an image in pixels, 64 to 213. Defaults to 128.
        seed (int): Seed of everything random. Defaults to 0.

    Returns:
        bool: Whether something was written.

    Raises:
        ConfigError: If ``out`` exists and is something else, or for numbers out of
            range.
    """
    out = Path(out)
    wanted = dict(train=train, val=val, size=size, seed=seed, version=1)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        done = out / _DONE
        if done.is_file() and json.loads(done.read_text()) == wanted:
            return False
        raise ConfigError(
            f'{out} exists and is not this data set; choose another folder'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    cut = len(order) * 3 // 4
    # written aside and renamed, so that an interrupted run leaves nothing half-made
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}-') as folder:
        made = Path(folder) / 'digits'
        (made / 'annotations').mkdir(parents=True)
        for split, count, samples in (
            ('train', train, order[:cut]),
            ('val', val, order[cut:]),
        ):
            rng = np.random.default_rng([seed, split == 'val'])
            _write_split(made, split, count, size, rng, digits, samples)
        (made / _DONE).write_text(json.dumps(wanted))
        if out.exists():
            out.rmdir()
        shutil.move(made, out)
    return True


def _write_split(out, split, count, size, rng, digits, samples) -> None:
    """Draw and write the images and annotations of one split."""
    (out / split).mkdir()
    photographs = load_sample_images().images
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in range(1, count + 1):
        image = _background(photographs, size, rng)
        for box, label in _paste_digits(image, digits, samples, rng):
            x, y, w, h = (int(v) for v in box)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                )
            )
        name = f'{image_id:05d}.png'
        cv2.imwrite(str(out / split / name), image[..., ::-1])
        images.append(dict(id=image_id, file_name=name, width=size, height=size))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(
        info=dict(description="handwritten digits over scikit-learn's photographs"),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=categories,
    )
    path = out / 'annotations' / f'instances_{split}.json'
    path.write_text(json.dumps(content))


def _background(photographs, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop, between once and twice as large as the image, mirrored or not."""
    photograph = photographs[rng.integers(len(photographs))]
    side = int(size * rng.uniform(1, 2))
    top = rng.integers(photograph.shape[0] - side)
    left = rng.integers(photograph.shape[1] - side)
    crop = photograph[top : top + side, left : left + side]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def _paste_digits(
    image: np.ndarray, digits, samples: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """Draw digits into ``image`` in place; yields (x, y, w, h) in pixels and label."""
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(rng.integers(1, 6)):
        sample = samples[rng.integers(len(samples))]
        ink = _ink(digits.images[sample] / 16.0, rng)
        h, w = ink.shape
        y = rng.integers(image.shape[0] - h + 1)
        x = rng.integers(image.shape[1] - w + 1)
        if any(_overlap((x, y, w, h), other) > 0.1 for other in taken):
            continue
        taken.append((x, y, w, h))
        patch: np.ndarray = image[y : y + h, x : x + w].astype(np.float32)
        # ink on the other side of the brightness scale than what it covers
        dark = patch.mean() > 127
        colour = rng.uniform(0, 60, 3) if dark else rng.uniform(195, 255, 3)
        mixed = patch * (1 - ink[..., None]) + colour * ink[..., None]
        image[y : y + h, x : x + w] = mixed.round().astype(np.uint8)
        yield (x, y, w, h), int(digits.target[sample])


def _ink(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One digit, enlarged and rotated, cropped to where there is ink; in [0, 1]."""
    side = int(rng.integers(28, 64))
    digit = np.pad(digit, 1)  # the strokes touch the border: let them fade out
    large = cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC)
    large = np.pad(large, side // 4)
    centre = (large.shape[0] / 2, large.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(centre, rng.uniform(-25, 25), 1.0)
    ink = cv2.warpAffine(large, turn, large.shape[::-1]).clip(0, 1)
    rows, columns = np.where((ink > 0.25).any(1))[0], np.where((ink > 0.25).any(0))[0]
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return ink.astype(np.float32)


def _overlap(one, other) -> float:
    """Intersection over the smaller area."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    smaller = min(one[2] * one[3], other[2] * other[3])
    return max(0, width) * max(0, height) / smaller
