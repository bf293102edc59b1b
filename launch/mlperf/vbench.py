"""VBench's scores of the videos of an accuracy run, by the package ``vbench`` in a Python of its own.

The package pins numpy below 2 and transformers 4.33.2, so it cannot stand in our environment. It loads what is missing
of its weights from the web in the middle of its work; here they have to be at hand.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.progress import Progress
from launch.mlperf.job import MlperfJob
from launch.mlperf.standard import VBENCH_LEAST, VBENCH_REFERENCE

DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "subject_consistency": ("dino_model/dino_vitbase16_pretrain.pth", "dino_model/facebookresearch_dino_main"),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "appearance_style": ("clip_model/ViT-B-32.pt",),
    "scene": ("caption_model/tag2text_swin_14m.pth", "bert_model/bert-base-uncased"),
}
"""What the standard scores, with the files that each needs in VBench's folder."""
_NAME = "mlperf"
_SCRIPT = """
import ctypes, json, pathlib, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a rank that is ended takes this process with it
import torch, vbench
videos, output, dimensions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
info = pathlib.Path(vbench.__file__).with_name("VBench_full_info.json")
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
vbench.VBench(device, str(info), output).evaluate(videos, "NAME", dimension_list=dimensions, local=True)
""".replace("NAME", _NAME)


def score(job: MlperfJob, progress: Progress) -> dict[str, Any]:
    """The scores of each run, by its name, or under "missing" one sentence on why there are none."""
    python = job.config.mlperf.vbench_python
    if python is None:
        return _missing("no environment with the package vbench was named: set mlperf.vbench_python to its python")
    if problem := _problem_with(python):
        return _missing(problem)
    if absent := missing_weights(weights_folder()):
        return _missing(f"VBench's weights are not all in {weights_folder()}: {', '.join(absent)}")
    found: dict[str, Any] = {}
    for cache in job.caches:
        progress.stage(f"VBench, {cache.replace('_', ' ')}")
        try:
            found[cache] = _score_folder(python, job.folder / "videos" / cache, job.folder / "vbench" / cache)
        except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            return _missing(f"VBench failed on {cache}: {_reason(error)}")
    return found


def weights_folder() -> Path:
    """Where VBench keeps its weights."""
    return Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")


def missing_weights(folder: Path) -> list[str]:
    """The files that the standard's dimensions need and that are not there."""
    needed = dict.fromkeys(name for names in DIMENSIONS.values() for name in names)
    return [name for name in needed if not (folder / name).exists()]


def read_scores(file: Path) -> dict[str, Any]:
    """Scores of VBench's results in percent, by dimension, their mean, and whether it reaches the standard's.

    Raises:
        OSError, ValueError, KeyError: the file is not there, or not one of VBench's.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    scores = {name: 100 * float(content[name][0]) for name in DIMENSIONS}
    mean = sum(scores.values()) / len(scores)
    return {
        "dimensions": scores,
        "mean": mean,
        "reference": VBENCH_REFERENCE,
        "least": VBENCH_LEAST,
        "reached": mean >= VBENCH_LEAST,
    }


def _score_folder(python: str, videos: Path, output: Path) -> dict[str, Any]:
    subprocess.run(
        [python, "-c", _SCRIPT, str(videos.resolve()), str(output.resolve()), json.dumps(list(DIMENSIONS))],
        check=True,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RANK", "WORLD_SIZE")},
    )
    return read_scores(output / f"{_NAME}_eval_results.json")


def _problem_with(python: str) -> str | None:
    try:
        subprocess.run([python, "-c", "import vbench"], check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        return f"mlperf.vbench_python is {python!r}, which cannot import vbench: {_reason(error)}"
    return None


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return (" ".join(str(said).split()) or type(error).__name__)[-300:]


def _missing(reason: str) -> dict[str, Any]:
    return {"missing": reason}
