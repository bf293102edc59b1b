"""The server of one gang: `python -m launch.cluster.serve CONFIG ...`, which `launch.cluster` runs.

It writes a line to stderr for each event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from engine.errors import InvalidInput, sentence
from engine.storage.private import create_private_file
from launch.cluster.__main__ import ORDERLY, RAY_LOST
from launch.cluster.reply import Reply
from launch.cluster.setup import Setup
from launch.cluster.stopping import StopRequest
from launch.process.quiet import quiet_libraries
from launch.process.running import leave, run
from launch.process.signals import Interrupted, die_with_parent, say
from launch.process.stamps import stamped
from launch.process.threads import spin_briefly
from launch.queue.records import GangState

if TYPE_CHECKING:
    from launch.gang.connection import RayConnection

_RETRY_SECONDS = 5.0
_LOCK_SECONDS = 5.0  # for which a call to the queue waits for others; it is made again after that

T = TypeVar("T")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def serve(
    config: str,
    state: Annotated[Path, typer.Option("--state")],
    log: Annotated[Path | None, typer.Option("--log")] = None,
    ranks: Annotated[int | None, typer.Option("--ranks")] = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set")] = None,
    reply: Annotated[int | None, typer.Option("--reply")] = None,
    patience: Annotated[float, typer.Option("--patience")] = 0.0,
) -> int:
    """Load a gang, and serve the queue in the folder ``state`` until this process is asked to end.

    ``log`` is the file that stderr goes to, which is renamed after the gang; ``reply`` the descriptor of the pipe to
    `cluster up`; ``patience`` the seconds to wait for a cluster that cannot be reached.
    """
    answer = Reply(reply)
    try:
        _serve(Setup(config, set_ or (), ranks), ray_address, state, log, answer, patience)
    except InvalidInput as error:
        return _failed(answer, sentence(error), 2)
    except Interrupted as interrupted:
        return _failed(answer, str(interrupted), interrupted.exit_code)
    except Exception as error:
        from launch.cluster.health import MachineBad
        from launch.gang.monitor import GangFailure
        from launch.gang.watch import RayLost

        if isinstance(error, RayLost):
            starting = answer.is_open
            _failed(answer, str(error), 1)
            return ORDERLY if starting else RAY_LOST
        if isinstance(error, MachineBad):
            return _failed(answer, str(error), 1)
        if not isinstance(error, GangFailure):
            raise
        return _failed(answer, str(error.failure), error.failure.exit_code)
    return 0


def _serve(
    setup: Setup, address: str | None, state: Path, log: Path | None, answer: Reply, patience_seconds: float
) -> None:
    stop = StopRequest()
    stop.listen()
    stream = os.fdopen(os.dup(2), "w", errors="backslashreplace")  # for while Ray is connected stderr is Ray's

    def write(line: str) -> None:
        with suppress(OSError):  # a full disk must not end the gang
            print(stamped(line), file=stream, flush=True)

    from launch.cluster.loaded import LoadedGang  # imports ray, which takes seconds
    from launch.cluster.metrics import Metrics
    from launch.cluster.outage import Outage
    from launch.cluster.parts import ServerParts
    from launch.cluster.progress import GangProgress
    from launch.cluster.registration import GangRegistration
    from launch.cluster.server import Server
    from launch.gang.connection import connected
    from launch.queue.store import Queue
    from launch.queue.trouble import QueueAway

    def tell(line: str) -> None:
        write(line)
        answer.tell("note", line=line)

    with ExitStack() as closing:
        with stop.interrupting():
            job = setup.job(setup.ranks)
            queue, ranks = Queue(state, wait_seconds=_LOCK_SECONDS), setup.ranks or job.degrees.world_size
            outage = Outage(write)
            registration = _patiently(
                lambda: GangRegistration(queue, ranks, job.model_path, outage),
                "the queue",
                QueueAway,
                patience_seconds,
                write,
            )
            closing.callback(registration.unregister)
            if log:
                with suppress(OSError):  # some mounts rename no open file: then it keeps its name
                    log.rename(log.with_name(f"{registration.name}.log"))
            ray_log = state / "logs" / f"{registration.name}-ray.log"
            with suppress(OSError):  # Ray's lines are no reason to end
                create_private_file(ray_log)  # for the group as well, where the folder is
            head_timeout = job.config.ray.head_timeout_seconds
            ray: RayConnection = _patiently(
                lambda: closing.enter_context(connected(address, ranks, head_timeout, ray_log)),
                "Ray",
                InvalidInput,
                patience_seconds,
                write,
            )
            stop.listen()  # again, for Ray has replaced the handlers
            progress = GangProgress(tell, lambda name: answer.tell("stage", name=name))
            loaded = LoadedGang(setup, progress, ray.watch)
            closing.callback(loaded.stop)
            loaded.start()
        write(f"{registration.name} is ready: {len(loaded.node_ids)} ranks, {job.model_path}")
        answer.tell("ready", name=registration.name, ranks=len(loaded.node_ids), model=job.model_path)
        answer.close()
        registration.set_state(GangState.READY)
        metrics = Metrics(registration.name)
        Server(ServerParts(queue, registration, loaded, progress, stop, metrics, write, outage)).serve()
        write(f"{registration.name} ends")
        registration.set_state(GangState.STOPPING)


def _patiently(
    begin: Callable[[], T],
    what: str,
    passing: type[InvalidInput],
    patience_seconds: float,
    write: Callable[[str], None],
) -> T:
    """Begin something that may not be possible yet, again and again for a while.

    Args:
        what: it is for, in words.
        passing: the errors after which another try may succeed.
        write: told once of each error.
    """
    deadline = time.monotonic() + patience_seconds
    said = ""
    while True:
        try:
            return begin()
        except passing as error:
            if time.monotonic() >= deadline:
                raise
            if str(error) != said:
                said = str(error)
                write(f"waiting up to {deadline - time.monotonic():.0f} s for {what}: {said}")
            time.sleep(_RETRY_SECONDS)


def _failed(answer: Reply, message: str, code: int) -> int:
    say(stamped(message))
    answer.tell("failed", message=message, code=code)
    return ORDERLY


if __name__ == "__main__":
    die_with_parent()
    quiet_libraries()
    spin_briefly()
    leave(run(app))
