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

from launch.check.finding import Finding, falls_short
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
    finding: Finding | None = None
    if line.on_all_ranks or site.rank == 0:
        finding = _found(line, site)
    _say(messages, {"ended": line.name})
    found = site.everyones(f"{key}/end", finding.model_dump(mode="json") if finding else None)
    if site.rank == 0:
        _say(messages, {"line": line.name, "finding": _worst(found)})


def _found(line: Line, site: Site) -> Finding:
    module, _, name = line.function.partition(":")
    try:
        finding: Finding = getattr(import_module(module), name)(site, *line.arguments)
        return finding
    except Exception as error:
        from engine.errors import sentence

        with suppress(Exception):  # the traceback, for whoever looks into the log
            sys.excepthook(type(error), error, error.__traceback__)
        return falls_short("", f"rank {site.rank}: {sentence(error)}"[:500])


def _worst(found: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """What falls short on some rank falls short, and the first rank says the rest. A rank that lost contact to another
    one is named last."""
    there = [each for each in found if each is not None]
    short = [each for each in there if each["state"] == "falls short"]
    own = [each for each in short if not _lost_contact(each["reason"])]
    return (own or short or there)[0]


def _lost_contact(reason: str) -> bool:
    return any(sign in reason for sign in ("closed by peer", "reset by peer", "Broken pipe", "imed out", "timeout"))


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
