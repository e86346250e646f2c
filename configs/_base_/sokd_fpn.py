# SoKD on the five levels of an FPN.
_fpn = dict(student='neck', teacher='neck', levels=[0, 1, 2, 3, 4])

# As in the authors' code: all nine operators from the first step, an adapter of three
# convolutions with BN and ReLU, class heatmaps that only the agreement of the two networks
# trains. The weights are those of the detector that their code descends from.
_adapter = dict(
    type='kd_mm.ConvAdapter',
    layers=3,
    kernel_size=(1, 3, 3),
    norm_cfg=dict(type='BN'),
    act_last=True)
_dafa = dict(
    type='kd_mm.DAFA',
    start=0,
    search_epochs=5,
    objective='published',
    estimator='relax')
_dam = dict(type='kd_mm.DAM', heatmaps=80, hidden=None, relu_heads=True)
_mse = dict(type='kd_mm.MSELoss', weight=2.0)
sokd_fpn = dict(fpn=dict(stages=[_dafa, _adapter, _dam], criterion=_mse, **_fpn))
dafa_fpn = dict(fpn=dict(stages=[_dafa, _adapter], criterion=_mse, **_fpn))
dam_fpn = dict(fpn=dict(stages=[_adapter, _dam], criterion=_mse, **_fpn))

# As we would use it: without ChannelShuffle and ChannelDrop, which undo what dense
# features are compared for; a policy that begins after an epoch; areas learnt from the
# boxes: alone their heads collapse (docs/results/methods.md).
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
_stable_dafa = dict(type='kd_mm.DAFA', search_epochs=4, operators=_operators)
_stable_adapter = dict(type='kd_mm.ConvAdapter', layers=3)
_stable_dam = dict(
    type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)
sokd_stable_fpn = dict(
    fpn=dict(
        stages=[_stable_dafa, _stable_adapter, _stable_dam], criterion=_mse, **_fpn))
dafa_stable_fpn = dict(
    fpn=dict(stages=[_stable_dafa, _stable_adapter], criterion=_mse, **_fpn))
dam_stable_fpn = dict(
    fpn=dict(stages=[_stable_adapter, _stable_dam], criterion=_mse, **_fpn))

# With KCD, in front of a channel-anchored criterion: the teacher's channels are put into
# the student's order, then augmented; no adapter is needed where the widths are equal.
kcd_sokd_fpn = dict(
    fpn=dict(
        stages=[
            dict(type='kd_mm.ChannelAlign', share=True), _stable_dafa, _stable_dam],
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0),
        **_fpn))

# Without the augmentation, for a student that is trained already: the best of the digits.
kcd_dam_fpn = dict(
    fpn=dict(
        stages=[dict(type='kd_mm.ChannelAlign', share=True), _stable_dam],
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0),
        **_fpn))
