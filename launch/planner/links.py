"""Links between the ranks of a cluster, and the seconds that transfers take on them.

``bytes_per_second`` is the published rate of one direction, for one GPU or for a whole node; a collective gets
``share`` of it, which stands for protocol, the algorithm and what several transfers at once take from one another.
Shares and latencies are assumed, of the size that NCCL's tests commonly show with large and with empty messages: they
are not measured here, and `--calibrate` with a bench of several ranks replaces them where they matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import InvalidInput

_G = 1e9


@dataclass(frozen=True)
class Link:
    """One kind of link."""

    name: str
    bytes_per_second: float  # one direction
    share: float  # of it that a collective reaches
    latency_seconds: float  # of one collective, start to end, of no bytes
    shared_by_node: bool  # one for all GPUs of a node, instead of one for each
    source: str


LINKS: Mapping[str, Link] = {
    link.name: link
    for link in (
        Link("nvlink-3", 300 * _G, 0.78, 30e-6, False, "NVIDIA A100: 600 GB/s, both directions"),
        Link("nvlink-4", 450 * _G, 0.78, 30e-6, False, "NVIDIA H100: 900 GB/s, both directions"),
        Link("nvlink-5", 900 * _G, 0.75, 30e-6, False, "NVIDIA B200: 1.8 TB/s, both directions"),
        Link("xgmi-3", 448 * _G, 0.65, 40e-6, False, "AMD MI300X: seven links of 128 GB/s, both directions"),
        Link("xgmi-4", 537.6 * _G, 0.65, 40e-6, False, "AMD MI355X: seven links of 153.6 GB/s, both directions"),
        Link("pcie-4", 32 * _G, 0.35, 40e-6, False, "PCI-SIG: 16 lanes of 16 GT/s; through the host"),
        Link("pcie-5", 64 * _G, 0.35, 40e-6, False, "PCI-SIG: 16 lanes of 32 GT/s; through the host"),
        Link("infiniband-800", 100 * _G, 0.88, 45e-6, False, "NVIDIA Quantum-X800: XDR, a port for each GPU"),
        Link("infiniband-400", 50 * _G, 0.88, 45e-6, False, "NVIDIA Quantum-2: NDR, a port for each GPU"),
        Link("infiniband-200", 25 * _G, 0.88, 45e-6, False, "NVIDIA Quantum: HDR, a port for each GPU"),
        Link("roce-400", 50 * _G, 0.75, 55e-6, False, "400 GbE with RDMA, a port for each GPU"),
        Link("roce-200", 25 * _G, 0.75, 55e-6, False, "200 GbE with RDMA, a port for each GPU"),
        Link("ethernet-100", 12.5 * _G, 0.6, 80e-6, True, "100 GbE without RDMA, one port for a node"),
        Link("ethernet-25", 3.125 * _G, 0.7, 80e-6, True, "25 GbE without RDMA, one port for a node"),
        Link("ethernet-10", 1.25 * _G, 0.8, 80e-6, True, "10 GbE without RDMA, one port for a node"),
        # gloo over the loopback of one machine; both are replaced by what a bench has measured
        Link("loopback", 2 * _G, 1.0, 100e-6, True, "a guess; calibrate"),
    )
}
DEFAULT_BETWEEN = "infiniband-400"


def find_link(name: str) -> Link:
    """The link of that name.

    Raises:
        InvalidInput: the table has none; the sentence lists those that it has.
    """
    if (link := LINKS.get(name.lower())) is None:
        raise InvalidInput(f"The link {name!r} is not known: use one of {', '.join(LINKS)}.")
    return link
