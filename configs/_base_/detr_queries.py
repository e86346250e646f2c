# DETR: every query that the teacher is sure of is compared with the student's that says
# nearly the same, layer by layer, with the weights of Deformable DETR's own losses. Heads
# that score by softmax (DETR) want softmax=True in MatchQueries.
detr_queries = dict(
    queries=dict(
        student='bbox_head',
        teacher='bbox_head',
        stages=[dict(type='kd_mm.MatchQueries')],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=dict(type='kd_mm.QFLLoss', weight=2.0),
            boxes=[
                dict(type='kd_mm.BoxL1Loss', weight=5.0),
                dict(type='kd_mm.BoxLoss', form='cxcywh', weight=2.0)
            ])))
