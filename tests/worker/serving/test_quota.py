"""Places of one worker among several gateways whose messages take their time."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.serving.quota import Quotas


def test_a_worker_that_became_slower_gives_less_than_the_gateways_have() -> None:
    quotas = Quotas()
    for gateway in (0, 1):
        quotas.join(gateway)
    quotas.share(10, {})
    for gateway in (0, 1):
        quotas.confirm(gateway, quotas.quota(gateway), quotas.quota(gateway))
    held = {0: 6, 1: 4}
    quotas.share(5, held)
    assert [quotas.quota(gateway) for gateway in (0, 1)] == [3, 2]
    for gateway in (0, 1):
        quotas.confirm(gateway, quotas.quota(gateway), quotas.quota(gateway))
    quotas.share(10, {0: 3, 1: 2})
    assert sum(quotas.quota(gateway) for gateway in (0, 1)) == 10


@dataclass
class Gateway:
    """Opens whenever its quota allows it; what it says and hears waits in two queues."""

    quota: int = 0
    sessions: int = 0
    heard: deque[int] = field(default_factory=deque)  # quotas on their way to it
    said: deque[tuple[str, int, int]] = field(default_factory=deque)  # on their way to the worker


class World:
    """One worker and its gateways, message by message."""

    def __init__(self, capacity: int, gateways: int, chance: int = 0) -> None:
        self.capacity = capacity
        self.quotas = Quotas(random.Random(chance))
        self.gateways = [Gateway() for _ in range(gateways)]
        self.opened = [0] * gateways  # as the worker knows it
        for number in range(gateways):
            self.quotas.join(number)

    def beat(self) -> None:
        self.quotas.share(self.capacity, dict(enumerate(self.opened)))
        for number, gateway in enumerate(self.gateways):
            gateway.heard.append(self.quotas.quota(number))

    def hear(self, number: int) -> None:
        gateway = self.gateways[number]
        if gateway.heard:
            gateway.quota = gateway.heard.popleft()
            gateway.said.append(("confirm", gateway.quota, gateway.sessions))

    def arrive(self, number: int) -> None:
        gateway = self.gateways[number]
        if gateway.said:
            what, first, second = gateway.said.popleft()
            if what == "confirm":
                self.quotas.confirm(number, first, second)
            else:
                self.opened[number] += first

    def call(self, number: int) -> bool:
        gateway = self.gateways[number]
        if gateway.sessions >= gateway.quota:
            return False
        gateway.sessions += 1
        gateway.said.append(("sessions", 1, 0))
        return True

    def hang_up(self, number: int) -> None:
        gateway = self.gateways[number]
        if gateway.sessions:
            gateway.sessions -= 1
            gateway.said.append(("sessions", -1, 0))

    def settle(self) -> None:
        for _ in range(8):
            self.beat()
            for number, gateway in enumerate(self.gateways):
                while gateway.heard or gateway.said:
                    self.hear(number)
                    self.arrive(number)

    @property
    def sessions(self) -> int:
        return sum(gateway.sessions for gateway in self.gateways)


STEPS = st.lists(
    st.tuples(st.sampled_from(["beat", "hear", "arrive", "call", "call", "hang_up"]), st.integers(0, 3)), max_size=200
)


@given(capacity=st.integers(1, 12), gateways=st.integers(1, 4), chance=st.integers(0, 99), steps=STEPS)
def test_together_they_never_have_more_than_was_measured(
    capacity: int, gateways: int, chance: int, steps: list[tuple[str, int]]
) -> None:
    world = World(capacity, gateways, chance)
    for what, number in steps:
        if what == "beat":
            world.beat()
        else:
            getattr(world, what)(number % gateways)
        assert world.sessions <= capacity


@given(capacity=st.integers(1, 12), gateways=st.integers(1, 4), chance=st.integers(0, 99), steps=STEPS)
def test_when_messages_have_arrived_every_place_is_somebody_s(
    capacity: int, gateways: int, chance: int, steps: list[tuple[str, int]]
) -> None:
    world = World(capacity, gateways, chance)
    for what, number in steps:
        if what == "beat":
            world.beat()
        else:
            getattr(world, what)(number % gateways)
    world.settle()
    assert sum(gateway.quota for gateway in world.gateways) == capacity


def test_a_quota_that_was_lowered_below_what_its_gateway_has_rises_again() -> None:
    """Or the gateway would move a session away for which there is a place."""
    world = World(2, 2)
    world.settle()
    assert [gateway.quota for gateway in world.gateways] == [1, 1]
    assert world.call(0)
    assert world.call(1)
    world.arrive(0)
    world.beat()  # the second's call has not arrived: its place would go to the first
    world.settle()
    assert world.opened == [1, 1]
    assert [gateway.quota for gateway in world.gateways] == [1, 1]


def test_one_gateway_has_them_all_and_two_have_half_each() -> None:
    alone, pair = World(8, 1), World(8, 2)
    alone.settle()
    pair.settle()
    assert [gateway.quota for gateway in alone.gateways] == [8]
    assert [gateway.quota for gateway in pair.gateways] == [4, 4]


def test_places_follow_the_callers() -> None:
    world = World(8, 2)
    world.settle()
    for _ in range(8):  # all knock at one door
        world.call(0)
        world.settle()
    assert [gateway.sessions for gateway in world.gateways] == [8, 0]
    for _ in range(8):
        world.hang_up(0)
    world.settle()
    assert [gateway.quota for gateway in world.gateways] == [4, 4]


def test_a_gateway_that_is_gone_leaves_its_places_to_the_others() -> None:
    world = World(6, 2)
    world.settle()
    for _ in range(3):
        assert world.call(0)
    world.settle()
    world.quotas.leave(0)
    del world.gateways[0]
    world.quotas.leave(1)
    world.quotas.join(1)
    world.quotas.share(6, {1: 0})
    assert world.quotas.quota(1) == 6


def test_a_worker_that_became_slower_takes_free_places_back_and_gives_them_again() -> None:
    world = World(8, 2)
    world.settle()
    for _ in range(3):
        world.call(0)
    world.capacity = 4
    world.settle()
    assert [gateway.quota for gateway in world.gateways] == [4, 0]  # three it has, and the odd one
    world.capacity = 8
    world.settle()
    assert sum(gateway.quota for gateway in world.gateways) == 8


def test_with_more_gateways_than_places_each_has_some_at_some_worker() -> None:
    worlds = [World(4, 16, chance) for chance in range(60)]
    for world in worlds:
        world.settle()
    for number in range(16):  # by bad luck each would be passed over by all once in 3e7 such sixties
        assert sum(world.gateways[number].quota for world in worlds) > 0
