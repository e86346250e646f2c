"""Wrong configs of a distilled model: of both networks, links and taps."""

from wrong_cases import Cases

CASES = Cases()

# ---- files that are configs ---------------------------------------------------------

CASES.config(
    'broken config',
    ('a = = 1', 'line 1'),
    ("_base_ = './no_base.py'", 'no_base.py'),
    ("raise ValueError('of my own')", 'case.py', 'of my own'),
    ('model = undefined', 'undefined'),
    ('1 / 0', 'ZeroDivisionError'),
    ('# nothing', 'case.py', 'has no model'),
    base='',
)
CASES.config(
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
CASES.config(
    'missing part of a config',
    ('train_dataloader = None', 'train_dataloader'),
    ('train_cfg = None', 'train_cfg'),
    ('optim_wrapper = None', 'optim_wrapper'),
    ('model = None', 'model'),
)

# ---- kd_mm.Distill ------------------------------------------------------------------

CASES.model(
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
CASES.config(
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
CASES.model(
    'student that cannot be built',
    ("student=dict(type='RetinaNett')", 'RetinaNett'),
    ('student=dict(nekc=dict())', 'nekc'),
    ('student=dict(neck=dict(num_out=5))', 'num_out'),
    ("student=dict(bbox_head=dict(num_classes='one'))", 'model.student.bbox_head'),
    ('student=dict(neck=dict(in_channels=[1, 2, 3, 4]))', 'student'),
)

# ---- the teacher --------------------------------------------------------------------

CASES.model(
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

CASES.model(
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
CASES.link(
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
CASES.link(
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

# ---- what does not fit --------------------------------------------------------------

CASES.link(
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
CASES.config(
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
