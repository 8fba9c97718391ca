"""Plans of steps: the order of each method, its cost, and guidance where it is wanted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worker.models.seedvc import dit, flow
from worker.models.seedvc.plan import METHODS, Method, Plan, PlannedSolver, integrate
from worker.models.seedvc2 import dit as dit2
from worker.models.seedvc2 import flow as flow2


def decay(plan: Plan) -> float:
    """Error at time 1 of x' = -x cos(t)-like decay from 1, whose solution is known."""
    times = plan.evaluated

    def velocity(x: Tensor, number: int, guided: bool) -> Tensor:
        return -x * math.cos(times[number])

    made = integrate(torch.ones(1, 1, 1, dtype=torch.float64), plan, velocity, torch.ones(1, dtype=torch.bool))
    return abs(made.item() - math.exp(-math.sin(1.0)))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_twice_the_steps_of_a_method_of_order_n_have_a_2_to_the_nth_of_its_error(method: Method, order: int) -> None:
    coarse, fine = (decay(Plan.of(steps, "linear", method)) for steps in (32, 64))
    assert coarse / fine == pytest.approx(2**order, rel=0.1)


def test_heun_is_nearer_than_euler_at_the_same_cost() -> None:
    heun = Plan.of(16, "linear", "heun")
    assert heun.evaluations() == 31  # the last step is Euler's
    assert decay(heun) < decay(Plan.of(31, "linear")) / 5


def test_cost_in_evaluations() -> None:
    assert [Plan.of(4, "linear", method).evaluations() for method in METHODS] == [4, 8, 7]
    assert Plan.of(4, "linear").evaluations(branches=3) == 12
    assert Plan((0.0, 0.25, 0.5, 0.75, 1.0), guided=(0.25, 0.75)).evaluations(branches=3) == 1 + 3 + 3 + 1
    assert Plan((0.0, 0.5, 1.0), "midpoint").evaluated == (0.0, 0.25, 0.5, 0.75)


@pytest.mark.parametrize("times", [(0.0,), (0.0, 0.5), (0.1, 1.0), (0.0, 0.6, 0.4, 1.0)])
def test_times_rise_from_0_to_1(times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="times must rise from 0 to 1"):
        Plan(times)


def given(width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 8, 20), (2, 20, width), (2, 8, 5), (2, 16))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_eulers_plan_is_the_solver_that_there_is(guidance: float) -> None:
    torch.manual_seed(0)
    network = dit.DiT(dit.DiTConfig(8, 64, 1, tokens=True, wavenet=False, style_width=16)).eval()
    lens, prompt_lens = torch.tensor([20, 14]), torch.tensor([5, 3])
    usual = flow.FlowSolver(network, steps=3, guidance=guidance)(*given(64), lens, prompt_lens)
    planned = PlannedSolver(network, Plan.of(3), guidance)
    torch.testing.assert_close(planned(*given(64), lens, prompt_lens), usual, atol=1e-5, rtol=1e-5)
    unguided = PlannedSolver(network, Plan(Plan.of(3).times, guided=(1.0, 1.0)), guidance)
    plain = flow.FlowSolver(network, steps=3, guidance=0.0)(*given(64), lens, prompt_lens)
    torch.testing.assert_close(unguided(*given(64), lens, prompt_lens), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rates", [flow2.Rates(0.7, 0.5), flow2.Rates(0.7, 0.5, anonymous=True), flow2.Rates(0, 0)])
def test_v2_follows_plans_too(rates: flow2.Rates) -> None:
    torch.manual_seed(0)
    network = dit2.DiT2(dit2.DiT2Config(mel_bins=8, width=64, depth=1, inner=96, style_width=16)).eval()
    lens, prompt_lens = torch.tensor([20, 14]), torch.tensor([5, 3])
    usual = flow2.FlowSolver2(network, steps=3, rates=rates)(*given(64), lens, prompt_lens)
    planned = flow2.FlowSolver2(network, steps=3, rates=rates, plan=Plan.of(3))
    torch.testing.assert_close(planned(*given(64), lens, prompt_lens), usual, atol=1e-5, rtol=1e-5)
    half = flow2.FlowSolver2(network, steps=3, rates=rates, plan=Plan(Plan.of(3).times, "midpoint", (0.2, 0.6)))
    assert half(*given(64), lens, prompt_lens).isfinite().all()
