"""Where a teacher's files are looked for."""

import pytest

from kd_mm.errors import ConfigError
from kd_mm.utils import loading


def test_the_weights_in_an_installed_package_are_found(tmp_path, monkeypatch):
    """`configs/...` of a packaged config lies in `.mim` when there is no checkout."""
    package = tmp_path / 'site-packages' / 'kd_mm'
    carried = package / '.mim' / 'configs' / 'teacher.pth'
    carried.parent.mkdir(parents=True)
    carried.touch()
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    monkeypatch.setattr(loading, '__file__', str(package / 'utils' / 'loading.py'))
    found = loading.find_file('configs/teacher.pth', key='teacher.checkpoint')
    assert found == str(carried)
    with pytest.raises(ConfigError, match='teacher.checkpoint'):
        loading.find_file('configs/no.pth', key='teacher.checkpoint')
    (tmp_path / 'elsewhere' / 'configs').mkdir()
    own = tmp_path / 'elsewhere' / 'configs' / 'teacher.pth'
    own.touch()  # a file of the user's comes first
    found = loading.find_file('configs/teacher.pth', key='teacher.checkpoint')
    assert (tmp_path / 'elsewhere' / found).samefile(own)


def test_a_packaged_teacher_that_does_not_exist_names_the_nearest():
    wrong = 'mmdet::retinanet/retinanet_r101_fpn_2x_coc.py'
    with pytest.raises(ConfigError, match='nearest: retinanet_r101_fpn_2x_coco'):
        loading.load_model_config(wrong)
    with pytest.raises(ConfigError, match="package 'mmdetect' is not installed"):
        loading.load_model_config(wrong.replace('mmdet', 'mmdetect'))
    model, scope = loading.load_model_config(wrong.replace('_coc.', '_coco.'))
    assert model.type == 'RetinaNet' and scope == 'mmdet'


def test_a_package_without_its_configs_says_what_brings_them(tmp_path, monkeypatch):
    """A checkout on the path that nobody installed."""
    bare = tmp_path / 'bare_checkout'
    bare.mkdir()
    (bare / '__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match='carries no configs.*pip install -e'):
        loading.find_config('bare_checkout::kd/some.py', key='teacher.config')
