"""Wrong options of stages, criteria and schedules, of training, data and hooks."""

from wrong_cases import Cases

CASES = Cases()
INF = "float('inf')"
NAN = "float('nan')"

# ---- options of the parts -----------------------------------------------------------

CASES.stage(
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
CASES.criterion(
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
CASES.override(
    'option on the command line',
    ('model.links.fpn.criterion.weight=nan', 'MSELoss.weight', 'nan'),
    ('model.links.fpn.criterion.weight=four', 'MSELoss.weight', "'four'"),
    ('model.links.fpn.stages.0.layers=2.0', 'ConvAdapter.layers', '2.0'),
    ('model.links.fpn.levels=neck', 'links.fpn.levels', "'neck'"),
    ('model.teacher.validate=yes', 'teacher.validate', "'yes'"),
    ('model.gradient_share_interval=-5', 'gradient_share_interval', '-5'),
    ('model.trial_size=64', 'trial_size', '64'),
)
CASES.link(
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

# ---- training, data, hooks ----------------------------------------------------------

CASES.override(
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
CASES.config(
    'hook',
    ("custom_hooks = [dict(type='kd_mm.DrawSoKD')]", 'DrawSoKD'),
    ("custom_hooks = [dict(type='kd_mm.DrawSoKDHook', images=0)]", 'images', '>= 1'),
    ("custom_hooks = [dict(type='kd_mm.DrawSoKDHook', interval='1')]", 'interval'),
    ("custom_hooks = [dict(type='kd_mm.DrawSoKDHook', image=3)]", 'image', 'images'),
    ("custom_hooks = ['kd_mm.DrawSoKDHook']", 'custom_hooks'),
    ("custom_hooks = dict(type='kd_mm.DrawSoKDHook')", 'custom_hooks'),
)
CASES.config(
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
CASES.config(
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
CASES.config(
    'never arrives',
    (
        'model = dict(links=dict(fpn=dict(stages=['
        "dict(type='kd_mm.ChannelAlign', fit_at=5), dict(type='kd_mm.ConvAdapter')])))",
        'fit_at=5',
        'epochs',
    ),
)
