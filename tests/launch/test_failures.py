"""Which of several failures is the one to report, and how it reads."""

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from engine.errors import InvalidInput, PeerLost, RankFailure
from launch.process.failures import Failure, describe, record, root_cause
from launch.process.hangs import RankState


@dataclass
class Ended:
    local_rank: int
    exitcode: int


class Scene:
    """Ranks that ended badly, as elastic leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: dict[int, Ended] = {}

    def rank(
        self,
        rank: int,
        exitcode: int,
        failure: Failure | None = None,
        phase: str = "",
        state: RankState | None = None,
        words: str = "",
    ) -> "Scene":
        folder = self.folder / "run_x" / "attempt_0" / str(rank)
        folder.mkdir(parents=True)
        if failure:
            (folder / "error.json").write_text(json.dumps({"lockstep": asdict(failure)}))
        if phase:
            (folder / "phase").write_text(phase.ljust(64))
        if state:
            (folder / "state.json").write_text(json.dumps(asdict(state)))
        if words:
            (folder / "stderr.log").write_text(words)
        self.ended[rank] = Ended(rank, exitcode)
        return self

    @property
    def cause(self) -> Failure:
        return root_cause(self.ended, self.folder)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def lost(rank: int, time_ns: int) -> Failure:
    return Failure(rank, "decode", "lost contact", time_ns, consequence=True)


def test_the_first_failure_counts_to_the_nanosecond(scene: Scene) -> None:
    scene.rank(0, 1, Failure(0, "load", "b", 2)).rank(1, 1, Failure(1, "load", "a", 1))
    assert scene.cause.rank == 1


def test_lost_contact_is_never_the_cause_of_a_failure(scene: Scene) -> None:
    scene.rank(0, 1, lost(0, 1)).rank(1, 1, Failure(1, "encode", "bad", 2)).rank(2, -signal.SIGTERM)
    assert str(scene.cause) == "rank 1 failed in encode: bad"


def test_a_killed_rank_is_the_cause_of_lost_contact(scene: Scene) -> None:
    scene.rank(0, 1, lost(0, 1)).rank(1, -signal.SIGKILL, phase="denoise step 7").rank(2, -signal.SIGTERM)
    assert str(scene.cause) == "rank 1 failed in denoise step 7: the process was ended by SIGKILL"


def test_ranks_that_the_launcher_ended_are_not_to_blame(scene: Scene) -> None:
    scene.rank(0, -signal.SIGTERM).rank(1, 1, lost(1, 5))
    assert scene.cause.rank == 1


WATCHDOG = (
    "[rank1]:[E1128 06:26:57 ProcessGroupNCCL.cpp:683] [Rank 1] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=71, OpType=ALLGATHER, NumelIn=9) ran for 300041 milliseconds before timing out.\n"
    "terminate called after throwing an instance of 'c10::DistBackendError'\n"
)
WAITS = ("engine/denoise/loop.py:40 denoise: agreed = ...", "parallel/agreement.py:100 agree: rows = x.tolist()")
HANGS = ("engine/denoise/loop.py:30 denoise: x = embed()", "models/wan.py:12 forward: return self.proj(x)")


def test_a_rank_that_torchs_watchdog_has_ended_is_not_to_blame(scene: Scene) -> None:
    """The hung rank gets the launcher's SIGTERM, as do those whose watchdog has not acted yet."""
    scene.rank(
        0, -signal.SIGABRT, phase="denoise step 7", state=RankState("denoise step 7", 300, WAITS), words=WATCHDOG
    )
    scene.rank(1, -signal.SIGTERM, phase="denoise step 7", state=RankState("denoise step 7", 300, WAITS))
    scene.rank(2, -signal.SIGTERM, phase="denoise step 7", state=RankState("denoise step 7", 299, HANGS))
    assert str(scene.cause) == (
        "rank 2 failed in denoise step 7: others have waited for it, and it has not got on: "
        "it was in models/wan.py:12, forward"
    )


def test_all_but_one_have_waited_in_vain(scene: Scene) -> None:
    late = describe(RuntimeError("Timed out waiting 3000ms for recv operation to complete"), 2, "decode")
    scene.rank(0, -signal.SIGABRT, words=WATCHDOG).rank(1, -signal.SIGTERM, phase="decode").rank(2, 1, late)
    assert str(scene.cause) == ("rank 1 failed in decode: it has not got on, and the others have waited for it in vain")
    other = "rank 0 failed in start: the process was ended by SIGABRT (free(): invalid pointer)"
    again = (
        Scene(scene.folder / "again").rank(0, -signal.SIGABRT, words="free(): invalid pointer").rank(1, 1, lost(1, 5))
    )
    assert str(again.cause) == other, "an abort of another kind is a failure of its own"


def test_only_waits_are_known(scene: Scene) -> None:
    """Where it cannot be told who hangs, none is said to have failed by itself."""
    scene.rank(0, -signal.SIGABRT, words=WATCHDOG).rank(1, -signal.SIGTERM).rank(2, -signal.SIGTERM)
    assert str(scene.cause).startswith("rank 0 failed in start: lost contact with another rank (it has waited")


def test_a_failure_that_names_another_rank(scene: Scene) -> None:
    """As the watch of a rank writes it that waits for another."""
    hung = Failure(2, "denoise step 3", "it has not got on", 7)
    scene.rank(0, 1, hung).rank(1, 1, hung).rank(2, -signal.SIGTERM)
    assert str(scene.cause) == "rank 2 failed in denoise step 3: it has not got on"


def test_a_rank_that_ends_without_a_word_is_named_all_the_same(scene: Scene) -> None:
    assert str(scene.rank(3, 7).cause) == "rank 3 failed in start: the process ended with exit code 7"


def test_invalid_input_keeps_its_exit_code_and_its_words(scene: Scene) -> None:
    cause = scene.rank(0, 2, describe(InvalidInput("Bad."), 0, "load")).cause
    assert (str(cause), cause.exit_code) == ("Bad.", 2)


@pytest.mark.parametrize(
    ("error", "message", "consequence"),
    [
        (
            RuntimeError("[/a/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3421"),
            "lost contact with another rank (Connection closed by peer)",
            True,
        ),
        (
            RuntimeError("[/a/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation"),
            "lost contact with another rank (Timed out waiting 3000ms for recv operation)",
            True,
        ),
        (
            ConnectionResetError("Connection reset by peer"),
            "lost contact with another rank (Connection reset by peer)",
            True,
        ),
        (PeerLost("The first rank failed to write."), "The first rank failed to write.", True),
        (RankFailure("The timeout is not\nthe matter."), "The timeout is not the matter.", False),
        (RuntimeError("shape '[2]' is invalid"), "RuntimeError: shape '[2]' is invalid", False),
        (ValueError("It is 3: use 4."), "It is 3: use 4.", False),
        (KeyError(), "KeyError", False),
    ],
)
def test_an_exception_in_words(error: Exception, message: str, consequence: bool) -> None:
    failure = describe(error, 1, "decode")
    assert (failure.message, failure.consequence) == (message, consequence)
    assert str(failure) == f"rank 1 failed in decode: {message}"


def test_a_long_message_is_cut() -> None:
    assert len(str(describe(RuntimeError("x" * 5000), 0, "load"))) < 500


def test_elastic_reads_the_record_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    failure = describe(RuntimeError("bad"), 1, "load")
    record(failure)
    read = ProcessFailure(local_rank=1, pid=1, exitcode=1, error_file=str(file))
    assert read.timestamp == failure.time_ns // 10**9
    assert read.message["message"] == "rank 1 failed in load: RuntimeError: bad"
