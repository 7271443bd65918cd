"""Faults and limits that the control port asks for."""

from __future__ import annotations

import httpx
import pytest
from emulating import advance


async def fault(control: httpx.AsyncClient, **fields: object) -> int:
    response = await control.post("/faults", json=fields)
    assert response.status_code == 201, response.text
    identifier: int = response.json()["id"]
    return identifier


async def names(api: httpx.AsyncClient, search: str) -> list[str]:
    listed = (await api.get("/projects", params={"search": search})).json()["projects"]
    return [project["name"] for project in listed]


async def test_a_fault_answers_instead_of_the_call_as_often_as_it_was_asked_to(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    await fault(control, method="GET", path="/projects", status=503, times=2, headers={"Retry-After": "7"})
    answers = [await api.get("/projects") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert answers[0].json().keys() == {"request_id", "code", "message"}
    assert (await control.get("/faults")).json()["faults"][0]["hits"] == 2


@pytest.mark.parametrize("effect", [False, True])
async def test_an_answer_that_is_dropped_leaves_open_whether_it_happened(
    api: httpx.AsyncClient, control: httpx.AsyncClient, effect: bool
) -> None:
    name = f"dropped-{effect}"
    await fault(control, method="POST", path="/projects", drop=True, effect=effect, times=1)
    with pytest.raises(httpx.TransportError):
        await api.post("/projects", json={"project": {"name": name}})
    assert await names(api, name) == [name] * effect


async def test_a_fault_may_strike_after_the_effect_late_and_by_chance(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    await fault(control, path="/projects", method="POST", status=500, effect=True, delay_after=0.01, times=1)
    assert (await api.post("/projects", json={"project": {"name": "five-hundred"}})).status_code == 500
    assert await names(api, "five-hundred") == ["five-hundred"]
    rolls = []
    for _ in range(2):
        identifier = await fault(control, path="/users/*", status=502, probability=0.5, seed=7)
        rolls.append([(await api.get("/users/me")).status_code for _ in range(20)])
        await control.delete(f"/faults/{identifier}")
    assert rolls[0] == rolls[1]
    assert set(rolls[0]) == {200, 502}
    assert (await control.post("/faults", json={"status": "x"})).status_code == 400


async def test_too_many_requests_are_told_when_to_come_again(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    await control.put("/rate-limit", json={"requests_per_minute": 3})
    answers = [await api.get("/users/me") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    await advance(control, float(answers[3].headers["Retry-After"]))
    assert (await api.get("/users/me")).status_code == 200
