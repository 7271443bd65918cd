"""What `reconcile` would do about a difference between the provider's projects and our rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.models import AccessMode, DatabaseStatus, Ownership, Project, Scope
from agentdb_mcp.services.reconcile import SETTLED_S, Kind, plan
from agentdb_mcp.store import DatabaseRow, Inventory

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PENDING, PROVISIONING, READY, DELETING, _ = DatabaseStatus


def project(name: str = "agent-w", project_id: str = "p1", age_s: float = SETTLED_S) -> Project:
    return Project(project_id, name, created_at=(NOW - timedelta(seconds=age_s)).isoformat())


def entry(
    status: DatabaseStatus = READY,
    *,
    project_id: str | None = "p1",
    leased: bool = False,
    idle_s: float = SETTLED_S,
    ownerless: bool = False,
    archived_s: float | None = None,
    ownership: Ownership = Ownership.PLATFORM,
    abandoned: bool = False,
) -> Inventory:
    row = DatabaseRow(
        id="r", scope=Scope.AGENT, owner_id="w", user_id="u", project_name="agent-w", status=status,
        ownership=ownership, access_mode=AccessMode.UNRESTRICTED, project_id=project_id, branch_id=None, uri=None,
        database_name=None, role_name=None, generation=1, fence=1,
    )  # fmt: skip
    return Inventory(row, leased, idle_s, ownerless, archived_s, abandoned)


def kinds(projects: list[Project], rows: list[Inventory]) -> list[tuple[Kind, str | None]]:
    return [(finding.kind, finding.project_id) for finding in plan(projects, rows, NOW)]


def test_a_ready_row_with_its_project_is_as_it_should_be() -> None:
    assert kinds([project()], [entry()]) == []


def test_a_ready_row_whose_lease_ran_out_was_left_in_the_middle_of_a_checkpoint() -> None:
    assert kinds([project()], [entry(abandoned=True)]) == [(Kind.INTERRUPTED, "p1")]
    assert kinds([project()], [entry(leased=True)]) == []
    assert kinds([], [entry(abandoned=True)]) == [(Kind.LOST, "p1")]


def test_a_project_that_no_row_wants_is_an_orphan() -> None:
    assert kinds([project(), project("global-u", "p2")], [entry()]) == [(Kind.ORPHAN, "p2")]


@pytest.mark.parametrize("name", ["somebody-else", "agent", "agents-w", "my-agent-w", ""])
def test_projects_of_other_names_are_not_ours_to_judge(name: str) -> None:
    assert kinds([project(name)], []) == []


@pytest.mark.parametrize("created_at", [None, "", "yesterday"])
def test_a_project_that_is_young_or_of_unknown_age_may_be_somebodys_work(created_at: str | None) -> None:
    assert kinds([project(age_s=SETTLED_S - 1)], []) == []
    assert kinds([project(), project(project_id="p2", age_s=0)], [entry()]) == []
    assert kinds([Project("p1", "agent-w", created_at=created_at)], []) == []


def test_neons_way_of_writing_a_time_is_understood() -> None:
    assert kinds([Project("p1", "agent-w", created_at="2026-10-31T23:00:00Z")], []) == [(Kind.ORPHAN, "p1")]


def test_every_project_but_the_rows_own_is_a_duplicate() -> None:
    older = project(project_id="p0", age_s=SETTLED_S * 2)
    assert kinds([older, project(), project(project_id="p2")], [entry()]) == [
        (Kind.DUPLICATE, "p0"),
        (Kind.DUPLICATE, "p2"),
    ]


@pytest.mark.parametrize("status", [PENDING, PROVISIONING])
def test_what_rests_half_made_is_completed_whatever_there_is_of_it(status: DatabaseStatus) -> None:
    for there in ([], [project()], [project(), project(project_id="p2")]):
        assert [kind for kind, _ in kinds(there, [entry(status, project_id=None)])] == [Kind.HALF_MADE]


def test_what_rests_half_deleted_is_completed() -> None:
    assert kinds([project()], [entry(DELETING, ownerless=True)]) == [(Kind.HALF_DELETED, "p1")]


@pytest.mark.parametrize("status", [PENDING, PROVISIONING, DELETING])
def test_what_somebody_worked_on_just_now_is_left_to_them(status: DatabaseStatus) -> None:
    assert kinds([project()], [entry(status, idle_s=SETTLED_S - 1)]) == []


@pytest.mark.parametrize("status", [PENDING, PROVISIONING, READY, DELETING])
def test_a_row_on_which_somebody_holds_a_lease_is_left_alone(status: DatabaseStatus) -> None:
    assert kinds([project(), project(project_id="p2")], [entry(status, leased=True, ownerless=True)]) == []


@pytest.mark.parametrize("status", [PENDING, PROVISIONING, READY])
def test_a_database_whose_owner_is_gone_goes_too(status: DatabaseStatus) -> None:
    assert kinds([project()], [entry(status, ownerless=True)]) == [(Kind.OWNERLESS, "p1")]


def test_a_ready_row_without_its_project_has_lost_it() -> None:
    assert kinds([], [entry()]) == [(Kind.LOST, "p1")]
    older = project(project_id="p2", age_s=SETTLED_S * 2)
    assert kinds([older], [entry()]) == [(Kind.LOST, "p1"), (Kind.DUPLICATE, "p2")]


@pytest.mark.parametrize("status", [READY, DELETING])
def test_a_newer_project_in_the_place_of_the_rows_own_means_that_the_row_is_an_older_copy(
    status: DatabaseStatus,
) -> None:
    row = entry(status, idle_s=SETTLED_S * 3)
    assert kinds([project(project_id="p2")], [row]) == [(Kind.REPLACED, "p2")]
    assert Kind.REPLACED not in dict(kinds([project(project_id="p2", age_s=0)], [row]))
    assert Kind.REPLACED not in dict(kinds([project(), project(project_id="p2")], [row]))
    gone = entry(status, idle_s=SETTLED_S * 3, ownerless=True)
    assert Kind.REPLACED not in dict(kinds([project(project_id="p2")], [gone]))


def test_a_database_that_a_user_brought_has_no_project_to_miss() -> None:
    assert kinds([project(project_id="p2")], [entry(ownership=Ownership.USER, project_id=None)]) == []


names = st.sampled_from(["agent-w", "agent-x", "global-u", "other"])
projects = st.lists(
    st.builds(project, names, st.integers(1, 9).map(lambda n: f"p{n}"), st.floats(0, SETTLED_S * 2)),
    unique_by=lambda each: each.id,
)
entries = st.builds(
    entry,
    st.sampled_from([PENDING, PROVISIONING, READY, DELETING]),
    project_id=st.none() | st.just("p1"),
    leased=st.booleans(),
    idle_s=st.floats(0, SETTLED_S * 2),
    ownerless=st.booleans(),
    ownership=st.sampled_from(Ownership),
)


@given(projects, entries)
def test_the_project_of_a_live_row_is_never_to_be_deleted_for_its_own_sake(
    listed: list[Project], known: Inventory
) -> None:
    condemned = {
        finding.project_id
        for finding in plan(listed, [known], NOW)
        if finding.kind in {Kind.ORPHAN, Kind.DUPLICATE} and finding.project_name == known.row.project_name
    }
    assert known.row.project_id not in condemned
    if known.row.status is not READY:
        assert not condemned


@pytest.mark.parametrize(
    ("status", "archived_s", "found"),
    [
        (READY, 99.0, []),
        (READY, 100.0, [(Kind.OWNERLESS, "p1")]),
        (PENDING, 99.0, []),
        (PROVISIONING, 101.0, [(Kind.OWNERLESS, "p1")]),
        (DELETING, 1.0, [(Kind.HALF_DELETED, "p1")]),
    ],
)
def test_an_archived_workspaces_database_is_kept_for_its_days_and_not_completed(
    status: DatabaseStatus, archived_s: float, found: list[tuple[Kind, str | None]]
) -> None:
    seen = plan([project()], [entry(status, archived_s=archived_s)], NOW, archived_keep_s=100.0)
    assert [(finding.kind, finding.project_id) for finding in seen] == found
