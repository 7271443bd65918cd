"""Operations of the local Neon API take time and keep others out."""

from __future__ import annotations

from emulating import advance, base, branch_path, controlled, endpoint_path

from agentdb_mcp.neon_emulator import Behaviour


async def test_operations_run_one_after_another_and_lock_the_project_meanwhile() -> None:
    behaviour = Behaviour(operation_seconds=60)
    async with controlled(behaviour) as (_, api, control):
        created = (await api.post("/projects", json={"project": {}})).json()
        path = base(created)

        async def statuses() -> list[str]:
            listed = (await api.get(f"{path}/operations")).json()["operations"]
            return [operation["status"] for operation in reversed(listed)]

        assert [operation["status"] for operation in created["operations"]] == ["finished", "scheduling"]
        assert created["endpoints"][0]["current_state"] == "init"
        for refused in (
            await api.patch(path, json={"project": {"name": "x"}}),
            await api.delete(path),
            await api.post(f"{endpoint_path(created)}/suspend"),
            await api.post(f"{branch_path(created)}/roles", json={"role": {"name": "x"}}),
        ):
            assert refused.status_code == 423
            assert "conflicting operations" in refused.json()["message"]
        await advance(control, 20)
        assert await statuses() == ["finished", "running"]
        await advance(control, 50)
        assert await statuses() == ["finished", "finished"]
        assert (await api.patch(path, json={"project": {"name": "x"}})).status_code == 200
