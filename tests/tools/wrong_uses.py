"""Wrong uses of the tools, as data: what is done, and what the one line must hold.

    python tests/tools/wrong_uses.py          all of them, by kind, with what is said
    python tests/tools/wrong_uses.py schedule those of one kind

Every one ends with exit code 2 and one line on stderr that begins with ``error:``,
holds all the words given here, and leaves no work dir behind. ``test_wrong_uses.py``
runs them under pytest.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

INF = "float('inf')"
NAN = "float('nan')"
TOY = '{toy}'  # replaced by the folder of toys


@dataclass(frozen=True)
class Case:
    """One wrong use.

    Attributes:
        kind (str): What sort of mistake.
        words (tuple[str, ...]): What the line must hold, a key of the config first.
        tool (str): Name of the script in ``tools``.
        arguments (tuple[str, ...]): ``{toy}`` is the folder of toys, ``{case}`` the
            config below.
        text (str): Of a config of its own; '' for none.
    """

    kind: str
    words: tuple[str, ...]
    tool: str
    arguments: tuple[str, ...]
    text: str = ''


CASES: list[Case] = []


def call(kind: str, tool: str, *rows: tuple) -> None:
    """Rows of (arguments as one string, words...)."""
    for arguments, *words in rows:
        CASES.append(Case(kind, tuple(words), tool, tuple(arguments.split(' '))))


def override(kind: str, *rows: tuple, config: str = 'distilled') -> None:
    """Rows of (--cfg-options as one string, words...)."""
    start = '{toy}/' + config + '.py --cfg-options '
    call(kind, 'train', *((start + row[0], *row[1:]) for row in rows))


def config(kind: str, *rows: tuple, base: str = 'distilled', tool='train') -> None:
    """Rows of (what a config adds to its base, words...)."""
    for text, *words in rows:
        text = f"_base_ = '{TOY}/{base}.py'\n{text}\n" if base else text
        CASES.append(Case(kind, tuple(words), tool, ('{case}',), text))


def link(kind: str, *rows: tuple, base: str = 'distilled', name: str = 'fpn') -> None:
    """Rows of (keywords of the link, words...)."""
    config(
        kind,
        *((f'model = dict(links=dict({name}=dict({r[0]})))', *r[1:]) for r in rows),
        base=base,
    )


def stage(kind: str, *rows: tuple) -> None:
    """Rows of (keywords of a stage behind an adapter, words...)."""
    adapter = "stages=[dict(type='kd_mm.ConvAdapter'), dict(type='kd_mm.%s', %s)]"
    link(kind, *((adapter % (r[0], r[1]), 'links.fpn.stages[1]', *r[2:]) for r in rows))


def criterion(kind: str, *rows: tuple) -> None:
    """Rows of (type, keywords, words...)."""
    what = "criterion=dict(_delete_=True, type='kd_mm.%s', %s)"
    link(kind, *((what % (r[0], r[1]), 'links.fpn.criterion', *r[2:]) for r in rows))


def model(kind: str, *rows: tuple, base: str = 'distilled') -> None:
    """Rows of (keywords of Distill, words...)."""
    config(kind, *((f'model = dict({r[0]})', *r[1:]) for r in rows), base=base)


# ---- the command line ---------------------------------------------------------------

call(
    'command line',
    'train',
    ('no.py', 'no.py', 'does not exist'),
    ('{toy}/plane.py', 'plane.py', 'nearest: plain.py'),
    ('{toy}', 'is a folder'),
    ('', 'config', 'does not exist'),
    ('nowhere::a.py', 'nowhere', 'not installed'),
    ('mmdet::retinanet/no_such.py', 'no_such.py', 'does not exist'),
    ('{toy}/all.json', 'all.json'),
    ('{toy}/0.png', '0.png', 'cannot be read'),
    ('{toy}/plain.py --bogus', '--bogus'),
    ('{toy}/plain.py second.py', 'second.py'),
    ('{toy}/plain.py --launcher pytorsh', 'pytorsh', "'pytorch'"),
    ('{toy}/plain.py --launcher pytorch', 'tools/dist_train.sh'),
    ('{toy}/plain.py --local-rank one', 'one', 'local'),
    ('{toy}/plain.py --work-dir', '--work-dir', 'expected one argument'),
    ('{toy}/plain.py --work-dir {toy}/all.json', 'all.json', 'is a file'),
    ('{toy}/plain.py --work-dir {toy}/all.json/below', 'all.json', 'is a file'),
    ('{toy}/plain.py --work-dir /proc/work', '/proc/work'),
    ('{toy}/plain.py --auto-scale-lr', 'auto_scale_lr.base_batch_size'),
    ('{toy}/plain.py --cfg-options', '--cfg-options', 'expected at least one'),
    ('{toy}/plain.py --cfg-options a', 'key=value', "'a'"),
    ('{toy}/plain.py --cfg-options =3', 'key=value', "'=3'"),
    ('{toy}/plain.py --cfg-options model', 'key=value', "'model'"),
)
call(
    'command line',
    'train',
    ('{toy}/plain.py --amp --cfg-options optim_wrapper.type=ApexOptimWrapper', '--amp'),
)
TEACHER = '{toy}/plain.py --teacher {toy}/wide.py --teacher-checkpoint '
call(
    'one command',
    'train',
    ('{toy}/plain.py --teacher {toy}/wide.py', 'wide.py', 'no weights', 'checkpoint'),
    (
        '{toy}/distilled.py --teacher {toy}/wide.py',
        'distilled already',
        'plain student',
    ),
    ('{toy}/plain.py --method pkd', '--method: needs --teacher'),
    ('{toy}/distilled.py --method pkd', '--method', 'already', 'model.links'),
    ('{toy}/plain.py --teacher-checkpoint a.pth', '-checkpoint: needs --teacher'),
    (
        '{toy}/distilled.py --teacher-checkpoint a.pth',
        '--teacher-checkpoint',
        'model.teacher.checkpoint',
    ),
    (
        '{toy}/plain.py --student-checkpoint {toy}/wide.pth',
        '--student-checkpoint needs --teacher',
        'load_from=',
    ),
    ('{toy}/distilled.py --student-checkpoint no.pth', '--student-checkpoint no.pth'),
    ('{toy}/plain.py --teacher {toy}/wide.pth', 'is a config', '--teacher-checkpoint'),
    ('{toy}/plain.py --teacher no.py', 'teacher.config no.py', 'does not exist'),
    (
        '{toy}/plain.py --teacher mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        'no weights',
        'mmdet lists https://',
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    (TEACHER + 'no.pth', 'teacher.checkpoint no.pth', 'does not exist'),
    (TEACHER + '{toy}/other.pth', 'teacher.checkpoint', 'cover'),
    (TEACHER + '{toy}/wide.py', 'teacher.checkpoint', 'is a text'),
    (
        TEACHER + '{toy}/wide.pth --student-checkpoint {toy}/wide.pth',
        '--student-checkpoint',
        'of another model',
    ),
    (TEACHER + '{toy}/wide.pth --method sokdd', 'links', "'sokdd'"),
    (
        TEACHER + '{toy}/wide.pth --cfg-options model.backbone.depth=34',
        'model.student.backbone.depth',
    ),
    (
        TEACHER + '{toy}/wide.pth --cfg-options model.links.fpn.criterion.weight=2',
        "model.links is 'auto'",
        'work dir',
    ),
)
call(
    'one command',
    'doctor',
    ('{toy}/plain.py --teacher {toy}/wide.py', 'wide.py', 'no weights'),
    ('{toy}/plain.py --method pkd', '--method: needs --teacher'),
)
override(
    'override that goes nowhere',
    ('model.links.fnp.criterion.weight=4', 'links.fnp', 'links.fpn'),
    ('model.linkz.fpn.criterion.weight=4', 'linkz', "'links'"),
    ('model.links.fpn.criterion.wieght=4', 'MSELoss.wieght', 'nearest: weight'),
    ('model.links.fpn.stages.3.layers=2', 'stages', "'3'"),
    ('model.links.fpn.stages.first.layers=2', 'stages', "'first'"),
    ('model.links.fpn.student.path=x', 'student', "'path'"),
    ('model.techer.checkpoint=a.pth', 'techer', "'teacher'"),
    ('optim_wraper.optimizer.lr=1', 'optim_wraper', "'optim_wrapper'"),
    ('train_cgf.max_epochs=2', 'train_cgf', "'train_cfg'"),
    ('max_epochs=2', 'max_epochs'),
    ('train_dataloader.batchsize=2', 'batchsize', "'batch_size'"),
    ('train_cfg.max_epoch=2', 'max_epoch', "'max_epochs'"),
)

# ---- files that are configs ---------------------------------------------------------

config(
    'broken config',
    ('a = = 1', 'line 1'),
    ("_base_ = './no_base.py'", 'no_base.py'),
    ("raise ValueError('of my own')", 'case.py', 'of my own'),
    ('model = undefined', 'undefined'),
    ('1 / 0', 'ZeroDivisionError'),
    ('# nothing', 'case.py', 'has no model'),
    base='',
)
config(
    'misspelt key at the top',
    ('train_cgf = dict(max_epochs=3)', 'train_cgf', "'train_cfg'"),
    ("optim_wraper = dict(type='OptimWrapper')", 'optim_wraper', "'optim_wrapper'"),
    ('modle = dict()', 'modle', "'model'"),
    ('default_hook = dict()', 'default_hook', "'default_hooks'"),
    ('custom_hook = []', 'custom_hook', "'custom_hooks'"),
    ('param_schedulers = []', 'param_schedulers', "'param_scheduler'"),
    ('train_dataloder = dict()', 'train_dataloder', "'train_dataloader'"),
    ("load_form = 'a.pth'", 'load_form', "'load_from'"),
    ('randomnes = dict(seed=1)', 'randomnes', "'randomness'"),
    ("default_scop = 'mmdet'", 'default_scop', "'default_scope'"),
    ('resumee = True', 'resumee', "'resume'"),
    ("default_hooks = dict(chekpoint=dict(type='CheckpointHook'))", 'chekpoint'),
    ('default_hooks = dict(loger=dict(interval=5))', 'loger', "'logger'"),
)
config(
    'missing part of a config',
    ('train_dataloader = None', 'train_dataloader'),
    ('train_cfg = None', 'train_cfg'),
    ('optim_wrapper = None', 'optim_wrapper'),
    ('model = None', 'model'),
)

# ---- kd_mm.Distill ------------------------------------------------------------------

model(
    'key of Distill',
    ("links='fpn', _delete_=False", 'links', "'fpn'"),
    ("links=[dict(student='neck')]", 'links', 'dict'),
    ('links=dict(_delete_=True)', 'links is empty'),
    ('links=None', 'links', 'None'),
    ("student='x.py'", 'student', "'x.py'"),
    ('student=None', 'student', 'None'),
    ('student=dict(_delete_=True)', 'student', 'type'),
    ("teacher='x.py'", 'teacher', "'x.py'"),
    ('teacher=None', 'teacher', 'None'),
    ('trial_size=224', 'trial_size', '224'),
    ('trial_size=(224,)', 'trial_size', '(224,)'),
    ('trial_size=(0, 64)', 'trial_size', '0'),
    ("trial_size='big'", 'trial_size', "'big'"),
    ('gradient_share_interval=-1', 'gradient_share_interval', '-1'),
    ("gradient_share_interval='often'", 'gradient_share_interval', "'often'"),
    ('gradient_share_interval=2.5', 'gradient_share_interval', '2.5'),
    ("stop_on_nan='yes'", 'stop_on_nan', "'yes'"),
    ("inherit='neck'", 'inherit', "'neck'"),
    ("inherit=['nek']", 'inherit', 'nearest: neck'),
    ('inherit=[3]', 'inherit', '3'),
    ('link=dict()', 'link', 'unknown', 'links'),
    ("techer=dict(checkpoint='a.pth')", 'techer', 'teacher'),
)
config(
    'key of Distill',
    ("_base_ = '{toy}/plain.py'\nmodel = dict(type='kd_mm.Distil')", 'kd_mm.Distil'),
    (
        "_base_ = '{toy}/plain.py'\nmodel = dict(_delete_=True, type='kd_mm.Distill')",
        'student is missing',
    ),
    (
        "_base_ = '{toy}/plain.py'\n"
        "model = dict(_delete_=True, type='kd_mm.Distill', student={{_base_.model}})",
        'teacher is missing',
    ),
    (
        "_base_ = '{toy}/distilled.py'\nmodel = dict(_delete_=True, "
        "type='kd_mm.Distill', student={{_base_.model}}, "
        'teacher={{_base_.model.teacher}}, links={{_base_.model.links}})',
        'student.type is kd_mm.Distill',
    ),
    base='',
)
model(
    'student that cannot be built',
    ("student=dict(type='RetinaNett')", 'RetinaNett'),
    ('student=dict(nekc=dict())', 'nekc'),
    ('student=dict(neck=dict(num_out=5))', 'num_out'),
    ("student=dict(bbox_head=dict(num_classes='one'))", 'model.student.bbox_head'),
    ('student=dict(neck=dict(in_channels=[1, 2, 3, 4]))', 'student'),
)

# ---- the teacher --------------------------------------------------------------------

model(
    'teacher',
    ('teacher=dict(allow_random=False)', 'teacher.checkpoint', 'allow_random'),
    ("teacher=dict(allow_random='yes')", 'teacher.allow_random', "'yes'"),
    ("teacher=dict(validate='yes')", 'teacher.validate', "'yes'"),
    ('teacher=dict(validate=1)', 'teacher.validate', '1'),
    ("teacher=dict(compile='no')", 'teacher.compile', "'no'"),
    ("teacher=dict(channels_last='x')", 'teacher.channels_last', "'x'"),
    ("teacher=dict(dtype='int8')", 'teacher.dtype', "'bf16'"),
    ('teacher=dict(dtype=16)', 'teacher.dtype', '16'),
    ("teacher=dict(chekpoint='a.pth')", 'teacher.chekpoint', 'nearest: checkpoint'),
    ('teacher=dict(checkpoint=3)', 'teacher.checkpoint', '3'),
    ("teacher=dict(checkpoint='no.pth')", 'teacher.checkpoint', 'no.pth'),
    ("teacher=dict(checkpoint='{toy}/other.pth')", 'teacher.checkpoint', 'cover'),
    ("teacher=dict(checkpoint='{toy}/text.pth')", 'teacher.checkpoint', 'text.pth'),
    ("teacher=dict(checkpoint='{toy}/empty.pth')", 'teacher.checkpoint', 'empty.pth'),
    ("teacher=dict(checkpoint='{toy}/list.pth')", 'teacher.checkpoint', 'list.pth'),
    ("teacher=dict(checkpoint='{toy}')", 'teacher.checkpoint', 'folder'),
    (
        "teacher=dict(checkpoint='http://127.0.0.1:9/a.pth')",
        'teacher.checkpoint',
        '127.0.0.1',
    ),
    ("teacher=dict(config='no.py')", 'teacher.config', 'no.py'),
    ("teacher=dict(config='nowhere::a.py')", 'teacher.config', 'nowhere'),
    ("teacher=dict(config='mmdet::no.py')", 'teacher.config', 'no.py'),
    ("teacher=dict(config='{toy}/all.json')", 'teacher.config', 'all.json'),
    ('teacher=dict(config=7)', 'teacher.config', '7'),
    ('teacher=dict(config=dict(_delete_=True))', 'teacher.config', 'model'),
    ("teacher=dict(config=dict(_delete_=True, type='No'))", 'teacher', 'No'),
    ('teacher=dict(config=dict(model=dict(nek=1)))', 'teacher', 'nek'),
    ('teacher=dict(_delete_=True, allow_random=True)', 'teacher.config is missing'),
)

# ---- links and taps -----------------------------------------------------------------

model(
    'name of a link',
    ("links=dict(my_loss=dict(student='neck'))", 'links.my_loss', '"loss"'),
    ("links={'a.b': dict(student='neck')}", 'links.a.b', 'named'),
    ("links={'a b': dict(student='neck')}", 'links.a b', 'named'),
    ("links=dict(items=dict(student='neck'))", 'links.items', 'another name'),
    ("links=dict(type=dict(student='neck'))", 'links.type', 'another name'),
    ("links=dict(keys=dict(student='neck'))", 'links.keys', 'another name'),
    ('links=dict(fnp=dict(criterion=dict(weight=2)))', 'links.fnp', 'links.fpn'),
    ('links={3: dict()}', 'links', '3'),
    ('links=dict(fpn=3)', 'links.fpn', '3'),
    ('links=dict(fpn=None)', 'links.fpn', 'None'),
)
link(
    'key of a link',
    ("criterium=dict(type='kd_mm.MSELoss')", 'links.fpn.criterium', 'criterion'),
    ('weight=2', 'links.fpn.weight', 'unknown'),
    ("name='fpn'", 'links.fpn.name', 'unknown'),
    ('criterion=None', 'links.fpn.criterion', 'None'),
    ("criterion='kd_mm.MSELoss'", 'links.fpn.criterion', 'dict'),
    ('criterion=dict(_delete_=True, weight=1)', 'links.fpn.criterion', 'type'),
    ("criterion=dict(type='kd_mm.MSE')", 'links.fpn.criterion', 'kd_mm.MSELoss'),
    ("criterion=dict(type='mmdet.L1Loss', _delete_=True)", 'links.fpn.criterion'),
    ("criterion=dict(type='kd_mm.DAM', _delete_=True)", 'links.fpn.criterion', 'DAM'),
    ("stages=dict(type='kd_mm.ConvAdapter')", 'stages', '_delete_'),
    ("stages='kd_mm.ConvAdapter'", 'links.fpn.stages', 'list'),
    ("stages=['kd_mm.ConvAdapter']", 'links.fpn.stages[0]', 'dict'),
    ('stages=[dict(layers=2)]', 'links.fpn.stages[0]', 'type'),
    ("stages=[dict(type='kd_mm.ConvAdaptor')]", 'links.fpn.stages[0]', 'ConvAdapter'),
    ("stages=[dict(type='kd_mm.MSELoss')]", 'links.fpn.stages[0]', 'MSELoss'),
    ('stages=[dict(type=5)]', 'links.fpn.stages[0]', '5'),
    ('levels=[0, 7]', 'links.fpn', 'level 7'),
    ('levels=[-1]', 'links.fpn.levels[0]', '-1'),
    ("levels=['0']", 'links.fpn.levels[0]', "'0'"),
    ('levels=[0.0]', 'links.fpn.levels[0]', '0.0'),
    ('levels=[True]', 'links.fpn.levels[0]', 'True'),
    ('levels=[]', 'links.fpn.levels', '[]'),
    ('levels=3', 'links.fpn.levels', '3'),
    ("levels='all'", 'links.fpn.levels', "'all'"),
    ('levels=dict(_delete_=True, student=[0])', 'links.fpn.levels', 'teacher'),
    ('levels=dict(_delete_=True, up=[0], teacher=[0])', 'links.fpn.levels', "'up'"),
    (
        'levels=dict(_delete_=True, student=[0], teacher=[0, 1])',
        'links.fpn',
        '1 levels',
    ),
)
link(
    'tap',
    ("student='nek'", "tap 'nek'", 'nearest: neck'),
    ("teacher='nek'", "tap 'nek'", 'nearest: neck'),
    ("student='neck.'", "'neck.'", 'not a tap'),
    ("student='neck@outptu'", "'neck@outptu'", 'not a tap'),
    ("student='neck[x]'", "'neck[x]'", 'not a tap'),
    ("student='neck[9]'", 'links.fpn', 'neck[9]', 'index 9'),
    ("teacher='neck[9]'", 'links.fpn', 'neck[9]', 'index 9'),
    ("student='neck[0][0]'", 'links.fpn', 'neck[0][0]'),
    ("student=''", "''", 'not a tap'),
    ('student=3', 'links.fpn.student', '3'),
    ('student=[]', 'links.fpn.student', '[]'),
    ("student=['neck', 3]", 'links.fpn.student[1]', '3'),
    ('student=None', 'links.fpn.student', 'None'),
    ("teacher='backbone'", 'links.fpn', 'teacher', '4 levels'),
    ("student='backbone.layer9'", 'backbone.layer9', 'nearest'),
)

# ---- options of the parts -----------------------------------------------------------

stage(
    'option of a stage',
    ('ConvAdapter', 'layers=0', 'ConvAdapter.layers', '>= 1'),
    ('ConvAdapter', "layers='2'", 'ConvAdapter.layers', "'2'"),
    ('ConvAdapter', 'layers=1.5', 'ConvAdapter.layers', '1.5'),
    ('ConvAdapter', 'kernel_size=2', 'ConvAdapter.kernel_size', 'odd'),
    ('ConvAdapter', "norm_cfg='BN'", 'ConvAdapter.norm_cfg', "'BN'"),
    ('ConvAdapter', "act_last='no'", 'ConvAdapter.act_last', "'no'"),
    ('ConvAdapter', 'depth=2', 'ConvAdapter.depth', 'unknown'),
    ('Resize', "side='both'", 'Resize.side', "'student'"),
    ('Resize', "mode='cubic'", 'Resize.mode', "'bilinear'"),
    ('DAM', "top_k='8'", 'DAM.top_k', 'an int >= 1', "'8'"),
    ('DAM', 'top_k=0', 'DAM.top_k', '>= 1'),
    ('DAM', 'topk=8', 'DAM.topk', 'nearest: top_k'),
    ('DAM', f'weight={NAN}', 'DAM.weight', 'finite'),
    ('DAM', f'weight={INF}', 'DAM.weight', 'finite'),
    ('DAM', 'weight=-1', 'DAM.weight', '>= 0'),
    ('DAM', "boxes_from='studnet'", 'DAM.boxes_from', "'student'"),
    ('DAM', "overlap='mean'", 'DAM.overlap', "'max'"),
    ('DAM', 'supervision=None', 'DAM.supervision', "'gt'"),
    ('DAM', 'heatmaps=-2', 'DAM.heatmaps', '-2'),
    ('DAM', 'relu_heads=0', 'DAM.relu_heads', 'True or False'),
    ('DAFA', "search_epochs='4'", 'DAFA.search_epochs', "'4'"),
    ('DAFA', 'search_epochs=-1', 'DAFA.search_epochs', '-1'),
    ('DAFA', f'start={NAN}', 'DAFA.start', 'finite'),
    ('DAFA', 'by_epoch=1', 'DAFA.by_epoch', 'True or False'),
    ('DAFA', "operators=['Rotat', 'Shear']", 'DAFA.operators', 'nearest: Rotate'),
    ('DAFA', "operators=['Rotate']", 'DAFA.operators', 'two'),
    ('DAFA', "operators='Rotate'", 'DAFA.operators', "'Rotate'"),
    ('DAFA', 'policies=0', 'DAFA.policies', '0'),
    ('DAFA', "estimator='relaxx'", 'DAFA.estimator', "'relax'"),
    ('DAFA', 'temperature=0', 'DAFA.temperature', '> 0'),
    ('DAFA', f'lr={INF}', 'DAFA.lr', 'finite'),
    ('DAFA', 'weight_decay=-1', 'DAFA.weight_decay', '-1'),
    ('DAFA', 'seed=0.5', 'DAFA.seed', '0.5'),
    ('DPK', "ratio='ckaa'", 'DPK.ratio', "'cka'"),
    ('DPK', 'ratio=1.5', 'DPK.ratio', '1.5'),
    ('DPK', 'bounds=(0.9, 0.1)', 'DPK.bounds', '0.9'),
    ('DPK', 'bounds=0.5', 'DPK.bounds', '0.5'),
    ('DPK', 'images=2', 'DPK.images', '2'),
    ('DPK', 'patch=0', 'DPK.patch', '>= 1'),
    ('DPK', 'patch=[1, 2]', 'DPK.patch', '5 levels'),
    ('DPK', 'encoder=(18, 1, 4)', 'DPK.encoder'),
    ('DPK', 'encoder=()', 'DPK.encoder'),
    ('DPK', 'levels=[5]', 'DPK.levels', '5'),
    ('MGD', 'ratio=1.0', 'MGD.ratio', '[0, 1)'),
    ('MGD', "mask='channels'", 'MGD.mask', "'channel'"),
    ('OFD', "steps='many'", 'OFD.steps', "'many'"),
    ('ReviewKD', 'mid=0', 'ReviewKD.mid', '0'),
    ('ChannelAlign', "transform='bipartit'", 'ChannelAlign.transform', "'bipartite'"),
    ('ChannelAlign', "similarity='gapp'", 'ChannelAlign.similarity', "'gap'"),
    ('ChannelAlign', 'fit_at=-1', 'ChannelAlign.fit_at', '-1'),
    ('ChannelAlign', "fit_at='end'", 'ChannelAlign.fit_at', "'start'"),
    ('ChannelAlign', 'fit_at=0.5', 'ChannelAlign.fit_at', '0.5'),
    ('ChannelAlign', 'every=0', 'ChannelAlign.every', '0'),
    ('ChannelAlign', 'images=1', 'ChannelAlign.images', '>= 2'),
    ('ChannelAlign', f'ridge={NAN}', 'ChannelAlign.ridge', 'finite'),
    ('ChannelAlign', "share='all'", 'ChannelAlign.share', "'all'"),
)
criterion(
    'option of a criterion',
    ('MSELoss', f'weight={NAN}', 'MSELoss.weight', 'finite', 'nan'),
    ('MSELoss', f'weight={INF}', 'MSELoss.weight', 'finite', 'inf'),
    ('MSELoss', 'weight=-1', 'MSELoss.weight', '>= 0'),
    ('MSELoss', "weight='2'", 'MSELoss.weight', "'2'"),
    ('MSELoss', 'weight=True', 'MSELoss.weight', 'True'),
    ('MSELoss', 'weight=None', 'MSELoss.weight', 'None'),
    ('MSELoss', 'weight=[1.0]', 'MSELoss.weight', '[1.0]'),
    ('MSELoss', 'wieght=2', 'MSELoss.wieght', 'nearest: weight'),
    ('MSELoss', 'tau=2', 'MSELoss.tau', 'unknown'),
    ('CWDLoss', 'tau=0', 'CWDLoss.tau', '> 0'),
    ('KDLoss', f'tau={NAN}', 'KDLoss.tau', 'finite'),
    ('KDLoss', "sigmoid='yes'", 'KDLoss.sigmoid', "'yes'"),
    ('DKDLoss', 'alpha=-1', 'DKDLoss.alpha', '-1'),
    ('DISTLoss', "inter='1'", 'DISTLoss.inter', "'1'"),
    ('FGDLoss', f'relation={INF}', 'FGDLoss.relation', 'finite'),
    ('CRDLoss', 'images=0', 'CRDLoss.images', '>= 1'),
    ('CRDLoss', 'momentum=1', 'CRDLoss.momentum', '[0, 1)'),
)
override(
    'option on the command line',
    ('model.links.fpn.criterion.weight=nan', 'MSELoss.weight', 'nan'),
    ('model.links.fpn.criterion.weight=four', 'MSELoss.weight', "'four'"),
    ('model.links.fpn.stages.0.layers=2.0', 'ConvAdapter.layers', '2.0'),
    ('model.links.fpn.levels=neck', 'links.fpn.levels', "'neck'"),
    ('model.teacher.validate=yes', 'teacher.validate', "'yes'"),
    ('model.gradient_share_interval=-5', 'gradient_share_interval', '-5'),
    ('model.trial_size=64', 'trial_size', '64'),
)
link(
    'schedule',
    ('schedule=dict(warmup=-1)', 'links.fpn.schedule.warmup', '-1'),
    ("schedule=dict(warmup='1')", 'links.fpn.schedule.warmup', "'1'"),
    (f'schedule=dict(decay={NAN})', 'links.fpn.schedule.decay', 'finite'),
    (f'schedule=dict(stop={INF})', 'links.fpn.schedule.stop', 'finite'),
    ('schedule=dict(stop=1, warmup=2)', 'links.fpn.schedule', 'warmup=2'),
    ("schedule=dict(shape='cos')", 'links.fpn.schedule.shape', "'cosine'"),
    ('schedule=dict(by_epoch=0)', 'links.fpn.schedule.by_epoch', 'True or False'),
    ('schedule=dict(wramup=1)', 'links.fpn.schedule.wramup', 'nearest: warmup'),
    ('schedule=dict(end=1)', 'links.fpn.schedule.end', 'unknown'),
    ('schedule=3', 'links.fpn.schedule', '3'),
    ("schedule='linear'", 'links.fpn.schedule', "'linear'"),
)

# ---- what does not fit --------------------------------------------------------------

link(
    'does not fit',
    ('stages=[]', 'links.fpn', 'ConvAdapter', '(3, 16', '(3, 24'),
    ("teacher='backbone.layer1', levels=None, student='neck[0]'", 'links.fpn'),
    (
        "criterion=dict(type='kd_mm.DKDLoss', _delete_=True)",
        'links.fpn.criterion',
        'DKDLoss',
        'logits',
    ),
    (
        "criterion=dict(type='kd_mm.CRDLoss', _delete_=True)",
        'links.fpn.criterion',
        'CRDLoss',
        'vectors',
    ),
    (
        "stages=[dict(type='kd_mm.DAM')]",
        'links.fpn.stages[0]',
        'DAM',
        'ConvAdapter',
    ),
    (
        "stages=[dict(type='kd_mm.ConvAdapter'), dict(type='kd_mm.DAM'), "
        "dict(type='kd_mm.DAM')]",
        'links.fpn.stages[2]',
        'DAM',
        'weighted',
    ),
    (
        "stages=[dict(type='kd_mm.ChannelAlign'), dict(type='kd_mm.ChannelAlign')]",
        'links.fpn.stages',
        'one ChannelAlign',
    ),
)
CLASSES = (
    'model = dict(teacher=dict(config=dict(model=dict(head=dict(num_classes=7)))))'
)
config(
    'does not fit',
    (CLASSES, 'links.logits', 'KDLoss', '2', '7', 'classes'),
    (
        CLASSES + "\nmodel['links'] = dict(logits=dict(criterion=dict(_delete_=True, "
        "type='kd_mm.DISTLoss')))",
        'links.logits',
        'DISTLoss',
        'classes',
    ),
    (
        "model = dict(links=dict(logits=dict(stages=[dict(type='kd_mm.DAM')])))",
        'links.logits.stages[0]',
        'DAM',
        'vectors',
    ),
    (
        "model = dict(links=dict(logits=dict(stages=[dict(type='kd_mm.DPK')])))",
        'links.logits.stages[0]',
        'DPK',
    ),
    (
        'model = dict(links=dict(logits=dict(criterion=dict(_delete_=True, '
        "type='kd_mm.CWDLoss'))))",
        'links.logits.criterion',
        'CWDLoss',
    ),
    base='classifier',
)

# ---- training, data, hooks ----------------------------------------------------------

override(
    'training that cannot start',
    ('optim_wrapper.type=NoWrapper', 'optim_wrapper', 'NoWrapper'),
    ('optim_wrapper.optimizer.type=SGDD', 'optim_wrapper'),
    ('optim_wrapper.optimizer.lr=fast', 'optim_wrapper.optimizer (SGD)'),
    ('optim_wrapper.optimizer.lr=-1', 'optim_wrapper.optimizer', '-1'),
    ('optim_wrapper.optimizer.momentun=0.9', 'momentun'),
    ('train_dataloader.batch_size=0', 'batch_size'),
    ('train_dataloader.batch_size=two', 'train_dataloader.batch_size', "'two'"),
    ('train_dataloader.num_workers=-1', 'train_dataloader', 'num_workers'),
    ('train_dataloader.sampler.type=NoSampler', 'NoSampler'),
    ('train_dataloader.dataset.type=NoDataset', 'NoDataset'),
    ('train_dataloader.dataset.ann_file=no.json', 'no.json'),
    ('train_dataloader.dataset.ann_file=0.png', 'train_dataloader.dataset'),
    ('train_dataloader.dataset.data_root=/nowhere', '/nowhere'),
    ('train_dataloader.dataset.pipeline.0.type=LoadNothing', 'LoadNothing'),
    ('train_dataloader.dataset.pipeline.0.colour=rgb', 'colour'),
    ('train_cfg.type=NoLoop', 'NoLoop'),
    ('train_cfg.max_epochs=many', 'train_cfg', "'many'"),
    ('train_cfg.max_epochs=-1', 'train_cfg', '-1'),
    ('train_cfg.val_interval=0', 'train_cfg', 'val_interval'),
    ('default_hooks.checkpoint.interval=-3', 'default_hooks.checkpoint', '-3'),
    ('default_hooks.checkpoint.type=NoHook', 'NoHook'),
    ('default_hooks.checkpoint.intervall=3', 'intervall'),
    ('default_hooks.logger.interval=often', 'default_hooks.logger', "'often'"),
    ('val_evaluator.type=NoMetric', 'NoMetric'),
    ('val_evaluator.metric=bboxx', 'val_evaluator', 'bboxx'),
    ('param_scheduler.type=NoScheduler', 'NoScheduler'),
    ('visualizer.type=NoVisualizer', 'NoVisualizer'),
    ('default_scope=nowhere', 'DetDataPreprocessor', 'registry'),
    ('randomness.seed=one', 'randomness', "'one'"),
    ('resume=True load_from=no.pth', 'no.pth'),
    ('load_from=no.pth', 'no.pth'),
    ('load_from={toy}/text.pth', 'text.pth'),
    ('load_from={toy}', 'load_from', 'folder'),
    config='plain',
)
config(
    'hook',
    ("custom_hooks = [dict(type='kd_mm.DrawSoKD')]", 'DrawSoKD'),
    ("custom_hooks = [dict(type='kd_mm.DrawSoKDHook', images=0)]", 'images', '>= 1'),
    ("custom_hooks = [dict(type='kd_mm.DrawSoKDHook', interval='1')]", 'interval'),
    ("custom_hooks = [dict(type='kd_mm.DrawSoKDHook', image=3)]", 'image', 'images'),
    ("custom_hooks = ['kd_mm.DrawSoKDHook']", 'custom_hooks'),
    ("custom_hooks = dict(type='kd_mm.DrawSoKDHook')", 'custom_hooks'),
)
config(
    'optimiser of the distiller',
    (
        "optim_wrapper = dict(constructor='kd_mm.DistillerOptimWrapperConstructor')",
        'paramwise_cfg.distiller',
    ),
    (
        "optim_wrapper = dict(constructor='kd_mm.DistillerOptimWrapperConstructor', "
        'paramwise_cfg=dict(distiller=dict(lr=1)))',
        'paramwise_cfg.distiller',
        'type',
    ),
    (
        "optim_wrapper = dict(constructor='kd_mm.DistillerOptimWrapper')",
        'DistillerOptimWrapper',
    ),
)
config(
    'data set and backbone of kd_mm',
    (
        "train_dataloader = dict(dataset=dict(_delete_=True, type='kd_mm.Digit'))",
        'Digit',
    ),
    (
        'train_dataloader = dict(dataset=dict(_delete_=True, '
        "type='kd_mm.DigitImages', split='dev'))",
        'DigitImages.split',
        "'val'",
    ),
    (
        'train_dataloader = dict(dataset=dict(_delete_=True, '
        "type='kd_mm.DigitImages', size=4))",
        'DigitImages.size',
        '>= 8',
    ),
    (
        'train_dataloader = dict(dataset=dict(_delete_=True, '
        "type='kd_mm.TensorImages', dataset=dict(type='kd_mm.DigitImages'), flip=2))",
        'TensorImages.flip',
        '[0, 1]',
    ),
    (
        'model = dict(student=dict(backbone=dict(_delete_=True, '
        "type='kd_mm.ResNetCIFAR', depth=21)))",
        'ResNetCIFAR',
        '6 n + 2',
    ),
    (
        'model = dict(student=dict(backbone=dict(_delete_=True, '
        "type='kd_mm.ResNetCIFAR', depth='20')))",
        'ResNetCIFAR.depth',
        "'20'",
    ),
    (
        'model = dict(student=dict(backbone=dict(_delete_=True, '
        "type='kd_mm.VGGCIFAR', depth=16)))",
        'VGGCIFAR.depth',
        '13',
    ),
    base='classifier',
)
config(
    'never arrives',
    (
        'model = dict(links=dict(fpn=dict(stages=['
        "dict(type='kd_mm.ChannelAlign', fit_at=5), dict(type='kd_mm.ConvAdapter')])))",
        'fit_at=5',
        'epochs',
    ),
)

# ---- checkpoints --------------------------------------------------------------------

call(
    'checkpoint',
    'train',
    ('{toy}/plain.py --resume no.pth', '--resume', 'no.pth'),
    ('{toy}/plain.py --resume {toy}', '--resume', 'folder'),
    ('{toy}/plain.py --resume {toy}/text.pth', 'text.pth'),
    ('{toy}/plain.py --resume {toy}/empty.pth', 'empty.pth'),
    ('{toy}/plain.py --resume {toy}/list.pth', 'list.pth'),
    ('{toy}/distilled.py --resume {toy}/other.pth', 'resume'),
)
call(
    'checkpoint',
    'test',
    ('{toy}/plain.py no.pth', 'no.pth'),
    ('{toy}/plain.py {toy}', 'folder'),
    ('{toy}/plain.py {toy}/text.pth', 'text.pth'),
    ('{toy}/plain.py {toy}/empty.pth', 'empty.pth'),
    ('{toy}/plain.py {toy}/list.pth', 'list.pth'),
    ('{toy}/plain.py {toy}/other.pth', 'another model'),
)

# ---- the other tools ----------------------------------------------------------------

call(
    'test',
    'test',
    ('{toy}/plain.py', 'checkpoint'),
    ('no.py {toy}/other.pth', 'no.py'),
    ('{toy}/plain.py {toy}/other.pth --out a.txt', '--out', '.pkl'),
    ('{toy}/plain.py {toy}/other.pth --out /nowhere/a.pkl', '--out', '/nowhere'),
    (
        '{toy}/plain.py {toy}/other.pth --cfg-options model.nekc=1',
        'model',
        'nekc',
    ),
    ('{toy}/plain.py {toy}/other.pth --show-dir', '--show-dir'),
)
call(
    'export_student',
    'export_student',
    ('no.pth {toy}/out.pth', 'no.pth'),
    ('{toy}/text.pth {toy}/out.pth', 'text.pth'),
    ('{toy}/list.pth {toy}/out.pth', 'list.pth', 'list'),
    ('{toy}/other.pth {toy}/out.pth', '--config'),
    ('{toy}/other.pth {toy}/other.pth', 'itself'),
    ('{toy}/other.pth {toy}', 'folder'),
    ('{toy}/other.pth /nowhere/out.pth', '/nowhere'),
    ('{toy}/other.pth {toy}/text.pth', 'exists already', '--force'),
    ('{toy}/other.pth {toy}/out.pth --config no.py', 'no.py'),
    ('{toy}/other.pth {toy}/out.pth --config {toy}/plain.py', 'does not fit'),
    ('{toy}/other.pth {toy}/out.pth --ema', 'no average'),
    ('{toy}/other.pth {toy}/out.pth --ema --raw', '--raw'),
    ('{toy}/other.pth', 'out'),
)
call(
    'convert_checkpoint',
    'convert_checkpoint',
    ('no.py {toy}/other.pth {toy}/out.pth', 'no.py'),
    ('{toy}/classifier.py no.pth {toy}/out.pth', 'no.pth'),
    ('{toy}/classifier.py {toy}/text.pth {toy}/out.pth', 'text.pth'),
    ('{toy}/classifier.py {toy}/list.pth {toy}/out.pth', 'list.pth'),
    ('{toy}/classifier.py {toy}/other.pth {toy}/text.pth', 'exists already'),
)
call(
    'make_digits',
    'make_digits',
    ('', 'is not this data set'),
    ('/proc/x', '/proc/x'),
    ('{toy}', 'is not this data set'),
    ('{toy}/all.json', 'all.json'),
    ('{toy}/digits --train 0', 'train', '>= 1'),
    ('{toy}/digits --val -3', 'val', '-3'),
    ('{toy}/digits --size 10', 'size', '64'),
    ('{toy}/digits --size 1000', 'size', '213'),
    ('{toy}/digits --train many', '--train', 'many'),
    ('{toy}/digits --seed -1', 'seed', '-1'),
)
call(
    'rank_teachers',
    'rank_teachers',
    ('{toy}/plain.py a=b', 'does not distil', 'RetinaNet'),
    ('{toy}/distilled.py', 'teachers'),
    ('{toy}/distilled.py a.py --images 32 --out {new}', 'CONFIG=CHECKPOINT'),
    ('{toy}/distilled.py a.py=b.pth --images 2', '--images'),
    ('{toy}/distilled.py a.py=b.pth --steps 0', '--steps'),
    ('{toy}/distilled.py a.py=b.pth --out {new}', 'a.py'),
    ('no.py a=b', 'no.py'),
)
call(
    'analyse_channels',
    'analyse_channels',
    ('{toy}/plain.py --out {new}', 'does not distil'),
    ('{toy}/distilled.py --images 1', '--images'),
    ('{toy}/distilled.py --top-k 0', '--top-k'),
    ('{toy}/distilled.py --similarity gapp', 'gapp', "'gap'"),
    ('{toy}/distilled.py --student no.pth --out {new}', '--student', 'no.pth'),
    ('{toy}/distilled.py --teacher no.pth --out {new}', 'no.pth'),
)
call(
    'draw_areas',
    'draw_areas',
    ('{toy}/plain.py {toy}/other.pth {toy}/0.png', 'does not distil'),
    ('{toy}/distilled.py no.pth {toy}/0.png', 'no.pth'),
    ('{toy}/distilled.py {toy}/other.pth no.png', 'no.png'),
    ('{toy}/distilled.py {toy}/other.pth {toy}/all.json', 'all.json', 'no image'),
    ('{toy}/distilled.py {toy}/other.pth {toy}/0.png', 'other.pth', 'distiller'),
    ('{toy}/distilled.py {toy}/other.pth', 'images'),
)


def main() -> int:
    """Run all, or the kinds whose names hold the argument; print what is said."""
    said: dict[str, list[tuple[str, str]]] = {}

    class Listen:
        def pytest_runtest_logreport(self, report):
            for key, line in report.user_properties:
                if report.when == 'call' and key == 'said':
                    kind = report.nodeid.partition('[')[2].partition('-')[0]
                    mark = 'ok ' if report.passed else 'NOT'
                    said.setdefault(kind, []).append((mark, line))

    file = str(Path(__file__).with_name('test_wrong_uses.py'))
    chosen = ['-k', sys.argv[1]] if len(sys.argv) > 1 else []
    code = pytest.main(['-q', '--tb=no', *chosen, file], plugins=[Listen()])
    for kind, lines in said.items():
        fine = sum(mark == 'ok ' for mark, _ in lines)
        print(f'\n{kind}: {fine} of {len(lines)}')
        for mark, line in lines:
            print(f'  {mark} {line}')
    every = [mark for lines in said.values() for mark, _ in lines]
    print(f'\n{sum(mark == "ok " for mark in every)} of {len(every)} end in one line')
    return int(code)


if __name__ == '__main__':
    sys.exit(main())
