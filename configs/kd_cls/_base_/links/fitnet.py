# FitNet on the last map; the teacher's is averaged down where it is larger.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.Resize', side='teacher', mode='area'),
            dict(type='kd_mm.ConvAdapter')],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
