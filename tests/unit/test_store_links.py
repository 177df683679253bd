"""Links that somebody else put into a shared store: what they name is never written to, cut or removed; drafts that are thrown away."""

from __future__ import annotations

import os

import pytest
from made_runs import ENVIRONMENT, kept, measured

from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.store import runs

OLD, OTHER = "20200101T000000000-000000", "20200101T000000001-000000"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty store."""
    folder = tmp_path / "store"
    (folder / "runs").mkdir(parents=True)
    (folder / "drafts").mkdir()
    monkeypatch.setenv("GEMMSTONE_STORE", str(folder))
    return folder


@pytest.fixture
def home(tmp_path):
    """A folder of the user's that has nothing to do with the store."""
    folder = tmp_path / "home"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "letter").write_text("dear")
    os.utime(folder, (0, 0))
    return folder


class TestLinks:
    def test_deleting_a_run_that_is_a_link_removes_the_link(self, store, home):
        (store / "runs" / OLD).symlink_to(home)
        runs.delete(OLD)
        assert not (store / "runs" / OLD).is_symlink()
        assert (home / "inner" / "letter").read_text() == "dear"

    def test_left_overs_that_are_links_go_as_links(self, store, home):
        run = kept([measured()])
        for name in (f".gone-{OLD}", f".gone-{run.id}"):
            (store / "runs" / name).symlink_to(home)
        (store / "drafts" / run.id).symlink_to(home)
        runs.delete(run.id)
        assert os.listdir(store / "runs") == []
        assert runs.all_runs() == []
        assert (home / "inner" / "letter").read_text() == "dear"

    def test_a_link_among_drafts_is_swept_as_a_link(self, store, home):
        (store / "drafts" / OLD).symlink_to(home)
        runs.begin("kernels", environment={}, asked={}).close()
        assert not (store / "drafts" / OLD).is_symlink()
        assert (home / "inner" / "letter").read_text() == "dear"

    def test_a_journal_that_is_a_link_is_not_cut(self, store, home):
        draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        draft.close()
        journal = store / "drafts" / draft.id / "journal"
        journal.unlink()
        journal.symlink_to(home / "inner" / "letter")
        with pytest.raises(BadRequest, match="cannot write"):
            runs.resume(draft.id)
        assert not runs.drafts()[0].busy
        assert (home / "inner" / "letter").read_text() == "dear"


class TestThrownAway:
    def test_a_draft_by_the_beginning_of_its_id(self):
        draft = runs.begin("links", environment=ENVIRONMENT, asked={})
        draft.close()
        assert runs.delete(draft.id[:19]).id == draft.id
        assert runs.drafts() == []

    def test_not_while_it_is_measured(self):
        draft = runs.begin("links", environment=ENVIRONMENT, asked={})
        with pytest.raises(BadRequest, match="by another process"):
            runs.delete(draft.id)
        draft.add(measured())
        assert len(draft.measurements()) == 1

    def test_a_run_is_meant_before_a_draft_and_one_of_many_drafts_is_not_guessed(self):
        drafts = [runs.begin("links", environment=ENVIRONMENT, asked={}) for _ in range(2)]
        for draft in drafts:
            draft.close()
        with pytest.raises(NoAnswer, match="no runs"):
            runs.delete("2")
        with pytest.raises(NoAnswer, match="no runs"):
            runs.delete("")
        run = kept([measured()])
        assert runs.delete("2").id == run.id
        assert len(runs.drafts()) == 2

    def test_the_latest_of_a_kind_is_resumed(self):
        first = runs.begin("kernels", environment=ENVIRONMENT, asked={})
        first.close()
        runs.begin("links", environment=ENVIRONMENT, asked={}).close()
        assert runs.resume("latest", "kernels").id == first.id
        with pytest.raises(BadRequest, match="nothing unfinished of kind ladder"):
            runs.resume("latest", "ladder")
