"""Wrong uses of the command line, of each tool, with overrides and checkpoints."""

from wrong_cases import Cases

CASES = Cases()

# ---- the command line ---------------------------------------------------------------

CASES.call(
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
CASES.call(
    'command line',
    'train',
    ('{toy}/plain.py --amp --cfg-options optim_wrapper.type=ApexOptimWrapper', '--amp'),
)
TEACHER = '{toy}/plain.py --teacher {toy}/wide.py --teacher-checkpoint '
CASES.call(
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
    (TEACHER + 'no.pth', '--teacher-checkpoint no.pth', 'does not exist'),
    (TEACHER + '{toy}/other.pth', 'teacher.checkpoint', 'cover'),
    (TEACHER + '{toy}/wide.py', '--teacher-checkpoint', 'is a text'),
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
CASES.call(
    'one command',
    'doctor',
    ('{toy}/plain.py --teacher {toy}/wide.py', 'wide.py', 'no weights'),
    ('{toy}/plain.py --method pkd', '--method: needs --teacher'),
)
CASES.override(
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

# ---- checkpoints --------------------------------------------------------------------

CASES.call(
    'checkpoint',
    'train',
    ('{toy}/plain.py --resume no.pth', '--resume', 'no.pth'),
    ('{toy}/plain.py --resume {toy}', '--resume', 'folder'),
    ('{toy}/plain.py --resume {toy}/text.pth', 'text.pth'),
    ('{toy}/plain.py --resume {toy}/empty.pth', 'empty.pth'),
    ('{toy}/plain.py --resume {toy}/list.pth', 'list.pth'),
    ('{toy}/distilled.py --resume {toy}/other.pth', 'resume'),
)
CASES.call(
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

CASES.call(
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
CASES.call(
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
CASES.call(
    'convert_checkpoint',
    'convert_checkpoint',
    ('no.py {toy}/other.pth {toy}/out.pth', 'no.py'),
    ('{toy}/classifier.py no.pth {toy}/out.pth', 'no.pth'),
    ('{toy}/classifier.py {toy}/text.pth {toy}/out.pth', 'text.pth'),
    ('{toy}/classifier.py {toy}/list.pth {toy}/out.pth', 'list.pth'),
    ('{toy}/classifier.py {toy}/other.pth {toy}/text.pth', 'exists already'),
)
CASES.call(
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
CASES.call(
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
CASES.call(
    'analyse_channels',
    'analyse_channels',
    ('{toy}/plain.py --out {new}', 'does not distil'),
    ('{toy}/distilled.py --images 1', '--images'),
    ('{toy}/distilled.py --top-k 0', '--top-k'),
    ('{toy}/distilled.py --similarity gapp', 'gapp', "'gap'"),
    ('{toy}/distilled.py --student no.pth --out {new}', '--student', 'no.pth'),
    ('{toy}/distilled.py --teacher no.pth --out {new}', 'no.pth'),
)
CASES.call(
    'draw_areas',
    'draw_areas',
    ('{toy}/plain.py {toy}/other.pth {toy}/0.png', 'does not distil'),
    ('{toy}/distilled.py no.pth {toy}/0.png', 'no.pth'),
    ('{toy}/distilled.py {toy}/other.pth no.png', 'no.png'),
    ('{toy}/distilled.py {toy}/other.pth {toy}/all.json', 'all.json', 'no image'),
    ('{toy}/distilled.py {toy}/other.pth {toy}/0.png', 'other.pth', 'another model'),
    ('{toy}/distilled.py {toy}/other.pth', 'images'),
)
