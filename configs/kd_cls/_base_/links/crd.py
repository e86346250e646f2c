# CRD on the pooled vector. images is the size of the training set.
links = dict(
    vector=dict(
        student='neck',
        teacher='neck',
        criterion=dict(type='kd_mm.CRDLoss', images=50000, weight=0.8)))
