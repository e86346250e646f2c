"""tools/draw_areas.py, from a run to its pictures and the mistakes on the way."""

import shutil

import pytest
from mmengine.config import Config

pytestmark = pytest.mark.slow

SOKD = [
    dict(type='kd_mm.DAFA', start=0, search_epochs=1),
    dict(type='kd_mm.ConvAdapter'),
    dict(type='kd_mm.DAM', top_k=3, supervision='gt', heatmaps=1),
]


@pytest.fixture
def trained(toy, start):
    """The toy folder with ``sokd.py`` and a checkpoint of its run."""
    cfg = Config.fromfile(toy / 'distilled.py')
    cfg.model.links.fpn.stages = SOKD
    cfg.custom_hooks = [dict(type='kd_mm.DrawSoKDHook', images=2)]
    cfg.dump(toy / 'sokd.py')
    process = start('train.py', toy / 'sokd.py', '--work-dir', toy / 'run')
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return toy


def test_draws_areas_and_policy_of_a_checkpoint(trained, start):
    assert len(list((trained / 'run').rglob('areas_fpn_0*.png'))) == 4
    out, images = trained / 'out', [trained / '0.png', trained / '1.png']
    (trained / 'more').mkdir()
    images.append(shutil.copy(trained / '1.png', trained / 'more' / '0.png'))
    arguments = [trained / 'sokd.py', trained / 'run' / 'epoch_1.pth', *images]
    process = start('draw_areas.py', *arguments, '--out', out)
    said, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert '3 pictures of areas and 1 of policies' in said
    names = sorted(path.name for path in out.rglob('*.png'))
    areas = ['areas_fpn_0_1.png', 'areas_fpn_0_2_1.png', 'areas_fpn_1_1.png']
    assert names == [*areas, 'policy_fpn_1.png']

    shutil.copy(trained / 'run' / 'epoch_1.pth', trained / 'copy.pth')
    for arguments, message in (
        ([trained / 'sokd.py', trained / 'copy.pth', trained / 'no.png'], 'no image'),
        ([trained / 'distilled.py', trained / 'copy.pth', images[0]], 'other links'),
        ([trained / 'plain.py', trained / 'copy.pth', images[0]], 'does not distil'),
    ):
        process = start('draw_areas.py', *arguments)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 2
        last = error.strip().splitlines()[-1]
        assert last.startswith('error: ') and message in last
