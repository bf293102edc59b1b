"""One rank of a check: a process that runs one line after the other, and is replaced where one ends it.

It is started by :mod:`launch.check.starting`, which tells it on stdin what to do and reads what it says on stdout, a
JSON object a line. When stdin ends, the agent is gone, and so is this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import IO, Any

from launch.check.crowding import ENOUGH, Clocks, crowded
from launch.check.finding import Finding, State, falls_short, lost_contact, not_here
from launch.check.site import Site
from launch.check.table import Line, lines_for
from launch.jobs.config import JobConfig
from launch.process.quiet import quiet_libraries
from launch.process.threads import spin_briefly

_STORE_HOURS = 2


def main() -> None:
    """Run the lines that the order on stdin names."""
    messages = _take_stdout()
    quiet_libraries()
    spin_briefly()
    heard: Queue[dict[str, Any]] = Queue()
    threading.Thread(target=_listen, args=(heard,), daemon=True).start()
    order = heard.get()
    store = _meet(order, heard, messages)

    from engine.execution.imports import import_ahead

    import_ahead("engine.engine")
    given = JobConfig.model_validate_json(order["config"])
    site = Site(given, order["kind"], order["rank"], order["ranks"], order["local_ranks"], Path(order["folder"]), store)
    lines = {line.name: line for line in lines_for(site.ranks, site.given)}
    for number, name in enumerate(order["lines"]):
        _run(site, lines[name], f"{order['attempt']}/{number}", messages)
    _say(messages, {"finished": True})
    # threads of libraries are not waited for
    os._exit(0)


def _meet(order: dict[str, Any], heard: Queue[dict[str, Any]], messages: IO[str]) -> Any:
    """The store of all ranks, None where there is one. Rank 0 opens it, and says at which port."""
    if order["ranks"] == 1:
        return None
    from torch.distributed import PrefixStore, TCPStore

    timeout, address = timedelta(hours=_STORE_HOURS), os.environ["MASTER_ADDR"]
    if order["rank"] == 0:
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        _say(messages, {"port": store.port})
    else:
        store = TCPStore(address, heard.get()["port"], timeout=timeout)
    os.environ["MASTER_PORT"] = str(store.port)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is there already, whoever joins
    return PrefixStore("check", store)


def _run(site: Site, line: Line, key: str, messages: IO[str]) -> None:
    """Do this rank's part of a line, and say on the first rank what all of them found."""
    site.everyones(f"{key}/begin", None)
    _say(messages, {"begin": line.name})
    finding, raised, before = None, "", Clocks.of([os.getpid()])
    if line.on_all_ranks or site.rank == 0:
        finding, raised = _found(line, site)
    share = Clocks.of([os.getpid()]).since(before).share
    _say(messages, {"ended": line.name, "raised": raised})
    found = site.everyones(f"{key}/end", [finding.model_dump(mode="json") if finding else None, share])
    if site.rank == 0:
        there = [Finding.model_validate(each) for each, _ in found if each is not None]
        taken = _worst(there, min(share for _, share in found))
        _say(messages, {"line": line.name, "finding": taken.model_dump(mode="json")})


def _found(line: Line, site: Site) -> tuple[Finding, str]:
    """What the line finds, and the error that ended it; "" if none did."""
    module, _, name = line.function.partition(":")
    try:
        finding: Finding = getattr(import_module(module), name)(site, *line.arguments)
        return finding, ""
    except Exception as error:
        from engine.errors import sentence

        with suppress(Exception):  # the traceback, for whoever looks into the log
            sys.excepthook(type(error), error, error.__traceback__)
        finding = falls_short("", f"rank {site.rank}: {sentence(error)}"[:500])
        return finding, finding.reason


def _worst(found: Sequence[Finding], share: float) -> Finding:
    """What falls short on some rank falls short, and the first rank says the rest. A rank that lost contact to another
    one is named last.

    Args:
        share: of the processors' time that the ranks asked for, the least that one of them had. Where it was little, a
            speed is not judged.
    """
    short = [each for each in found if each.state is State.FALLS_SHORT]
    grave = [each for each in short if not each.is_slow]
    own = [each for each in grave if not lost_contact(each.reason)]
    worst = (own or grave or short or found)[0]
    if worst.is_slow and share < ENOUGH:
        return not_here(f"{crowded(share)}, so that no speed is judged ({worst.reason})", worst.figure)
    return worst


def _take_stdout() -> IO[str]:
    """The agent's end of stdout, for messages alone: what libraries print goes to stderr."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return messages


def _say(messages: IO[str], message: dict[str, Any]) -> None:
    messages.write(json.dumps(message) + "\n")
    messages.flush()


def _listen(heard: Queue[dict[str, Any]]) -> None:
    """Pass on what the agent says, and end this process, and what its lines have started, once stdin is closed."""
    for line in sys.stdin:
        heard.put(json.loads(line))
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
