"""What the hook does around a training, beside serving stages."""

import pytest
import torch
import toys
from helpers import distill_cfg, runner
from mmengine.hooks import Hook


class Noted(Hook):
    """The random state that the first iteration begins with."""

    state: torch.Tensor | None = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.state is None:
            self.state = torch.get_rng_state()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_teacher_that_is_evaluated_leaves_the_student_its_random_numbers(
    tmp_path, workers
):
    noted = []
    for validate in (False, True):
        wanted = dict(validate=validate)
        cfg = distill_cfg(toys.retinanet(), toys.retinanet(), teacher_kwargs=wanted)
        run = runner(
            cfg,
            tmp_path / str(validate),
            epochs=1,
            val_dataloader=dict(num_workers=workers, persistent_workers=workers > 0),
        )
        hook = Noted()
        run.register_hook(hook)
        run.train()
        noted.append((hook.state, torch.get_rng_state()))
    for one, other in zip(*noted, strict=True):
        assert torch.equal(one, other)


def test_a_teacher_whose_evaluation_fails_is_put_back_as_it_was(tmp_path, monkeypatch):
    wanted = dict(validate=True, dtype='bf16')
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), teacher_kwargs=wanted)
    run = runner(cfg, tmp_path, epochs=1)
    teacher = run.model.distiller.teacher.model

    def fails(*_):
        raise RuntimeError('no metric')

    monkeypatch.setattr('kd_mm.hooks.distill_hook.evaluate', fails)
    with pytest.raises(RuntimeError, match='no metric'):
        run.train()
    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}
