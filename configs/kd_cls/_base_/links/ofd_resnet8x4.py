# OFD in front of the last ReLU of every stage, 32x4 to 8x4; the authors' 1e-3 translated
# to a mean per element of the last map (256 x 8 x 8).
links = dict(
    preact=dict(
        student=[f'backbone.layer{i}.0.relu2@input' for i in (1, 2, 3)],
        teacher=[f'backbone.layer{i}.4.relu2@input' for i in (1, 2, 3)],
        stages=[dict(type='kd_mm.OFD')],
        criterion=dict(type='kd_mm.OFDLoss', weight=16.0)))
