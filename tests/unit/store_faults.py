"""Runs a store's steps in processes that are killed at every one of them, and says what was left; started by test_store_faults.

Every call that changes something on the disk, or opens or closes a file, is a step. At the k-th the process is killed (a write
gets half of its bytes out first) or the call fails, for k = 1, 2, ... until all steps were taken. What was left is checked by
another process, as a user's next command would find it.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from made_runs import ENVIRONMENT, full, measured

from gemmstone.core.errors import GemmstoneError
from gemmstone.store import runs

STEPS = ("open", "write", "fsync", "mkdir", "rename", "ftruncate", "unlink", "rmdir", "close")
MEASURED = [measured(seed=1), full(seed=2), measured(seed=3)]
BITS = [one.samples_s.tobytes() for one in MEASURED]
Act = Callable[[Callable[[str], None]], None]


def die(name: str, real: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Kills this process, in the middle of a write."""
    if name == "write":
        real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])  # type: ignore[call-overload, arg-type]
    os.kill(os.getpid(), signal.SIGKILL)


def fail(name: str, real: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Fails as a full disk does, in the middle of a write."""
    if name == "write":
        real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])  # type: ignore[call-overload, arg-type]
    if name == "close":
        real(*arguments)  # a descriptor is closed whatever close says
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def child(act: Act, at: int, trouble: Callable[..., None]) -> tuple[list[str], int]:
    """What a process said before it ended, and how: it acts and is in trouble at the at-th step."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        tell = partial(_tell, send, write=os.write)
        left = [at]

        def watched(name: str, real: Callable[..., object]) -> Callable[..., object]:
            def step(*arguments: object, **named: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    trouble(name, real, arguments)
                return real(*arguments, **named)

            return step

        for name in STEPS:
            setattr(os, name, watched(name, getattr(os, name)))
        try:
            act(tell)
        except GemmstoneError as error:
            tell(f"refused {error}")
        except BaseException as error:
            tell(f"unexpected {error!r}")
        os._exit(0 if left[0] > 0 else 3)
    os.close(send)
    with open(receive, encoding="utf-8") as pipe:
        said = pipe.read().splitlines()
    return said, os.waitpid(pid, 0)[1]


def begin_add_commit(say: Callable[[str], None]) -> None:
    """A whole measurement session, which says what it was told is kept."""
    draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
    say("begun")
    for one in MEASURED:
        draft.add(one)
        say("kept")
    draft.commit(summary={})
    say("saved")


def resume_commit(say: Callable[[str], None]) -> None:
    """A session that goes on after all was measured."""
    runs.resume("latest").commit(summary={})
    say("saved")


def delete(say: Callable[[str], None]) -> None:
    """The newest run is removed."""
    runs.delete("latest")
    say("deleted")


def discard(say: Callable[[str], None]) -> None:
    """The draft is thrown away."""
    runs.delete("2")
    say("deleted")


def look(said: list[str]) -> str:
    """What a later process finds: run, draft or nothing. Checks that nothing was lost that was said to be kept."""
    found, problems = runs.scan()
    assert problems == [], problems
    kept = said.count("kept")
    if found:
        (run,) = found
        assert [one.samples_s.tobytes() for one in runs.measurements(run)] == BITS
        assert runs.drafts() == []
        return "run"
    assert "saved" not in said, "a run that was said to be saved is lost"
    drafts = runs.drafts()
    if not drafts:
        assert "begun" not in said, "a draft that was begun is lost"
        return "nothing"
    bits = [one.samples_s.tobytes() for one in drafts[0].measurements()]
    assert kept <= len(bits) <= kept + 1, (kept, len(bits))
    assert bits == BITS[: len(bits)]
    draft = runs.resume("latest")
    for one in MEASURED[len(bits) :]:
        draft.add(one)
    assert [one.samples_s.tobytes() for one in runs.measurements(draft.commit(summary={}))] == BITS
    assert runs.drafts() == []
    return "draft"


ACTS: dict[str, Act] = {
    "session": begin_add_commit,
    "commit": resume_commit,
    "delete": delete,
    "discard": discard,
}


def every_step(folder: Path, act: str, trouble: Callable[..., None]) -> None:
    """Troubles at each step in turn, a store of its own for each."""
    outcomes: list[str] = []
    for at in range(1, 1000):
        os.environ["GEMMSTONE_STORE"] = str(folder / str(at))
        (folder / str(at)).mkdir(parents=True)
        said: list[str] = []
        if act != "session":
            draft = runs.begin("kernels", environment=ENVIRONMENT, asked={})
            for one in MEASURED:
                draft.add(one)
            said = ["begun", "kept", "kept", "kept"]
            draft.commit(summary={}) if act == "delete" else draft.close()
        more, status = child(ACTS[act], at, trouble)
        assert not any(word.startswith("unexpected") for word in more), more
        if act in ("delete", "discard"):
            there, problems = runs.scan()
            assert problems == [], problems
            gone = not (there if act == "delete" else runs.drafts())
            assert gone or "deleted" not in more
            outcomes.append("nothing" if gone and not runs.drafts() else look(said))
            assert gone == (outcomes[-1] == "nothing"), "a deleted run came back"
        else:
            outcomes.append(look(said + more))
        if status == 0:
            break
    else:
        raise AssertionError("it never came to its end")
    print(
        act,
        trouble.__name__,
        len(outcomes),
        *(f"{word}={outcomes.count(word)}" for word in ("nothing", "draft", "run")),
    )


def _tell(pipe: int, word: str, write: Callable[[int, bytes], int] = os.write) -> None:
    write(pipe, f"{word}\n".encode())


def at_random(folder: Path, times: int, seed: int) -> None:
    """Sessions killed from outside, at times that chance chooses."""
    chance, counts = random.Random(seed), {"nothing": 0, "draft": 0, "run": 0}
    started = time.monotonic()
    os.environ["GEMMSTONE_STORE"] = str(folder / "undisturbed")
    begin_add_commit(lambda _: None)
    takes_s = time.monotonic() - started
    for number in range(times):
        os.environ["GEMMSTONE_STORE"] = str(folder / f"random-{number}")
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            begin_add_commit(partial(_tell, send))
            os._exit(0)
        os.close(send)
        time.sleep(chance.uniform(0.0, 1.2 * takes_s))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(receive, encoding="utf-8") as pipe:
            counts[look(pipe.read().splitlines())] += 1
    print("random", times, *(f"{word}={count}" for word, count in counts.items()))


if __name__ == "__main__":
    where, what, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if what == "random":
        at_random(where, int(how), seed=6)
    else:
        every_step(where, what, {"die": die, "fail": fail}[how])
