"""What distillation does, on a small detector: python tools/demo.py

Makes the digits data, trains the same small student alone and, by tools/train.py with
--teacher, distilled, with the same seed and budget, evaluates both and the teacher,
prints a table, and draws detections and curves into work_dirs/demo/.
"""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kd_mm.utils import cli

HOME = Path(__file__).resolve().parents[1]  # the checkout, or kd_mm/.mim of a wheel
CONFIGS = f'{HOME}/configs/kd/digits/'
TEACHER = f'{CONFIGS}retinanet_r18w24_digits'
STUDENT = f'{CONFIGS}retinanet_r18w16_digits.py'
DISTIL = ('--teacher', f'{TEACHER}.py', '--teacher-checkpoint', f'{TEACHER}.pth')
RUNS: dict[str, tuple[str, ...]] = {
    'student alone': (),
    'student distilled': DISTIL,
}
SHOWN = 4  # images in the picture: the first, whatever is on them
console = Console()


def main() -> int:
    parser = cli.Parser(description=__doc__)
    parser.add_argument('--out', default='work_dirs/demo', help='folder for results')
    parser.add_argument('--fresh', action='store_true', help='start over')
    args = parser.parse_args()
    out = Path(args.out)
    if args.fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)

    console.rule('digits data')
    call('make_digits', 'data/digits')
    results = {name: train(name, options, out) for name, options in RUNS.items()}
    results['teacher'] = test_teacher(out)
    (out / 'results.json').write_text(json.dumps(results, indent=1))
    console.rule('pictures')
    draw(results, out)
    show(results, out)
    report(results, out)
    return 0


def call(tool: str, *arguments: str) -> None:
    """Run one of the project's tools, its output passing through."""
    line = [sys.executable, '-W', 'ignore', f'{HOME}/tools/{tool}.py', *arguments]
    if code := subprocess.run(line).returncode:
        sys.exit(f'error: {tool} {" ".join(arguments)} failed with exit code {code}')


def train(name: str, options: tuple[str, ...], out: Path) -> dict:
    """Train one student, or read what an earlier call left."""
    console.rule(name)
    folder = out / name.replace(' ', '_')
    done = folder / 'done.json'
    if done.is_file():
        console.print(f'{folder.name} was trained before; --fresh trains it again')
        return json.loads(done.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    call('train', STUDENT, *options, '--work-dir', str(folder))
    scalars = read_scalars(folder)
    last = [row for row in scalars if 'coco/bbox_mAP' in row][-1]
    steps = [row['time'] for row in scalars if 'loss' in row]
    result = dict(
        ap=last['coco/bbox_mAP'],
        ap50=last['coco/bbox_mAP_50'],
        seconds_per_step=sorted(steps)[len(steps) // 2],
        folder=str(folder),
        checkpoint=Path((folder / 'last_checkpoint').read_text().strip()).name,
        config=STUDENT,  # a distilled checkpoint is a plain student's
    )
    done.write_text(json.dumps(result))
    return result


def test_teacher(out: Path) -> dict:
    """Evaluate the teacher that comes with the project."""
    console.rule('teacher')
    folder = out / 'teacher'
    if not (folder / 'done.json').is_file():
        shutil.rmtree(folder, ignore_errors=True)
        call(
            'test',
            f'{TEACHER}.py',
            f'{TEACHER}.pth',
            '--work-dir',
            str(folder),
        )
        path = max(folder.glob('*/*.json'), key=lambda p: p.stat().st_mtime)
        metric = json.loads(path.read_text().splitlines()[-1])
        result = dict(
            ap=metric['coco/bbox_mAP'],
            ap50=metric['coco/bbox_mAP_50'],
            folder=CONFIGS,
            checkpoint=Path(f'{TEACHER}.pth').name,
            config=f'{TEACHER}.py',
        )
        (folder / 'done.json').write_text(json.dumps(result))
    return json.loads((folder / 'done.json').read_text())


def read_scalars(folder: Path) -> list[dict]:
    """What MMEngine logged in the last run of a folder, one row per line."""
    path = max(folder.glob('*/vis_data/scalars.json'), key=lambda p: p.stat().st_mtime)
    return [json.loads(line) for line in path.read_text().splitlines()]


def show(results: dict, out: Path) -> None:
    """Print the table."""
    table = Table(title='Digits: 1600 training images, 8 epochs, 200 validation images')
    columns = ('', 'AP', 'AP50', 'boxes on a digit', 'parameters', 'seconds per step')
    for column in columns:
        table.add_column(column, justify='left' if not column else 'right')
    for name, row in results.items():
        step = f'{row["seconds_per_step"]:.2f}' if 'seconds_per_step' in row else '-'
        millions = f'{row["parameters"] / 1e6:.2f} M'
        numbers = (row['ap'], row['ap50'], row['boxes_per_digit'])
        cells = [f'{number:.3f}' for number in numbers]
        table.add_row(name, *cells, millions, step)
    console.print(table)
    console.print('One seed of each; another seed moves an AP by a few hundredths.')
    console.print(f'Pictures: {out / "detections.png"}, {out / "curves.png"}')


def report(results: dict, out: Path) -> None:
    """One page of all that, which opens in a browser as it is."""
    runs = [f'{n}={r["folder"]}' for n, r in results.items() if n != 'teacher']
    pictures = ['--pictures', str(out / 'detections.png')]
    where = ['--teacher', str(out / 'teacher'), '--out', str(out / 'report.html')]
    title = ['--title', 'A small detector on digits, alone and distilled']
    call('report', *runs, *title, *pictures, *where)


def draw(results: dict, out: Path) -> None:
    """Count parameters, then draw detections and curves."""
    warnings.filterwarnings('ignore')
    import matplotlib

    matplotlib.use('Agg')
    from mmdet.apis import inference_detector, init_detector
    from mmdet.utils import register_all_modules

    register_all_modules()
    truth = json.loads(Path('data/digits/annotations/instances_val.json').read_text())
    images = truth['images']
    paths = [f'data/digits/val/{image["file_name"]}' for image in images]
    boxes = [
        [
            (*a['bbox'], a['category_id'] - 1, 1.0)
            for a in truth['annotations']
            if a['image_id'] == image['id']
        ]
        for image in images
    ]
    columns = {'truth': boxes[:SHOWN]}
    for name, row in results.items():
        checkpoint = Path(row['folder'], row['checkpoint'])
        model = init_detector(row['config'], str(checkpoint), device='cpu')
        row['parameters'] = sum(p.numel() for p in model.parameters())
        found = [
            boxes_of(inference_detector(model, path).pred_instances) for path in paths
        ]
        row['boxes_per_digit'] = boxes_per_digit(found, boxes)
        columns[name] = found[:SHOWN]
    (out / 'results.json').write_text(json.dumps(results, indent=1))
    draw_detections(columns, paths[:SHOWN], out / 'detections.png')
    draw_curves(results, out / 'curves.png')


def boxes_of(instances) -> list[tuple]:
    """(x, y, w, h, label, score) of what scores above 0.3, one box per place."""
    from torchvision.ops import nms

    # detectors suppress overlaps class by class: second guesses would hide the first
    best = instances[nms(instances.bboxes, instances.scores, 0.5)]
    best = best[best.scores > 0.3]
    rows = zip(best.bboxes.tolist(), best.labels.tolist(), best.scores.tolist())
    return [
        (x, y, right - x, bottom - y, label, score)
        for (x, y, right, bottom), label, score in rows
    ]


def boxes_per_digit(found: list[list[tuple]], truth: list[list[tuple]]) -> float:
    """How many boxes lie on a digit that has any, on average; 1 is right.

    Args:
        found (list[list[tuple]]): Boxes as drawn, by image.
        truth (list[list[tuple]]): The digits, by image.
    """
    counts = [
        sum(
            x <= bx + bw / 2 <= x + w and y <= by + bh / 2 <= y + h
            for bx, by, bw, bh, *_ in boxes
        )
        for boxes, digits in zip(found, truth)
        for x, y, w, h, *_ in digits
    ]
    return sum(counts) / max(sum(count > 0 for count in counts), 1)


def draw_detections(columns: dict[str, list], paths: list[str], out: Path) -> None:
    """One row per image; truth, students and teacher side by side."""
    import matplotlib.pyplot as plt

    size = (2.6 * len(columns), 2.6 * len(paths) + 0.6)
    figure, axes = plt.subplots(len(paths), len(columns), figsize=size)
    for column, (name, rows) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=11)
        for axis, path, found in zip(axes[:, column], paths, rows):
            axis.imshow(plt.imread(path))
            axis.axis('off')
            for x, y, w, h, label, score in found:
                axis.add_patch(
                    plt.Rectangle((x, y), w, h, fill=False, ec='lime', lw=1.5)
                )
                text = f'{label}' if name == 'truth' else f'{label} {score:.2f}'
                # inside the box: next to the border of the image it would be clipped
                axis.text(
                    x + 1,
                    y + 1,
                    text,
                    fontsize=8,
                    color='black',
                    va='top',
                    bbox=dict(facecolor='lime', pad=0.8, lw=0),
                    clip_on=True,
                )
    figure.suptitle(
        f'The first {len(paths)} validation images; boxes with a score above 0.3'
    )
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    plt.close(figure)


def draw_curves(
    results: dict,
    out: Path,
    *,
    metric: str = 'coco/bbox_mAP',
    title: str = 'AP on the validation set',
    has_total: bool = True,
) -> None:
    """A metric over epochs; task and distillation loss over iterations.

    Args:
        results (dict): Name of a network to what was noted of it; one without
            ``seconds_per_step`` was not trained here, and its ``ap`` is a line.
        out (Path): The picture.
        metric (str): In MMEngine's log.
        title (str): Of the first panel.
        has_total (bool): Whether the log's ``loss`` is the sum of all losses;
            MMPretrain's classifiers call their own loss so.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for index, (name, row) in enumerate(results.items()):
        if 'seconds_per_step' not in row:
            axes[0].axhline(row['ap'], color='grey', ls='--', label=name)
            continue
        scalars = read_scalars(Path(row['folder']))
        found = [(r['step'], r[metric]) for r in scalars if metric in r]
        axes[0].plot(*zip(*found), marker='o', label=name)
        rows = [r for r in scalars if 'loss' in r]
        steps = [r['step'] for r in rows]
        kd = [sum(v for k, v in r.items() if k.startswith('loss_kd')) for r in rows]
        task = [r['loss'] - k * has_total for r, k in zip(rows, kd)]
        axes[1].plot(steps, task, label=name)
        if any(kd):
            axes[2].plot(steps, kd, label=name, color=f'C{index}')
    titles = (title, 'task loss', 'distillation loss')
    for axis, text, unit in zip(axes, titles, ('epoch', 'iteration', 'iteration')):
        axis.set_title(text)
        axis.set_xlabel(unit)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == '__main__':
    sys.exit(main())
