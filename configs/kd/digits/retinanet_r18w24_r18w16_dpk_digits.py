_base_ = './retinanet_r18w16_digits.py'

model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='kd_mm::kd/digits/retinanet_r18w24_digits.py',
        checkpoint='configs/kd/digits/retinanet_r18w24_digits.pth'),
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(
                    type='kd_mm.DPK',
                    patch=[2, 1, 1],
                    encoder=(64, 2, 4),
                    decoder=(64, 1, 4))
            ],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0))))
