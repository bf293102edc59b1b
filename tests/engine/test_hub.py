"""A model that is named by its id on the hub: from the cache, from a server, or one sentence on why not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.config_file import load_config
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from tests.support.bare_model import edit_json, write_bare_model
from tests.support.hub import COMMIT, Hub, serving, write_cache
from tests.support.hunyuan15_checkpoint import write_hunyuan15_checkpoint
from tests.support.small_model import CONFIG, ROOT

ID = "Wan-AI/tiny_Wan.2"

# its client reads the environment when it is imported, so each test has a process of its own
PROGRAM = """
import json, sys
from engine.config_file import load_config
from engine.errors import InvalidInput
from engine.models.hub import resolve_model
lines = []
try:
    config = load_config(sys.argv[1], sys.argv[3:])
    found = resolve_model(config, lines.append, download=sys.argv[2] == "download").model.path
    json.dump({"found": found, "lines": lines}, sys.stdout)
except InvalidInput as error:
    json.dump({"refused": str(error), "lines": lines}, sys.stdout)
"""


@dataclass
class Client:
    """A machine with a cache of its own, which knows one hub."""

    cache: Path
    endpoint: str = "http://127.0.0.1:9"  # where nobody listens
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, path: str, *overrides: str, download: bool = True, **environment: str) -> subprocess.Popen[str]:
        variables = {"HF_HUB_CACHE": str(self.cache), "HF_HOME": str(self.cache.parent), "HF_ENDPOINT": self.endpoint}
        variables |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
        arguments = [str(CONFIG), "download" if download else "", f"model.path={path}", *overrides]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, **variables, **environment},
            cwd=self.cache.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()

    def ask(self, path: str, *overrides: str, download: bool = True, **environment: str) -> dict[str, object]:
        return answer_of(self.start(path, *overrides, download=download, **environment))

    def find(self, path: str, *overrides: str, **environment: str) -> Path:
        answer = self.ask(path, *overrides, **environment)
        assert "found" in answer, answer
        return Path(str(answer["found"]))

    def refusal(self, path: str, download: bool = True, **environment: str) -> str:
        answer = self.ask(path, download=download, **environment)
        sentence = str(answer.get("refused"))
        assert path in sentence and "\n" not in sentence and sentence.endswith("."), answer
        return sentence


def answer_of(process: subprocess.Popen[str]) -> dict[str, object]:
    out, _ = process.communicate(timeout=60)
    answer: dict[str, object] = json.loads(out)
    return answer


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    (tmp_path / "home").mkdir()
    client = Client(tmp_path / "home" / "hub")
    yield client
    client.stop()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """With a model, and files beside it that nobody needs."""
    model = write_bare_model(tmp_path / "published")
    for name in ("README.md", "assets/film.mp4", "vae/diffusion_pytorch_model.fp16.safetensors", "old/model.bin"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"large")
    with serving(Hub({ID: model})) as hub:
        yield hub


def test_what_is_cached_is_found_without_a_network(client: Client, tmp_path: Path) -> None:
    model = write_bare_model(tmp_path / "model")
    snapshot = write_cache(client.cache, ID, model)
    assert client.find(ID) == client.find(f"{ID}@main") == client.find(f"{ID}@{COMMIT}") == snapshot
    answer = client.ask(ID, download=False)
    assert answer == {"found": str(snapshot), "lines": []}
    assert "cannot be reached" in client.refusal(f"{ID}@v2"), "another revision is another model"


def test_a_download_brings_what_is_read_and_is_made_once(client: Client, hub: Hub) -> None:
    client.endpoint = hub.url
    answer = client.ask(ID)
    folder = Path(str(answer["found"]))
    assert folder == client.cache / "models--Wan-AI--tiny_Wan.2" / "snapshots" / COMMIT
    read_facts(folder)
    (line,) = answer["lines"]  # type: ignore[misc]
    assert ID in line and str(client.cache) in line
    assert max(hub.downloads.values()) == 1
    assert not {name for name in hub.downloads if "fp16" in name or name.startswith(("README", "assets", "old"))}
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == hub.downloads.keys()
    hub.downloads.clear()
    assert client.ask(ID) == {"found": str(folder), "lines": []}
    client.endpoint = "http://127.0.0.1:9"
    assert client.find(ID) == folder
    assert not hub.downloads


def test_weights_that_are_published_as_a_variant_alone_are_downloaded(client: Client, tmp_path: Path) -> None:
    model = write_bare_model(tmp_path / "published")
    encoder = model / "text_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("model.fp16.safetensors"))
    (model / "SHA256SUMS").write_text(f"{'0' * 64}  another file\n")
    with serving(Hub({ID: model})) as hub:
        client.endpoint = hub.url
        folder = client.find(ID)
    read_facts(folder)
    assert (folder / "text_encoder" / "model.fp16.safetensors").is_file() and (folder / "SHA256SUMS").is_file()
    client.endpoint = "http://127.0.0.1:9"
    assert client.find(ID) == folder


def test_a_download_brings_all_that_tokenizers_and_processors_read(client: Client, tmp_path: Path) -> None:
    """A template of chats among it."""
    model = write_hunyuan15_checkpoint(tmp_path / "published", images=True)
    with serving(Hub({ID: model})) as hub:
        client.endpoint = hub.url
        folder = client.find(ID)
    published = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == published
    assert "tokenizer/chat_template.jinja" in published


def test_weights_from_elsewhere_stay_on_the_hub(client: Client, hub: Hub) -> None:
    client.endpoint = hub.url
    folder = client.find(ID, "model.single_files={transformer: wan.safetensors}")
    assert (folder / "transformer" / "config.json").is_file() and not list(folder.glob("transformer/*.safetensors"))
    assert client.find(ID) == folder
    read_facts(folder)


def test_several_processes_download_once(client: Client, hub: Hub) -> None:
    client.endpoint = hub.url
    processes = [client.start(ID) for _ in range(3)]
    answers = [answer_of(process) for process in processes]
    assert len({answer["found"] for answer in answers}) == 1
    assert sum(len(answer["lines"]) for answer in answers) == 1  # type: ignore[arg-type,misc]
    assert max(hub.downloads.values()) == 1


def test_an_interrupted_download_is_completed(client: Client, hub: Hub) -> None:
    client.endpoint = hub.url
    hub.broken.add("vae/diffusion_pytorch_model.safetensors")
    assert "could not be downloaded" in client.refusal(ID)
    assert hub.downloads["transformer/config.json"] == 1
    hub.broken.clear()
    read_facts(client.find(ID))
    assert hub.downloads["transformer/config.json"] == 1


def test_what_lockstep_does_not_run_is_refused_before_its_weights_come(client: Client, hub: Hub) -> None:
    client.endpoint = hub.url
    edit_json(hub.repositories[ID] / "model_index.json", _class_name="FluxPipeline")
    assert "FluxPipeline" in client.refusal(ID)
    (hub.repositories[ID] / "model_index.json").unlink()
    shutil.rmtree(client.cache)
    assert "diffusers layout" in client.refusal(ID)
    assert hub.downloads.keys() == {"model_index.json"}


def test_what_cannot_be_had(client: Client, hub: Hub) -> None:
    assert "the hub cannot be reached: check the network" in client.refusal(ID)
    assert "the hub cannot be reached" in client.refusal(ID, HF_HUB_OFFLINE="1")
    assert "neither a folder nor in the hub's cache" in client.refusal(ID, download=False)
    client.endpoint = hub.url
    assert "unknown on the hub" in client.refusal("Wan-AI/no-such-model")
    assert "no such revision" in client.refusal(f"{ID}@v9")
    hub.gated.add(ID)
    sentence = client.refusal(ID)
    assert "gated on the hub" in sentence and "hf auth login" in sentence
    shutil.rmtree(client.cache)
    client.cache.write_text("no folder")
    assert "could not be downloaded" in client.refusal(ID)


def test_what_counts_as_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path_of(given: str) -> str:
        return load_config(CONFIG, [f"model.path={given}"]).model.path

    monkeypatch.chdir(tmp_path)
    for name in (ID, f"{ID}@main", f"{ID}@refs/pr/3", "a/b"):
        assert path_of(name) == name
    for name in ("nowhere", "a/b/c", "./a/b", "../a", "/a/b", "a/@main", "a/b@", "-a/b"):
        assert path_of(name) == os.path.normpath(tmp_path / name)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert path_of("a/b") == str(tmp_path / "a" / "b"), "a folder comes first"
    with pytest.raises(InvalidInput, match="no model folder"):
        read_facts(path_of("nowhere"))
