"""`/models`: what callers may ask of a model is what all its workers take."""

from __future__ import annotations

from ..conftest import Service


async def test_options_are_told_within_the_limits_of_all_workers_of_a_model(service: Service) -> None:
    await service.worker(worker_id="a", options={"steps": [1, 10], "guidance": [0, 3], "f0_shift": [-12, 12]})
    await service.worker(worker_id="b", options={"steps": [2, 8], "f0_shift": [-24, 6]})
    async with service.http.get(service.url.replace("ws", "http", 1) + "/models") as answer:
        (model,) = (await answer.json())["models"]
    assert model["options"] == {"steps": [2, 8], "f0_shift": [-12, 6]}
