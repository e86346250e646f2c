# CRD on the pooled vector.
links = dict(
    vector=dict(
        student='neck',
        teacher='neck',
        criterion=dict(type='kd_mm.CRDLoss', weight=0.8)))
