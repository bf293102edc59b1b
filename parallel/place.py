"""Which processes make up a run, and which of them this one is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """What a process knows about the ranks of a run. A launcher is not one of them, and knows less than a rank."""

    ranks: int | None = None
    """The world size. None: what the configured degrees multiply to, or, where the layout is chosen for the machine, as
    many as it has devices."""
    rank: int | None = None
    """Of this process; None for a launcher."""
    local_ranks: int | None = None
    """Ranks on this machine. None: all of them."""
    nodes: int | None = None
    """Machines that the ranks are spread over. None: as many as take ``local_ranks`` each."""
    elsewhere: bool = False
    """The ranks run on other machines, so the devices of this machine are not checked."""

    @property
    def is_launcher(self) -> bool:
        """Whether this process is none of the ranks."""
        return self.rank is None

    @property
    def acts_for_all(self) -> bool:
        """Whether this process does what is done once for a run: it is the launcher, or the first rank."""
        return self.rank in (None, 0)
