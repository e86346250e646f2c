"""Looking at DAM: boxes, heat and weights in pixels, and their pictures."""

import numpy as np
import pytest
import torch
import toys
from helpers import blotchy_batches, build, distill_cfg, fitnet, runner, train_steps
from matplotlib import pyplot as plt

from kd_mm.analysis.areas import AreaView, view_areas
from kd_mm.analysis.sokd_figures import (
    areas_figure,
    colour_bar,
    policy_figure,
    scale,
)
from kd_mm.errors import ConfigError
from kd_mm.hooks.draw_hook import DrawSoKDHook, policy_courses


def links() -> dict:
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(type='kd_mm.DAFA', start=0, search_epochs=1),
                dict(type='kd_mm.DAM', top_k=3),
            ],
            criterion=dict(type='kd_mm.MSELoss'),
        )
    )


def model():
    return build(distill_cfg(toys.retinanet(), toys.retinanet(), links()))


def test_views_are_in_pixels_and_leave_the_model_alone():
    one, batch = model(), blotchy_batches(1)[0]
    before = {k: v.clone() for k, v in one.state_dict().items()}
    random = torch.get_rng_state()
    views = view_areas(one, [batch])
    assert len(views) == 2 and one.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in one.state_dict().items())
    for view, image in zip(views, batch['inputs'], strict=True):
        assert np.array_equal(view.image, image.permute(1, 2, 0).numpy()[..., ::-1])
        for side in ('student', 'teacher'):
            boxes = view.boxes[side]
            # at most three on each of five levels, the last of 2 and 1 cells
            assert boxes.shape[1] == 4 and 5 <= len(boxes) <= 15
            assert boxes.max() > 20 and boxes.max() <= 128
            heat = view.heat[side]
            assert heat.shape == (128, 128) and 0 <= heat.min() <= heat.max() <= 1
        assert view.weight.shape == (128, 128) and view.weight.min() >= 0
        assert view.weight.mean() == pytest.approx(1, rel=1e-3)
        assert len(view.truth) > 0 and view.coverage() > 0


def view(weight, truth):
    blank = np.zeros((40, 60, 3), np.uint8)
    side = dict(student=np.zeros((1, 4)), teacher=np.full((1, 4), -1.0))
    heat = dict(student=np.zeros((40, 60)), teacher=np.ones((40, 60)))
    return AreaView('fpn', 'a.png', blank, side, heat, weight, np.array(truth))


def test_coverage_compares_with_a_constant_weight():
    weight = np.ones((40, 60))
    truth = [[10.0, 10, 20, 30], [15, 10, 30, 30]]  # together 20 x 20
    assert view(weight, truth).coverage() == pytest.approx(1)
    weight[10:30, 10:30] = 3
    share = 1200 / (1200 + 2000)
    assert view(weight, truth).coverage() == pytest.approx(share / (400 / 2400))
    assert np.isnan(view(weight, np.zeros((0, 4))).coverage())


def test_pictures_have_something_on_them():
    weight = np.random.default_rng(0).random((40, 60))
    one = areas_figure(view(weight, [[10.0, 10, 20, 30]]))
    other = areas_figure(view(weight.T.reshape(40, 60), [[10.0, 10, 20, 30]]))
    assert one.dtype == np.uint8 and one.shape[2] == 3 and one.shape[1] >= 1000
    assert not np.array_equal(one, other)
    course = {
        'Rotate': dict(weight=[0.1, 0.2], probability=[0.5, 0.3], magnitude=[0.5, 0.4]),
        'ChannelShuffle': dict(weight=[0.2, 0.2], probability=[0.5, 0.1]),
    }
    assert policy_figure(course, [3.5, 3.4]).std() > 10


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0, 37.0])
def test_the_bar_of_a_flat_heatmap_has_different_numbers(value):
    flat = np.full((8, 8), value) + np.random.default_rng(0).random((8, 8)) * 1e-6
    figure, axis = plt.subplots()
    norm = scale([flat])
    assert norm.vmin < value < norm.vmax
    bar = colour_bar(figure, axis.imshow(flat, norm=norm), axis)
    figure.canvas.draw()
    labels = [label.get_text() for label in bar.ax.get_yticklabels()]
    plt.close(figure)
    assert len(set(labels)) == len(labels) >= 3
    assert bar.ax.yaxis.get_offset_text().get_text() == ''


def test_both_sides_are_drawn_on_one_scale():
    """The same heat has the same colour, whatever the other side's is."""
    norm = scale([np.array([0.2, 0.3]), np.array([0.6, 0.9])])
    assert (norm.vmin, norm.vmax) == (0.2, 0.9)
    heats = dict(student=np.full((40, 60), 0.5), teacher=np.full((40, 60), 0.5))
    heats['teacher'][0, 0] = 1.0
    one = view(np.ones((40, 60)), np.zeros((0, 4)))
    one.heat = heats
    pixels = areas_figure(one)
    height, width = pixels.shape[:2]
    left, right = (pixels[height // 2, int(width * x)] for x in (0.33, 0.57))
    assert np.abs(left.astype(int) - right.astype(int)).max() <= 2


def test_a_model_without_dam_has_nothing_to_draw():
    plain = build(distill_cfg(toys.retinanet(), toys.retinanet(), fitnet()))
    with pytest.raises(ConfigError, match='kd_mm.DAM'):
        view_areas(plain, blotchy_batches(1))


def test_the_hook_draws_at_the_start_and_after_epochs(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links())
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    one = runner(
        cfg,
        tmp_path,
        epochs=2,
        custom_hooks=[dict(type='kd_mm.DrawSoKDHook', images=2, interval=2)],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        test_pipeline=pipeline,
    )
    one.train()
    drawn = sorted(path.name for path in tmp_path.rglob('*.png'))
    areas = [f'areas_fpn_0{i}_{epoch}.png' for i in range(2) for epoch in (0, 2)]
    assert drawn == sorted([*areas, 'policy_fpn_1.png', 'policy_fpn_2.png'])
    course, entropy, when = policy_courses(one.message_hub.log_scalars)['fpn']
    assert len(entropy) == 2 and len(course) == 9


def test_the_hook_refuses_senseless_numbers():
    with pytest.raises(ConfigError, match='DrawSoKDHook.images'):
        DrawSoKDHook(images=0)


def test_train_steps_still_work_afterwards():
    one = model()
    view_areas(one, blotchy_batches(1))
    assert train_steps(one, blotchy_batches(1)[0], 1)[0]['loss_kd_fpn'] > 0
