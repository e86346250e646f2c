# KCD in front of PKD on the last map: the teacher's channels are put into the order of
# the student that training starts from; a wider teacher gives its best-matching ones.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.Resize', side='teacher', mode='area'),
            dict(type='kd_mm.ChannelAlign')],
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0)))
