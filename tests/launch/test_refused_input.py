"""Bad input: one line on stderr that holds the value, exit code 2, before weights load or a process starts."""

import shutil
import sys
import time

import pytest

from tests.support.shell import Refused, Shell, assert_one_line
from tests.support.small_model import CONFIG

# what is typed after `generate CONFIG` -> words that the line must hold
REFUSED = {
    "unknown key": (["--set=cache.thresold=0.1"], ["cache.thresold", "cache.threshold"]),
    "unknown section": (["--set=samplng.steps=3"], ["samplng.steps", "sampling.steps"]),
    "not key=value": (["--set=cache"], ["--set cache", "key=value"]),
    "not YAML": (["--set=cache.threshold=["], ["cache.threshold=["]),
    "wrong type": (["--set=sampling.steps=many"], ["sampling.steps", "'many'"]),
    "not whole": (["--set=sampling.steps=2.5"], ["sampling.steps", "2.5"]),
    "truth for a number": (["--set=sampling.steps=true"], ["sampling.steps", "True"]),
    "no steps": (["--set=sampling.steps=0"], ["sampling.steps", "0"]),
    "not finite": (["--set=sampling.guidance=.inf"], ["sampling.guidance", "inf"]),
    "negative threshold": (["--set=cache.threshold=-0.1"], ["cache.threshold", "-0.1"]),
    "unknown method": (["--set=cache.method=magic"], ["cache.method", "'magic'", "dicache"]),
    "missing model folder": (["--set=model.path=nowhere"], ["nowhere"]),
    "frames": (["--set=sampling.frames=16"], ["16", "4n+1", "13 or 17"]),
    "height": (["--set=sampling.height=70"], ["height", "70", "64 or 80"]),
    "width": (["--set=sampling.width=8"], ["width", "8", "16"]),
    "too long": (["--set=sampling.frames=8001"], ["8001", "1024"]),
    "degrees and ranks": (["--set=parallel.ulysses=2", "--ranks=3"], ["2", "3"]),
    "heads": (["--set=parallel.ulysses=3", "--ranks=3"], ["3", "heads"]),
    "cfg degree": (["--set=parallel.cfg=3", "--ranks=3"], ["parallel.cfg", "3"]),
    "cfg without guidance": (["--set=parallel.cfg=2", "--set=sampling.guidance=1.0", "--ranks=2"], ["guidance", "1"]),
    "replicas": (["--set=parallel.data=2", "--ranks=2"], ["parallel.data is 2", "1 video "]),
    "tensor parallel": (["--set=parallel.tensor=2", "--ranks=2"], ["parallel.tensor is 2", "parallel.shard_weights"]),
    "neither auto nor a section": (["--set=parallel=atuo"], ["'atuo'", "the word auto"]),
    "no ranks": (["--ranks=0"], ["--ranks", "0"]),
    "more ranks than tokens": (["--ranks=64"], ["64", "8 tokens"]),
    "probe as deep as the model": (["--set=cache.probe_depth=3"], ["probe_depth", "3"]),
    "empty prompt": (["--prompt="], ["--prompt", "''"]),
    "blank prompt": (["--prompt= \t "], ["--prompt"]),
    "negative seed": (["--seed=-1"], ["--seed", "-1"]),
    "large seed": (["--seed=9223372036854775808"], ["--seed", "9223372036854775808"]),
    "seed no number": (["--seed=lucky"], ["--seed", "'lucky'"]),
    "image for a model of text": (["--image=a.png"], ["--image", "a.png", "text alone"]),
    "last image alone": (["--last-image=z.png"], ["--last-image", "z.png", "no first"]),
    "no prompts file": (["--prompts=no.txt"], ["--prompts", "no.txt"]),
    "empty prompts file": (["--prompts=empty.txt"], ["--prompts", "empty.txt", "no prompt"]),
    "prompts file is not text": (["--prompts=bytes.txt"], ["--prompts", "UTF-8"]),
    "more replicas than videos": (["--set=parallel.data=3", "--seed=1", "--seed=2", "--ranks=3"], ["3", "2 videos"]),
    "unknown option": (["--step=3"], ["--step"]),
    "output suffix": (["--output=out.avi"], ["out.avi", ".mp4"]),
    "output is a folder": (["--output=folder.mp4"], ["folder.mp4", "folder"]),
    "output below a file": (["--output=file.txt/out.mp4"], ["file.txt"]),
    "unwritable output folder": (["--output=/proc/lockstep/out.mp4"], ["/proc", "not writable"]),
    "name too long": ([f"--output={'x' * 250}.mp4"], ["too long"]),
    "report suffix": (["--report=report.txt"], ["report.txt", ".json"]),
    "latents suffix": (["--latents=latents.pt"], ["latents.pt", ".safetensors"]),
    "latents unwritable": (["--latents=/proc/x.safetensors"], ["/proc", "not writable"]),
    "replay missing": (["--set=cache.replay=no.json"], ["no.json"]),
    "replay no report": (["--set=cache.replay=file.txt"], ["file.txt", "report"]),
    "torchrun that is not there": (
        ["--launcher=torchrun", "--ranks=2"],
        ["torchrun --nproc-per-node 2 -m launch generate"],
    ),
    "flash on a CPU": (["--set=runtime.attention=flash"], ["flash", "cpu"]),
}


@pytest.fixture
def poisoned(shell: Shell) -> Shell:
    """A shell whose checkpoint has headers but no readable tensors: whoever loads it fails otherwise than with 2."""
    shell.model = shutil.copytree(shell.model, shell.folder / "model")
    for file in shell.model.rglob("*.safetensors"):
        with file.open("r+b") as stream:
            header = int.from_bytes(stream.read(8), "little")
            stream.write(b'{"__metadata__":{}'.ljust(header - 1) + b"}")
            stream.truncate(8 + header)
    (shell.folder / "folder.mp4").mkdir()
    (shell.folder / "file.txt").write_text("no report")
    (shell.folder / "empty.txt").write_text("\n  \n")
    (shell.folder / "bytes.txt").write_bytes(b"\xff\xfe")
    return shell


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, poisoned: Shell, refused: Refused) -> None:
    arguments, words = REFUSED[case]
    prompt = [] if "prompt" in case else ["--prompt=a circle"]
    line = refused(["generate", *poisoned.options(*prompt, *arguments)])
    for word in words:
        assert word in line
    assert not (poisoned.folder / "outputs").exists()


def test_a_pipe_for_several_ranks(poisoned: Shell) -> None:
    """Every rank reads the file again, and would find the pipe empty."""
    lockstep = f"{sys.executable} -m launch generate"
    process = poisoned.start(
        ["bash", "-c", f'{lockstep} "$@" --ranks=2 --prompts <(echo a circle)', "", *poisoned.options()]
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert_one_line("", err)
    assert "is a pipe" in err


@pytest.mark.parametrize("ranks", [1, 2])
def test_refused_in_a_process_of_its_own(ranks: int, poisoned: Shell) -> None:
    process = poisoned.generate(f"--ranks={ranks}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert_one_line(out, err)
    assert "--prompt" in err


def test_what_is_not_refused_does_load_the_poisoned_weights(poisoned: Shell) -> None:
    """The counter-proof of the table: without a fault in the input, the tensors are looked for, and are not there."""
    process = poisoned.generate("--prompt=a circle")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "loading weights" in err and " missing" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_bad_configuration_file(poisoned: Shell, refused: Refused) -> None:
    folder = poisoned.folder
    for content, words in {
        "a: [": ["not valid YAML", "line 1"],
        "- a\n- b\n": ["sections"],
        "": ["sections"],
        "model: {path: x}\nmodel: {path: y}\n": ["'model'", "twice"],
        "model: {path: model}\nsampling: {height: 32}\n": ["sampling.width", "missing"],
        "model: 3\nsampling: {height: 32, width: 32, frames: 5}\n": ["model", "3", "section"],
        "3: 4\n": ["3"],
    }.items():
        (folder / "bad.yaml").write_text(content)
        line = refused(["config", "bad.yaml"])
        for word in words:
            assert word in line, line
    (folder / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(["config", "bad.yaml"])
    assert "no.yaml" in refused(["config", "no.yaml"])
    assert str(folder) in refused(["config", str(folder)])


def test_refusing_is_quick_and_imports_no_torch(shell: Shell) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "launch"]
    started = time.monotonic()
    process = shell.start([*command, "generate", *shell.options("--prompt=x", "--set=sampling.frames=4")])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert time.monotonic() - started < 10  # about 0.3 s on an idle machine
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in err.splitlines() if "|" in line}
    assert "pydantic" in imported
    assert not imported & {"torch", "diffusers", "transformers", "xfuser", "ray", "numpy"}


def test_torchrun_refuses_with_one_line(shell: Shell) -> None:
    process = shell.torchrun(2, "--prompt=x", "--set=sampling.frames=4")
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    assert len([line for line in err.splitlines() if line.startswith("lockstep: ")]) == 1


@pytest.mark.parametrize(
    ("variables", "arguments", "words"),
    [
        # two nodes of two ranks, so that only a ring across them keeps Ulysses groups inside
        ({"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}, ["--set=parallel.ring=1"], ["groups of 4", "nodes of 2"]),
        # nodes of one, one and two ranks, seen from the last: by the world size alone it could be one of two equal ones
        ({"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "3"}, [], ["4 ranks on 3 nodes", "2 on this one"]),
        ({"LOCAL_WORLD_SIZE": "3"}, ["--set=parallel=auto"], ["4 ranks on 2 nodes", "3 on this one"]),
    ],
)
def test_a_rank_of_torchrun_knows_its_nodes(
    variables: dict[str, str], arguments: list[str], words: list[str], poisoned: Shell
) -> None:
    command = [sys.executable, "-m", "launch", "generate", *poisoned.options("--prompt=x", *arguments)]
    process = poisoned.start(command, TORCHELASTIC_RUN_ID="x", RANK="3", WORLD_SIZE="4", **variables)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices=0"], ["--devices is 0"]),
        (["--devices=-8"], ["--devices is -8"]),
        (["--devices=8", "--nodes=1000000"], ["--nodes is 1000000"]),
        (["--devices=many"], ["--devices", "'many'"]),
        (["--nodes=2"], ["--devices"]),
        (["--devices=64"], ["8 tokens", "64 ranks"]),
        (["--devices=8", "--nodes=2", "--set=parallel.ulysses=3"], ["ulysses 3", "16 ranks"]),
        (["--devices=2", "--set=sampling.frames=16"], ["16", "4n+1"]),
        (["--devices=2", "--set=model.path=nowhere"], ["nowhere"]),
        (["--devices=2", "--set=parallel=atuo"], ["'atuo'"]),
        (["--devices=2", "--set=parallel.cfg=2", "--set=sampling.guidance=1"], ["parallel.cfg", "guidance"]),
    ],
)
def test_layouts_that_nobody_has(arguments: list[str], words: list[str], poisoned: Shell, refused: Refused) -> None:
    line = refused(["layout", *poisoned.options(*arguments)])
    for word in words:
        assert word in line, line


def test_config_prints_what_it_reads_again(shell: Shell) -> None:
    def printed(*arguments: str) -> str:
        process = shell.lockstep("config", *arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    of_teacache = ["cache.method=teacache", "cache.gate.polynomial=[1, 5]", "cache.gate.signal=modulated_input"]
    overrides = [*of_teacache, "cache.threshold=1e-2", "parallel=auto"]
    first = printed(str(CONFIG), *(f"--set={override}" for override in overrides))
    assert "threshold: 0.01" in first and "cfg: null" in first
    (shell.folder / "again.yaml").write_text(first)
    assert printed("again.yaml") == first


def test_no_new_options() -> None:
    """New knobs go into the configuration; scripts rely on these names."""
    import typer

    from launch.commands.app import app

    names = ["prompt", "prompts", "negative-prompt", "seed", "image", "last-image"]
    names += ["like", "output", "report", "latents", "fallback", "audit", "no-metadata", "set"]
    ray = ["launcher", "ray-address"]
    group = typer.main.get_command(app)
    shown = {"layout", "models", "config", "show"}
    commands = {"generate", "resume", "calibrate", "sweep", "plan", "bench", "check"} | shown
    queue = {"submit", "jobs", "watch", "cancel", "pause", "unpause", "retry", "prune"}
    assert set(group.commands) == commands | queue | {"cluster"}  # type: ignore[attr-defined]
    cluster = group.commands["cluster"].commands  # type: ignore[attr-defined]
    assert set(cluster) == {"up", "down"}
    sweep = ["prompts", "output", "methods", "shares", "tune-prompts", "negative-prompt", "image", "last-image"]
    plan = ["cluster", "link", "goal", "deadline", "price-per-gpu-hour", "report", "calibrate", "skip-share"]
    plan += ["precision", "attention", "fused", "set"]
    bench = ["output", "rounds", "warmup", "prompts", "negative-prompt", "image", "last-image"]
    bench += ["scale", "against", "against-build", "trace", "keep-videos", "mlperf", "latent"]
    calibrate = ["prompts", "output", "negative-prompt", "image", "last-image"]
    for command, expected in (
        (group.commands["generate"], [*names, "ranks", "goal", *ray, "resume"]),  # type: ignore[attr-defined]
        (group.commands["resume"], ["ranks", "set", *ray]),  # type: ignore[attr-defined]
        (group.commands["calibrate"], [*calibrate, "ranks", *ray, "set"]),  # type: ignore[attr-defined]
        (group.commands["sweep"], [*sweep, "ranks", *ray, "set"]),  # type: ignore[attr-defined]
        (group.commands["plan"], plan),  # type: ignore[attr-defined]
        (group.commands["bench"], [*bench, "ranks", *ray, "set", "compare", "slower-by", "report", "turns"]),  # type: ignore[attr-defined]
        (group.commands["check"], ["ranks", "report", "only", *ray]),  # type: ignore[attr-defined]
        (group.commands["layout"], ["devices", "nodes", "set"]),  # type: ignore[attr-defined]
        (group.commands["models"], ["ranks"]),  # type: ignore[attr-defined]
        (group.commands["config"], ["set"]),  # type: ignore[attr-defined]
        (cluster["up"], ["ranks", "ray-address", "state", "group", "set"]),
        (cluster["down"], ["state", "timeout"]),
        (group.commands["submit"], [*names, "model-check", "state", "group"]),  # type: ignore[attr-defined]
        (group.commands["jobs"], ["state-is", "last", "json", "state"]),  # type: ignore[attr-defined]
        (group.commands["prune"], ["older-than", "dry-run", "state"]),  # type: ignore[attr-defined]
        *((group.commands[name], ["state"]) for name in queue - {"submit", "jobs", "prune"}),  # type: ignore[attr-defined]
    ):
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert options == [f"--{name}" for name in expected]
