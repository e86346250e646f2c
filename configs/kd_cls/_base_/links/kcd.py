# KCD in front of PKD on the last map: the teacher's channels are put into the student's
# order after the first epoch; a wider teacher gives its best-matching channels.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.Resize', side='teacher', mode='area'),
            dict(type='kd_mm.ChannelAlign', fit_at=1)],
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0)))
