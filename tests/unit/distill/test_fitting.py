"""The shared loop: repeatable, resumable to the bit, the same whatever is accumulated or shared among processes."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from torch import multiprocessing, nn

from stillhouse.distill.fitting import Epoch, fit, mixed, schedule, shuffled
from stillhouse.models.port import ModelError

X = torch.linspace(-2, 2, 48)[:, None]
Y = torch.sin(X)


class Killed(Exception):
    """Stands for the process being killed."""


class Net(nn.Module):
    """Two layers with dropout, which draws, and a buffer that counts what it saw."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.layers(x)


def learn(net, *, kill_after=None, size=8, epochs=6, **settings):
    said: list[Epoch] = []

    def on_progress(epoch: Epoch) -> None:
        said.append(epoch)
        if epoch.epoch == kill_after:
            raise Killed

    fit(
        net,
        lambda epoch, seed: shuffled(len(X), size, seed),
        lambda places, done: (net(X[places]) - Y[places]).pow(2).mean(),
        on_progress=on_progress,
        **{"epochs": epochs, "rate": 0.02, "seed": 3} | settings,
    )
    return said


def same(one, other) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_it_learns_and_is_the_same_for_the_same_seed() -> None:
    first, second, other = Net(), Net(), Net()
    said = learn(first)
    torch.rand(5)
    learn(second)
    learn(other, seed=4)
    assert said[-1].train_loss < 0.5 * said[0].train_loss
    assert same(first, second)
    assert not same(first, other)
    assert not first.training


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, epoch) -> None:
    whole, killed, resumed = Net(), Net(), Net()
    learn(whole)
    with pytest.raises(Killed):
        learn(killed, checkpoint_dir=tmp_path, run="a", kill_after=epoch)
    said = learn(resumed, checkpoint_dir=tmp_path, run="a")
    assert [one.epoch for one in said] == list(range(epoch + 1, 7))
    assert same(whole, resumed)
    assert float(resumed.seen) == 6 * len(X)  # buffers are a part of it
    anew = Net()
    assert len(learn(anew, checkpoint_dir=tmp_path, run="b")) == 6


def test_the_best_epoch_is_kept_and_training_stops_without_a_better_one(tmp_path) -> None:
    losses = iter([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    net, weights = Net(0.0), []

    def select() -> float:
        assert not net.training
        weights.append({name: value.clone() for name, value in net.state_dict().items()})
        return next(losses)

    said = learn(net, select=select)
    assert [one.select_loss for one in said] == [5.0, 3.0, 4.0, 4.0, 4.0]  # patience of 3
    assert all(torch.equal(value, weights[1][name]) for name, value in net.state_dict().items())
    losses = iter([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    kept = Net(0.0)
    fit_select = iter([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    learn(kept, select=lambda: next(fit_select), checkpoint_dir=tmp_path)
    assert same(net, kept)


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "on disk"])
def test_the_state_before_the_first_epoch_may_be_the_best(tmp_path, kept) -> None:
    settings = {"checkpoint_dir": tmp_path, "run": "a"} if kept else {}
    losses = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    net, untaught = Net(0.0), Net(0.0)
    said = learn(net, select=lambda: next(losses), keep_start=True, **settings)
    assert [one.select_loss for one in said] == [2.0, 3.0, 4.0]  # patience of 3, since the start
    assert all(torch.equal(value, untaught.state_dict()[name]) for name, value in net.named_parameters())
    losses = iter([5.0, 2.0, 3.0, 4.0, 5.0])
    other = Net(0.0)
    learn(other, select=lambda: next(losses), keep_start=True, **settings | {"run": "b"})
    assert not torch.equal(other.layers[0].weight, untaught.layers[0].weight)
    if kept:  # a finished run asks no more, and is what it was
        again = Net(0.0)
        assert learn(again, select=lambda: next(iter([])), keep_start=True, **settings | {"run": "b"}) == []
        assert same(again, other)


def test_accumulated_batches_are_one_larger_batch() -> None:
    small, large = Net(0.0), Net(0.0)
    learn(small, size=4, accumulate=4)
    learn(large, size=16)
    for name, value in small.named_parameters():
        assert value.detach().numpy() == pytest.approx(dict(large.named_parameters())[name].detach().numpy(), abs=1e-5)


def test_bfloat16_learns_with_weights_in_float32() -> None:
    net = Net(0.0)
    said = learn(net, bf16=True)
    assert said[-1].train_loss < 0.5 * said[0].train_loss
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    exact = Net(0.0)
    assert learn(exact)[-1].train_loss != said[-1].train_loss


def test_single_parameters_have_rates_of_their_own_and_gradients_are_clipped() -> None:
    net, before = Net(0.0), Net(0.0)
    learn(net, rate_of=lambda name: 0.0 if name.startswith("layers.0") else 1.0, weight_decay=0.0)
    assert torch.equal(net.layers[0].weight, before.layers[0].weight)
    assert not torch.equal(net.layers[3].weight, before.layers[3].weight)
    norms = []
    clipped = Net(0.0)
    clipped.layers[3].weight.register_post_accumulate_grad_hook(lambda p: norms.append(float(p.grad.norm())))
    learn(clipped, clip=1e-9)
    assert max(norms) > 1e-3
    assert not same(clipped, net)


def test_schedules_are_told_how_much_is_done() -> None:
    seen = []
    net = Net(0.0)

    def loss(places, done):
        seen.append(done)
        return (net(X[places]) - Y[places]).pow(2).mean()

    fit(net, lambda epoch, seed: shuffled(48, 16, seed), loss, epochs=2, rate=0.01, seed=0)
    assert seen == pytest.approx([i / 6 for i in range(6)])
    assert [schedule(step, 20) for step in (1, 2)] == [0.5, 1.0]
    assert schedule(20, 20) == pytest.approx(0.0)
    assert mixed(1, 0) != mixed(1, 1)


def test_divergence_and_nothing_to_learn_are_said() -> None:
    with pytest.raises(ModelError, match="diverged in epoch 1; set a learning_rate below"):
        learn(Net(), rate=1e38)
    frozen = Net().requires_grad_(False)
    with pytest.raises(ModelError, match="Nothing in the module learns"):
        learn(frozen)


def _one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    try:
        net = Net(0.0)
        if rank == 1:  # other weights, which the first process's replace
            net.layers[0].weight.data.zero_()
        learn(net, size=8, accumulate=2, epochs=3)
        torch.save(net.state_dict(), os.path.join(folder, f"{rank}.pt"))
        if rank == 0:
            with pytest.raises(ModelError, match="A step has 1 batches for 2 processes"):
                learn(net)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_one_of_two, args=(port, str(tmp_path)), nprocs=2)
    alone = Net(0.0)
    learn(alone, size=8, accumulate=2, epochs=3)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in alone.named_parameters():
        assert torch.equal(parts[0][name], parts[1][name])
        assert parts[0][name].numpy() == pytest.approx(value.detach().numpy(), abs=1e-6)
