"""The ranks of a server's gang, started again when they were lost or had to be ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.errors import InvalidInput
from launch.cluster.loaded import LoadedGang
from launch.cluster.registration import GangRegistration
from launch.cluster.stopping import StopRequest
from launch.gang.monitor import GangFailure
from launch.queue.records import GangState

_STARTS = 5  # that may fail in a row before the server gives up


class RankStarter:
    """Starts all ranks of a gang again."""

    def __init__(
        self, loaded: LoadedGang, registration: GangRegistration, stop: StopRequest, log: Callable[[str], None]
    ) -> None:
        self._loaded = loaded
        self._registration = registration
        self._stop = stop
        self._log = log

    def start_again(self) -> None:
        """Start them, several times if that fails.

        Raises:
            GangFailure, InvalidInput: it failed each time.
            Interrupted: the process was asked to end.
        """
        for failed in range(_STARTS):
            try:
                with self._stop.interrupting():
                    self._loaded.start()
                return
            except (GangFailure, InvalidInput) as error:
                self._log(str(error))
                self._registration.set_state(GangState.STARTING, str(error))
                if failed + 1 == _STARTS:
                    raise
                with self._stop.interrupting():
                    time.sleep(2**failed)
