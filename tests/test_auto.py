"""Links found by themselves: what is compared, and that it is an ordinary dict."""

import logging

import pytest
import query_toys
import torch
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    runner,
    train_steps,
)
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner._flexible_runner import FlexibleRunner
from test_tokens import vit

import kd_mm
from kd_mm.auto import NAMES
from kd_mm.auto.candidates import Candidate, Level, class_scores, feeding_heads
from kd_mm.auto.find import SHARE_OF_CLASSIFIERS, SHARE_OF_DETECTORS
from kd_mm.auto.match import match
from kd_mm.auto.methods import (
    _LAST_MAP,
    _LOGITS,
    _MAPS,
    OF_STAGES,
    _snippet,
    feature_link,
)
from kd_mm.auto.survey import Given, Point, Survey
from kd_mm.errors import ConfigError
from kd_mm.pair import MAP

ADAPTER = dict(type='kd_mm.ConvAdapter')
TO_MAP = dict(type='kd_mm.TokensToMap')
PKD = dict(type='kd_mm.PKDLoss', weight=6.0)


def found(student, teacher, method='auto', **kwargs):
    """The distilled model, tried as small as its images will be."""
    size = (64, 64) if 'Classifier' in str(student.type) else (128, 128)
    return build(
        distill_cfg(student, teacher, method, **kwargs) | dict(trial_size=size)
    )


def smaller(side: str) -> dict:
    return dict(type='kd_mm.Resize', side=side, mode='area')


PAIRS = {
    'an FPN and a wider one': (
        toys.retinanet(),
        toys.retinanet(width=24),
        dict(student='neck', teacher='neck', criterion=PKD, stages=[ADAPTER]),
    ),
    'levels of one stride go together': (
        toys.faster_rcnn(),
        toys.retinanet(),
        dict(
            student='neck',
            teacher='neck',
            levels=dict(student=[1, 2, 3, 4], teacher=[0, 1, 2, 3]),
            criterion=PKD,
        ),
    ),
    'the encoder in front of a decoder': (
        query_toys.detr(),
        query_toys.detr(),
        dict(student='encoder', teacher='encoder', criterion=PKD),
    ),
    'tokens against the maps of one stride': (
        toys.retinanet(),
        query_toys.detr(),
        dict(
            student='neck',
            teacher='encoder',
            levels=dict(student=[2], teacher=[0]),
            criterion=PKD,
            stages=[TO_MAP, ADAPTER],
        ),
    ),
    'other classes: the last map alone': (
        toys.classifier(),
        toys.classifier(classes=5),
        dict(student='backbone', teacher='backbone', levels=[2], criterion=PKD),
    ),
    'a backbone that gives vectors: its last tokens': (
        vit(),
        vit(width=32),
        dict(
            student='backbone.ln1',
            teacher='backbone.ln1',
            criterion=PKD,
            stages=[ADAPTER],
        ),
    ),
    'a map against tokens of another stride': (
        toys.classifier(),
        vit(),
        dict(
            student='backbone',
            teacher='backbone.ln1',
            levels=dict(student=[2], teacher=[0]),
            criterion=PKD,
            stages=[TO_MAP, smaller('teacher'), ADAPTER],
        ),
    ),
}


@pytest.mark.parametrize('name', PAIRS)
def test_what_feeds_the_heads_is_compared(name):
    student, teacher, features = PAIRS[name]
    model = found(student, teacher)
    links = model.distiller.links_config
    classifier = 'Classifier' in student.type
    part = SHARE_OF_CLASSIFIERS if classifier else SHARE_OF_DETECTORS
    assert links['features'] == features | dict(share=dict(target=part, falls_to=1.0))
    assert ('logits' in links) == (classifier and 'other classes' not in name)
    batch = (
        classification_batch() if 'Classifier' in student.type else detection_batch()
    )
    logs = train_steps(model, batch, steps=24, lr=0.1)  # half of them are probes
    first, *later = [log['loss_kd_features'] for log in logs]
    assert min(later) < first


# Of the same snippets as others, and slow.
METHODS = sorted(
    set(NAMES) - {'auto', 'auto_trained', 'dafa', 'dam', 'dam_stable', 'dafa_stable'}
)


WANT_BOXES = dict(
    fgd='FGDLoss needs boxes',
    kcd_dam=r'links.features.stages\[1\] DAM',
    kcd_sokd=r'links.features.stages\[2\] DAM',
)


@pytest.mark.parametrize('name', METHODS)
def test_every_method_finds_links_of_classifiers(name):
    pair = toys.classifier(base=4), toys.classifier(base=8)
    if name in WANT_BOXES:
        with pytest.raises(ConfigError, match=f"links='{name}': {WANT_BOXES[name]}"):
            found(*pair, name)
        return
    kinds = {'logits'} if name in _LOGITS else {'features'}
    kinds = dict(crd={'vector'}, dpk={'logits', 'features'}).get(name, kinds)
    links = found(*pair, name).distiller.links_config
    assert list(links) == sorted(kinds)  # as a written config has them
    if name in OF_STAGES:
        assert links['features']['student'] == [f'backbone.layer{i}' for i in (2, 3, 4)]


def test_an_adapter_stands_in_front_of_what_rebuilds_some_levels_only():
    def level(width, stride):
        return Level(MAP, (3, width, 64 // stride, 64 // stride), stride, (8, 8))

    sides = [tuple(level(w, stride) for stride in (8, 16, 32)) for w in (8, 16)]
    places = [Candidate(('neck',), levels) for levels in sides]
    pair = match(places[:1], places[1:], last_only=False)
    assert pair.pairs == ((0, 0), (1, 1), (2, 2))
    link = feature_link('dpk', pair, classes=0, scores='', classifier=False)
    adapter, dpk = link['stages']
    assert adapter == ADAPTER
    assert (dpk['levels'], dpk['patch']) == ([1, 2], [4, 2])  # strides 16 and 32
    assert dpk['decoder'] == [(1024, 4, 8), (512, 4, 8)]


def surveyed(*points: tuple) -> Survey:
    """A network of 64 pixels; a path that ends in '*' is a single layer."""
    found = [
        Point(
            path=path.rstrip('*'),
            given=tuple(Given(shape, (i,)) for i, shape in enumerate(shapes)),
            whole=True,
            calls=1,
            fed=True,
            learns=True,
            leaf=path.endswith('*'),
        )
        for path, *shapes in points
    ]
    size = (64, 64)
    points = {point.path: point for point in found}
    return Survey('student', 'Net', points, {'head'}, size, size)


def test_a_backbone_that_reads_the_dict_of_its_init_cfg_is_tried():
    net = toys.classifier()
    net['backbone'] = dict(
        type='XCiT', patch_size=16, embed_dims=16, depth=1, num_heads=2,
        cls_attn_layers=1, mlp_ratio=1, out_type='cls_token',
    )  # fmt: skip
    net['neck'], net['head']['in_channels'] = None, 16
    links = found(net, net).distiller.links_config
    assert links['features']['student'] == 'backbone.norm'


def test_layers_beside_the_way_to_the_heads_come_last():
    """As DINO's, which propose boxes from what the encoder gives."""
    rows = (3, 80, 32)  # an 8 x 8 and a 4 x 4 map in one row
    neck = ('neck', (3, 32, 8, 8), (3, 32, 4, 4))
    found = feeding_heads(surveyed(neck, ('encoder', rows), ('norm*', rows)))
    assert [place.specs[0] for place in found] == ['encoder', 'neck', 'norm']
    assert [level.stride for level in found[1].levels] == [8, 16]


def test_what_stands_for_a_backbone_that_gives_no_map():
    def specs(*inside):
        found = feeding_heads(surveyed(*inside, ('backbone', (3, 48))))
        return [place.specs[0] for place in found]

    tokens = ('backbone.ln', (3, 17, 48))
    assert specs(('backbone.embed', (3, 17, 48)), tokens) == ['backbone.ln']
    # a stage that ends with one cell is no place to look for larger maps
    stages = [('backbone.a', (3, 8, 4, 4)), ('backbone.b.conv', (3, 8, 2, 2))]
    assert specs(*stages, ('backbone.b', (3, 8, 1, 1))) == ['backbone.a']
    # channels in front of the tokens: the layer before has them behind
    mixed = surveyed(('backbone.ln', (3, 16, 48)), ('backbone', (3, 48, 16)))
    assert [place.specs[0] for place in feeding_heads(mixed)][-1] == 'backbone.ln'


def test_class_scores_may_stand_in_the_backbone():
    scores = [('backbone.fc*', (3, 10)), ('backbone', (3, 10))]
    assert class_scores(surveyed(*scores)).specs == ('backbone.fc',)
    inside = surveyed(('backbone.se*', (3, 4)), ('backbone.conv*', (3, 8, 4, 4)))
    assert class_scores(inside) is None


def test_constants_are_those_of_the_snippets():
    """Of every name, in the two places it may come from; nothing but taps is left."""
    for file, *keys in (*_MAPS.values(), *_LAST_MAP.values(), *_LOGITS.values()):
        for key in keys:
            link = _snippet(file, key)
            assert set(link) <= {'stages', 'criterion'}, key
            assert link['criterion']['type'].startswith('kd_mm.')


@pytest.mark.parametrize('method', ['sokd_stable', 'kcd_dam', 'kcd_sokd'])
def test_found_links_given_again_are_the_same_model_bit_for_bit(method):
    def states(links, seed=0):
        cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24), links)
        model = build(cfg, seed=seed)
        return model.distiller.links_config, model.state_dict(), torch.rand(3)

    links, state, drawn = states(method)
    again = states(links)
    assert again[0] == links
    assert torch.equal(drawn, again[2])
    assert all(torch.equal(again[1][name], value) for name, value in state.items())
    # and what is found depends on the networks alone: ranks and resumed runs agree
    assert states(method, seed=1)[0] == links


def final(run) -> dict:
    run.train()
    return run.model.state_dict()


def test_the_written_config_trains_again_without_a_search(tmp_path, monkeypatch):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24), 'auto')
    first = runner(cfg, tmp_path / 'a', epochs=1)
    written = Config.fromfile(next((tmp_path / 'a').glob('*.py')))
    assert written.model.links.features.student == 'neck'
    assert first.cfg.model.links == first.model.distiller.links_config
    state = final(first)
    flexible = runner(
        cfg,
        tmp_path / 'b',
        epochs=1,
        kind=FlexibleRunner,
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
    )
    flexible.train()
    assert Config.fromfile(next((tmp_path / 'b').glob('*.py'))).model == written.model

    monkeypatch.setattr('kd_mm.distill.find_links', None)
    again = final(runner(written.model.to_dict(), tmp_path / 'c', epochs=1))
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_the_links_are_in_the_log_as_they_would_stand_in_a_config():
    said = []
    logger, handler = MMLogger.get_current_instance(), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        model = found(toys.faster_rcnn(), toys.retinanet(width=24))
    finally:
        logger.removeHandler(handler)
    block = next(text for text in said if "links='auto' found" in text)
    assert 'neck (3, 16, 16, 16) stride 8 <- neck (3, 24, 16, 16) stride 8' in block
    code = block[block.index('links=dict(') :]
    assert eval(f'dict({code})') == dict(links=model.distiller.links_config)


def test_a_name_that_is_no_method_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match="links='sodk' is no method; nearest: .*sokd"):
        build(distill_cfg(dict(type='Nothing'), dict(type='Nothing'), 'sodk'))


def frozen(**kwargs):
    """A classifier whose head alone is trained: no feature carries a gradient."""
    model = toys.classifier(**kwargs)
    model.backbone.frozen_stages = 4
    return model


def test_features_without_a_gradient_are_left_out():
    assert set(found(frozen(), toys.classifier()).distiller.links_config) == {'logits'}


REFUSED = {
    "links='kd' compares the class scores.*student RetinaNet: none.*'auto'": (
        toys.retinanet(),
        toys.retinanet(),
        'kd',
    ),
    r"links='kd'.*head.fc: \(3, 4\).*head.fc: \(3, 5\)": (
        toys.classifier(),
        toys.classifier(classes=5),
        'kd',
    ),
    r"links='auto': nothing .*; student ImageClassifier: none; teacher "
    r'ImageClassifier: backbone: \(3, 16, 8, 8\) stride 8, .* stride 32; say what': (
        frozen(),
        toys.classifier(classes=5),
        'auto',
    ),
    'FGDLoss needs boxes': (toys.classifier(), toys.classifier(), 'fgd'),
}


@pytest.mark.parametrize('text', REFUSED)
def test_what_cannot_be_compared_is_refused_with_both_sides(text):
    with pytest.raises(ConfigError, match=text):
        found(*REFUSED[text])


@pytest.mark.parametrize(
    ('method', 'classes', 'criterion'),
    [('auto', 3, 'DIST'), ('auto', 2, 'KD'), ('auto_trained', 3, 'KD')],
)
def test_scores_of_classes_are_correlated_where_there_are_enough(
    method, classes, criterion
):
    net = toys.classifier(classes=classes)
    links = found(net, net, method).distiller.links_config
    assert links['logits']['criterion']['type'] == f'kd_mm.{criterion}Loss'


def test_scores_of_several_labels_are_compared_one_by_one():
    net = toys.classifier()
    net['head'] = dict(
        type='MultiLabelLinearClsHead',
        num_classes=4,
        in_channels=net['head']['in_channels'],
        loss=dict(type='FocalLoss'),  # sigmoids, and it does not say so
    )
    criterion = found(net, net).distiller.links_config['logits']['criterion']
    assert criterion['type'] == 'kd_mm.KDLoss' and criterion['sigmoid']


def test_a_trained_student_gets_its_teachers_channels_in_order():
    def links(*pair, method='auto'):
        return found(*pair, method).distiller.links_config

    same = toys.retinanet(), toys.retinanet()
    plain, trained = (links(*same, method=m) for m in ('cwd', 'auto_trained'))
    (own,) = trained.values()
    first, *rest = own['stages']
    assert first['type'] == 'kd_mm.ChannelAlign' and first['share'] and not rest
    del own['stages']
    assert trained == plain
    wider = toys.retinanet(), toys.retinanet(width=24)
    assert links(*wider, method='auto_trained') == links(*wider, method='cwd')
    classes = toys.classifier(), toys.classifier()
    trained = links(*classes, method='auto_trained')
    kinds = [stage['type'] for stage in trained['features']['stages']]
    assert kinds == ['kd_mm.ChannelAlign']


def test_a_checkpoint_of_the_student_makes_auto_that():
    said = dict(teacher_checkpoint='t.pth')
    student = Config(dict(model=toys.retinanet(), default_scope='mmdet'))
    teacher = dict(model=toys.retinanet(), default_scope='mmdet')
    assert kd_mm.distil(student, teacher, **said).model.links == 'auto'
    cfg = kd_mm.distil(student, teacher, student_checkpoint='s.pth', **said)
    assert (cfg.model.links, cfg.load_from) == ('auto_trained', 's.pth')
    assert cfg.work_dir.endswith('_auto_trained')
    cfg = kd_mm.distil(student, teacher, method='pkd', student_checkpoint='s', **said)
    assert cfg.model.links == 'pkd'
    student.load_from = 's.pth'
    assert kd_mm.distil(student, teacher, **said).model.links == 'auto_trained'
