# OFD in front of the last ReLU of every stage, depth 56 to depth 20; the authors' 1e-3
# translated to a mean per element of the last map (64 x 8 x 8).
links = dict(
    preact=dict(
        student=[f'backbone.layer{i}.2.relu2@input' for i in (1, 2, 3)],
        teacher=[f'backbone.layer{i}.8.relu2@input' for i in (1, 2, 3)],
        stages=[dict(type='kd_mm.OFD')],
        criterion=dict(type='kd_mm.OFDLoss', weight=4.0)))
