"""Taps see what modules give, for one forward pass, and nothing stays behind."""

import gc
import weakref

import pytest
import torch
from torch import nn

from kd_mm.errors import ConfigError
from kd_mm.taps import Recording, Tap, Taps


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(4, 2, 1)
        self.twin = Twin()
        self.idle = nn.Identity()

    def forward(self, x):
        x = self.act(self.body(x))
        out = [self.head(x), self.head(x[..., ::2, ::2])]
        self.twin(x)
        self.after = True
        return out


class Twin(nn.Module):
    def forward(self, x):
        return [x, x + 1], (x + 2,)


def taps(*specs):
    net = Net()
    made = Taps(specs=specs, model=net, owner='student')
    with made.record(net) as seen:
        net(torch.randn(2, 3, 4, 4))
    made.learn(seen)
    return net, made, seen


def test_a_tap_is_read_from_text():
    assert Tap.parse('a.b.0') == Tap('a.b.0')
    assert Tap.parse('a[1][2]') == Tap('a', (1, 2))
    assert Tap.parse('a.b[0]@input') == Tap('a.b', (0,), 'input')
    assert str(Tap.parse('a.b[0]@input')) == 'a.b[0]@input'
    for text in ('', 'a.', 'a[x]', '__import__("os")', 'a@both', 3):
        with pytest.raises(ConfigError, match='not a tap'):
            Tap.parse(text)


def test_a_shared_module_gives_its_calls_in_order():
    _, made, seen = taps('head')
    assert [tuple(x.shape[2:]) for x in seen.features(made.taps['head'])] == [
        (4, 4),
        (2, 2),
    ]


def test_indices_open_nested_outputs():
    _, made, seen = taps('twin', 'twin[0]', 'twin[0][1]', 'twin[1]')
    x = seen.features(made.taps['twin[0]'])[0]
    assert len(seen.features(made.taps['twin'])) == 3
    assert len(seen.features(made.taps['twin[0]'])) == 2
    assert torch.equal(seen.features(made.taps['twin[0][1]'])[0], x + 1)
    assert torch.equal(seen.features(made.taps['twin[1]'])[0], x + 2)


def test_inputs_can_be_tapped():
    net, made, seen = taps('head@input', 'act')
    assert torch.equal(
        seen.features(made.taps['head@input'])[0], seen.features(made.taps['act'])[0]
    )


def test_an_output_overwritten_in_place_is_cloned():
    net, made, _ = taps('body')
    with made.record(net) as seen:
        net(torch.randn(2, 3, 4, 4))
    tap = made.taps['body']
    assert float(seen.features(tap)[0].min()) < 0  # before the in-place ReLU
    assert not seen.overwritten(tap)


def test_nothing_stays_alive_after_the_pass():
    net, made, seen = taps('body', 'twin')
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    gone = weakref.ref(seen.features(made.taps['body'])[0])
    del seen
    gc.collect()
    assert gone() is None


def test_two_spellings_of_one_tap_are_one():
    _, made, seen = taps('body', 'body@output')
    assert made.taps['body'] == made.taps['body@output']
    assert len(seen.features(made.taps['body'])) == 1


def test_hooks_are_removed_when_the_forward_fails():
    net = Net()
    made = Taps(specs=['body'], model=net, owner='student')
    with pytest.raises(RuntimeError), made.record(net):
        net(torch.randn(2, 5, 4, 4))
    assert not net.body._forward_hooks


def test_the_pass_ends_at_the_last_wanted_tap():
    net, made, _ = taps('body', 'head', 'twin')
    net.after = False
    with made.record(net, specs=['body', 'head'], stop=True) as seen:
        net(torch.randn(2, 3, 4, 4))
    assert not net.after
    assert len(seen.features(made.taps['head'])) == 2


def test_errors_name_the_path_and_what_is_near():
    with pytest.raises(ConfigError, match="student tap 'bodi'.*nearest: body"):
        Taps(specs=['bodi'], model=Net(), owner='student')
    with pytest.raises(ConfigError, match='never called'):
        taps('idle')
    with pytest.raises(ConfigError, match='index 5, but there are 2 items'):
        taps('twin[5]')


def test_a_feature_that_is_tapped_twice_is_one_after_a_change():
    """Links that meet on it share it: also once the trial has brought it to the CPU."""
    feature, other = torch.ones(2), torch.ones(2)
    taps = [Tap.parse(name) for name in ('neck', 'bbox_head@input', 'backbone')]
    calls = dict(zip(taps, [[[feature]], [[feature, other]], [[other]]], strict=True))
    moved = Recording(calls).map(torch.clone)
    neck, head, backbone = (moved.features(tap) for tap in taps)
    assert neck[0] is head[0] and head[1] is backbone[0]
    assert neck[0] is not feature and neck[0] is not backbone[0]
