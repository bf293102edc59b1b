"""Published figures that the cost model is compared with: data, with the source of each.

A row says what was run, as far as its source says it. What no source says stands in ``assumed``: attention in 8 bits,
for example, where the figure exceeds what the card could do in bfloat16. The software of an engine is described by the
same few words for all its rows. All figures were known while the model was made; three efficiencies alone are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.models.catalog import CATALOG
from launch.planner.cluster import Cluster, parse_cluster
from launch.planner.skipping import Skipping
from launch.planner.software import Software
from launch.planner.steps import Plan
from launch.planner.workload import Workload, workload_of
from parallel.degrees import Degrees

Quantity = Literal["step", "video", "videos in parallel"]
"""Seconds of one step; of one video; GPU-seconds of a video where each GPU makes its own."""
Use = Literal["compared", "shown", "later"]
"""compared: half of these are fitted to. shown: why it is not compared stands in ``note``. later: never fitted to."""


@dataclass(frozen=True)
class Figure:
    """One published figure."""

    name: str
    seconds: float
    quantity: Quantity
    model: str
    cluster: str
    degrees: Degrees
    software: Software
    source: str
    steps: int = 40
    video: tuple[int, int, int] | None = None
    branches: int = 2
    shard_weights: bool = False
    skip_share: float = 0.0
    use: Use = "compared"
    assumed: str = ""
    note: str = ""

    @property
    def workload(self) -> Workload:
        """What was computed."""
        row = next(model for model in CATALOG if model.name == self.model)
        model = replace(row, video=self.video or row.video)
        skipping = Skipping(self.skip_share, "as published", probe_blocks=0)
        return workload_of(model, model.facts, min(self.branches, model.facts.num_branches(2.0)), self.steps, skipping)

    @property
    def plan(self) -> Plan:
        """On what, and how."""
        return Plan(self.where, self.degrees, self.software, self.shard_weights)

    @property
    def where(self) -> Cluster:
        """The cluster."""
        return parse_cluster(self.cluster)


_ONE, _U8, _CFG_U4 = Degrees(), Degrees(ulysses=8), Degrees(cfg=2, ulysses=4)

_MLPERF = "MLPerf Inference v6.1, closed, text-to-video (mlcommons.org)"
_MLPERF_6_0 = "MLPerf Inference v6.0, open and closed"


def _software(**settings: Any) -> Software:
    """Another program: unless something else is known, its encoders go to the host's memory and back."""
    return Software(**{"encoders_stay": False, "copies_back": True} | settings)


_TRT = _software(precision="fp4", kernel="best", fused=True, vae="bfloat16", encoders_stay=True)
_AMD = replace(_TRT, precision="fp8", kernel="fp8")
_FP4 = "linear layers in fp4, attention in bf16"
_FP8 = "linear layers and attention in fp8: in bf16 the figure would need 95% of the card's peak"


def _mlperf(
    name: str, seconds: float, cluster: str, degrees: Degrees, software: Software, assumed: str,
    use: Use = "compared", note: str = "",
) -> Figure:  # fmt: skip
    quantity: Quantity = "video" if degrees.replica_size > 1 else "videos in parallel"
    return Figure(
        name, seconds, quantity, "Wan 2.2 T2V A14B", cluster, degrees, software, _MLPERF,
        steps=20, assumed=assumed, use=use, note=note,
    )  # fmt: skip


_LIGHT = "https://github.com/ModelTC/LightX2V (README.md, tables for Wan2.1-I2V-14B-480P; a vendor's figures)"
_LIGHT_SOFTWARE = _software(kernel="best", fused=True)
_SGLANG_SOFTWARE = _software(kernel="best", streamed_blocks=True)
_FASTVIDEO_SOFTWARE = _software(kernel="flash2", streamed_blocks=True)
_XDIT_SOFTWARE = _software(kernel="flash2")
_STREAMED = "blocks come from the host for each pass: the engine's default then (dit_layerwise_offload)"


def _step(
    name: str, seconds: float, gpus: int, degrees: Degrees, software: Software, assumed: str = "",
    *, gpu: str = "H100", branches: int = 2, use: Use = "compared", note: str = "",
) -> Figure:  # fmt: skip
    return Figure(
        name, seconds, "step", "Wan 2.1 I2V 14B 480P", f"1x{gpus}x{gpu}", degrees, software, _LIGHT,
        branches=branches, assumed=assumed, use=use, note=note,
    )  # fmt: skip


_MORPHIC = "https://www.morphic.com/blog/boosting-wan2-2-i2v-56-faster (Wan's own code with FSDP and Ulysses 8)"
_WAN_CODE = _software(
    kernel="flash2", decode_shared=False, token_modulation="float32", encoders_stay=True
)  # T5 is sharded too
_PER_TOKEN = "Wan 2.2's own code computes modulation for each token, on every rank, in float32"


def _morphic(name: str, seconds: float, software: Software, share: float = 0.0, assumed: str = _PER_TOKEN) -> Figure:
    return Figure(
        name, seconds, "video", "Wan 2.2 I2V A14B", "1x8xH100", _U8, software, _MORPHIC,
        shard_weights=True, skip_share=share, assumed=assumed,
    )  # fmt: skip


_72 = Degrees(cfg=2, ulysses=4, ring=9)
_2D = "attention split 3 x 3 in two dimensions, which Lockstep does not have; predicted as a ring of 9"

FIGURES: tuple[Figure, ...] = (
    _mlperf("MI355X x 8, single stream", 16.12, "1x8xMI355X", _CFG_U4, _AMD, _FP8),
    _mlperf("MI355X x 8, offline", 8 / 0.0731, "1x1xMI355X", _ONE, _AMD, _FP8),
    _mlperf("B300 x 8, single stream", 17.98, "1x8xB300", _CFG_U4, _TRT, _FP4),
    _mlperf("B300 x 8, offline", 8 / 0.0622, "1x1xB300", _ONE, _TRT, _FP4),
    _mlperf("B300 x 8 (VibeHPC), single stream", 21.28, "1x8xB300", _CFG_U4, _TRT, _FP4),
    _mlperf("B300 x 8 (VibeHPC), offline", 8 / 0.0784, "1x1xB300", _ONE, _TRT, _FP4),
    _mlperf("GB300 x 72, offline", 72 / 0.6546, "1x1xGB300", _ONE, _TRT, _FP4),
    _mlperf("GB200 x 72, offline", 72 / 0.4961, "1x1xGB200", _ONE, _TRT, _FP4),
    _step("LightX2V, 1 GPU", 5.18, 1, _ONE, _LIGHT_SOFTWARE),
    _step("LightX2V, 8 GPUs", 0.75, 8, _CFG_U4, _LIGHT_SOFTWARE),
    _step("SGLang, 1 GPU", 6.13, 1, _ONE, _SGLANG_SOFTWARE, _STREAMED),
    _step("SGLang, 8 GPUs", 1.19, 8, _CFG_U4, _SGLANG_SOFTWARE, _STREAMED),
    _step("FastVideo, 1 GPU", 7.35, 1, _ONE, _FASTVIDEO_SOFTWARE, _STREAMED),
    _step("FastVideo, 8 GPUs", 2.94, 8, _U8, _FASTVIDEO_SOFTWARE, _STREAMED),
    _step("xDiT, 1 GPU", 8.93, 1, _ONE, _XDIT_SOFTWARE),
    Figure(
        "Wan 1.3B, a step", 1.04, "step", "Wan 2.1 T2V 1.3B", "1x1xH100", _ONE, _software(kernel="best"),
        "a published step time, 480p on one H100", assumed="with guidance, which the source does not say",
    ),
    _morphic("Wan 2.2 I2V, FlashAttention-2", 250.7, _WAN_CODE),
    _morphic("Wan 2.2 I2V, FlashAttention-3", 195.13, replace(_WAN_CODE, kernel="best")),
    _morphic(
        "Wan 2.2 I2V, 3, TF32, MagCache, compiled", 109.0,
        replace(_WAN_CODE, kernel="best", token_modulation="tf32", fused=True),
        0.40, f"{_PER_TOKEN}, here in TF32; MagCache skips 40%, which the source does not say",
    ),
    # shown
    _step(
        "xDiT, 8 GPUs", 2.70, 8, _U8, _XDIT_SOFTWARE, use="shown",
        note="3.3 times faster on 8 GPUs with weights on the card, over NVLink: unexplained",
    ),
    _mlperf("GB300 x 72, single stream", 5.81, "1x72xGB300", _72, _TRT, _FP4, "shown", _2D),
    _mlperf("GB200 x 72, single stream", 5.73, "1x72xGB200", _72, _TRT, _FP4, "shown", _2D),
    Figure(
        "H200 x 8 (Krai), closed", 57.0, "video", "Wan 2.2 T2V A14B", "1x8xH200", _CFG_U4,
        replace(_TRT, precision="fp8"), _MLPERF_6_0, steps=20, use="shown",
        assumed="linear layers in fp8", note="a target latency of the settings, not a result",
    ),
    _step("LightX2V, 8 GPUs, no guidance", 0.39, 8, _U8, _LIGHT_SOFTWARE, branches=1, use="later"),
    _step(
        "LightX2V, 8 GPUs, no guidance, fp8", 0.35, 8, _U8, replace(_LIGHT_SOFTWARE, precision="fp8"), branches=1,
        use="later",
    ),
    Figure(
        "LightX2V, H200, 480p, bf16", 216.0, "video", "Wan 2.1 I2V 14B 480P", "1x1xH200", _ONE, _LIGHT_SOFTWARE,
        "LightX2V, docs/EN/source/getting_started/benchmark_source.md (SageAttention2)", use="later",
    ),
    Figure(
        "Wan's own code, H200, 480p", 366.0, "video", "Wan 2.1 I2V 14B 480P", "1x1xH200", _ONE,
        _software(kernel="flash2"), "the same", use="later",
    ),
    Figure(
        "LightX2V, H200, 720p, bf16", 751.0, "video", "Wan 2.1 I2V 14B 720P", "1x1xH200", _ONE, _LIGHT_SOFTWARE,
        "the same", use="later",
    ),
    Figure(
        "Wan's own code, H200, 720p", 974.0, "video", "Wan 2.1 I2V 14B 720P", "1x1xH200", _ONE,
        _software(kernel="best"), "the same", use="later",
        assumed="FlashAttention-3: in 2 the attention alone would take longer",
    ),
    Figure(
        "HunyuanVideo, 1 GPU", 1904.08, "video", "HunyuanVideo", "1x1xH100", _ONE, _software(kernel="flash2"),
        "https://github.com/Tencent-Hunyuan/HunyuanVideo (README.md; xDiT)", steps=50, use="later",
        assumed="H100, which the source does not say",
    ),
    *(
        Figure(
            f"HunyuanVideo, {n} GPUs", seconds, "video", "HunyuanVideo", f"1x{n}xH100", Degrees(ulysses=n),
            _software(kernel="flash2", decode_shared=False), "the same", steps=50, use="later", assumed="as above",
        )
        for n, seconds in ((2, 934.09), (4, 514.08), (8, 337.58))
    ),
    Figure(
        "HunyuanVideo 540p, A800", 1186.32, "video", "HunyuanVideo", "1x1xA100", _ONE, _software(kernel="flash2"),
        "DiCache (arXiv 2508.17356), project page", steps=50, video=(129, 544, 960), use="later",
        assumed="960 x 544 x 129",
    ),
    Figure(
        "Wan 1.3B, A800", 192.47, "video", "Wan 2.1 T2V 1.3B", "1x1xA100", _ONE, _software(kernel="flash2"),
        "DiCache (arXiv 2508.17356), project page", steps=50, use="later",
    ),
)  # fmt: skip
"""In the order of the table; every second one that is compared is fitted to."""

NOT_EXPRESSED: tuple[tuple[str, str], ...] = (
    ("vLLM-Omni, MiniMax-H3 on H20, 2 to 8 GPUs: 638 to 167 s", "a model that Lockstep does not have"),
    ("SGLang with cache-dit, gain 2.84 on 1 GPU and 1.93 on 8", "neither the model nor its skipped steps are given"),
    ("DualParal, 1,025 frames on 8 cards: 6.54 times", "Lockstep has no windows of a long video yet"),
    ("Krai with MagCache and SageAttention, 44 s", "a setting of the load generator, and an attention of its own"),
)


def compared() -> list[Figure]:
    """The figures that the model is judged by."""
    return [figure for figure in FIGURES if figure.use == "compared"]


def halves() -> tuple[list[Figure], list[Figure]]:
    """Every second figure: those that are fitted to, and those that are not."""
    figures = compared()
    return figures[::2], figures[1::2]
