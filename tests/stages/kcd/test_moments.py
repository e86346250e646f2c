"""Streamed statistics equal the batch computation, on one rank and on two."""

import pytest
import torch
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample

from kd_mm.errors import ConfigError
from kd_mm.stages.kcd.moments import ClassSums, Covariance, LevelStatistics, Moments


def features(n=24, width=6, size=5, seed=0, mean=0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, size, size, generator=generator) + mean


def stream(kind, student, teacher, samples, batch=5) -> LevelStatistics:
    level = LevelStatistics([kind])
    for s, t, i in zip(
        student.split(batch), teacher.split(batch), range(0, len(student), batch)
    ):
        level.update(s, t, samples[i : i + batch], (40, 40))
    return level


def close(left: Covariance, right: Covariance) -> None:
    for name in ('ss', 'st', 'tt'):
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize('mean', [0.0, 1e4])
def test_streaming_equals_batch(mean):
    rows = features(mean=mean).flatten(1).double()
    moments = Moments(rows.shape[1])
    for part in rows.split([1, 7, 0, 16]):
        moments.update(part)
    torch.testing.assert_close(
        moments.scatter / moments.count, torch.cov(rows.T, correction=0)
    )
    torch.testing.assert_close(moments.mean, rows.mean(0))


@pytest.mark.parametrize('kind', ['gap', 'spatial'])
def test_gap_and_spatial_samples_are_what_they_say(kind):
    student, teacher = features(), features(width=8, seed=1)
    rows = [
        f.mean((2, 3)) if kind == 'gap' else f.permute(0, 2, 3, 1).flatten(0, 2)
        for f in (student, teacher)
    ]
    level = stream(kind, student, teacher, [None] * 24)
    close(level.covariance(kind), Covariance.of(*rows))


def test_spatial_brings_both_sides_to_the_same_positions():
    teacher = features(size=10, seed=1)
    small = torch.nn.functional.avg_pool2d(teacher, 2)
    left = stream('spatial', features(), teacher, [None] * 24)
    right = stream('spatial', features(), small, [None] * 24)
    close(left.covariance('spatial'), right.covariance('spatial'))


@pytest.mark.parametrize('form', ['tokens', 'vectors'])
def test_tokens_and_vectors_have_channels_too(form):
    student, teacher = features(), features(width=8, seed=1)
    expected = stream('gap', student, teacher, [None] * 24).covariance('gap')
    pair = [
        f.flatten(2).mT if form == 'tokens' else f.mean((2, 3))
        for f in (student, teacher)
    ]
    close(stream('gap', *pair, [None] * 24).covariance('gap'), expected)


def test_class_means_of_labels():
    student, teacher = features(), features(width=8, seed=1)
    labels = torch.arange(24) % 3 + (torch.arange(24) % 3 == 2)  # 0, 1, 3
    samples = [DataSample().set_gt_label(int(i)) for i in labels]
    level = stream('class', student, teacher, samples)
    s, t, found = level.class_means()
    assert found.tolist() == [0, 1, 3]
    for row, label in enumerate(found):
        torch.testing.assert_close(
            s[row], student[labels == label].double().mean((0, 2, 3))
        )
    close(level.covariance('class'), Covariance.of(s, t))


def boxes(*items) -> DataSample:
    sample = DataSample()
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([box for box, _ in items]).float().reshape(-1, 4),
        labels=torch.tensor([label for _, label in items], dtype=torch.long),
    )
    return sample


def test_class_means_of_detections_are_pooled_inside_the_boxes():
    feature = torch.zeros(2, 1, 8, 8)  # stride 5
    feature[0, 0, 2:4, 4:6] = 1.0
    feature[1, 0] = 5.0
    samples = [
        boxes(([20, 10, 30, 20], 2), ([0, 0, 10, 10], 0)),
        boxes(([5, 5, 35, 35], 1)),
    ]
    level = stream('class', feature, feature, samples)
    means, _, labels = level.class_means()
    assert labels.tolist() == [0, 1, 2]
    assert means[0] == 0 and means[1] == 5 and means[2] > 0.7
    assert (
        stream('class', feature, feature, [boxes(), samples[1]]).class_means()[0] == 5
    )


def test_class_similarity_without_ground_truth_is_an_error():
    with pytest.raises(ConfigError, match='ground truth'):
        stream('class', features(4), features(4), [DataSample()] * 4)
    one = [DataSample().set_gt_label(0)] * 4
    with pytest.raises(ConfigError, match='at least 2 classes'):
        stream('class', features(4), features(4), one).covariance('class')


def _rank(rank: int, file: str, out: str) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{file}', rank=rank, world_size=2
    )
    rows = features(mean=3.0).flatten(1).double()
    moments, sums = Moments(rows.shape[1]), ClassSums(rows.shape[1])
    part = slice(0, 17) if rank == 0 else slice(17, 24)
    moments.update(rows[part])
    sums.update(rows[part], torch.arange(24)[part] // 5)
    moments.reduce()
    sums.reduce()
    if rank == 1:
        torch.save((moments.scatter, moments.mean, moments.count, sums.means()), out)
    torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_have_the_statistics_of_one(tmp_path):
    out = str(tmp_path / 'out.pt')
    torch.multiprocessing.spawn(_rank, (str(tmp_path / 'init'), out), nprocs=2)
    scatter, mean, count, (means, labels) = torch.load(out)
    rows = features(mean=3.0).flatten(1).double()
    moments, sums = Moments(rows.shape[1]), ClassSums(rows.shape[1])
    moments.update(rows)
    sums.update(rows, torch.arange(24) // 5)
    assert count == 24 and labels.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(mean, moments.mean)
    torch.testing.assert_close(scatter, moments.scatter)
    torch.testing.assert_close(means, sums.means()[0])
