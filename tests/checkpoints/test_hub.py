"""Models from a hub: what is fetched, what is refused, and in which words."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.hub import LoopbackHub

from evomerge.checkpoints import hub, read_model
from evomerge.errors import CheckpointError, HubError
from evomerge.testing.models import tiny_model

SECRET = "hf_thisisasecret"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "m", n_layers=2)


@pytest.fixture
def served(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoopbackHub]:
    """A hub with the model ``tiny/base``, and an empty cache."""
    with LoopbackHub() as loopback:
        # The environment is read when the library is imported, which has happened.
        template = f"{loopback.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", loopback.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        loopback.commit("tiny/base", model)
        yield loopback


def fetch(text: str) -> hub.Snapshot:
    wanted = hub.parse(text)
    assert wanted is not None
    return hub.fetch(wanted)


def refusal(text: str, act: Callable[[hub.HubId], object] = hub.fetch) -> str:
    wanted = hub.parse(text)
    assert wanted is not None
    with pytest.raises(HubError) as caught:
        act(wanted)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("hf://Org_1/na.me-2@" + "0a" * 20, "Org_1/na.me-2", "0a" * 20),
    ],
)
def test_an_id_is_read_and_written_back(
    text: str, repo: str, revision: str | None
) -> None:
    found = hub.parse(text)
    assert found == hub.HubId(repo, revision)
    assert hub.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "/org/name",
        "./name",
        "../name",
        "~/name",
        "a/b/c",
        "org/",
        "org/..",
        "org/.name",
        "org/a--b",
        "org/a..b",
        "org/name.git",
        "org/name@",
        "org/name@../x",
        "org/name@a//b",
        "org/name@a/.b",
        "org/name@a b",
        "org/name\n",
        "örg/name",
        "org/" + "n" * 100,
        "org/name@" + "r" * 300,
    ],
)
def test_a_text_that_could_leave_the_cache_or_is_a_path_is_no_id(text: str) -> None:
    assert hub.parse(text) is None
    with pytest.raises(CheckpointError, match="expected hf://org/name"):
        hub.parse(f"hf://{text}")


def test_a_fetched_model_equals_its_folder(served: LoopbackHub, model: Path) -> None:
    found = fetch("tiny/base")
    assert (
        found.pinned.revision == served.repositories["models", "tiny/base"].refs["main"]
    )
    assert read_model(found.folder).fingerprint == read_model(model).fingerprint


def test_only_what_a_merge_reads_is_fetched(
    served: LoopbackHub, model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "full"))
    odd = ("pytorch_model.bin", "modeling.py", "training_args.pt", "eval.json")
    for name in (*odd, "consolidated.safetensors", "sub/model.safetensors", "x.pkl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never fetched")
    said = {"README.md": "---\nlicense: mit\n---\n", "LICENSE": "MIT License\n"}
    for name, text in said.items():
        (folder / name).write_text(text)
    served.commit("tiny/full", folder)
    found = fetch("tiny/full")
    expected = {*said, *(file.name for file in model.iterdir())}
    assert {file.name for file in found.folder.rglob("*")} == expected
    got = [asked.path for asked in served.requests if "/resolve/" in asked.path]
    assert {path.rsplit("/", 1)[1] for path in got} == expected
    assert not any("/sub/" in path for path in got)


def test_further_chat_templates_are_fetched_too(
    served: LoopbackHub, model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "templates"))
    for name in ("additional_chat_templates/tool.jinja", "sub/config.json"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{{ x }}")
    served.commit("tiny/templates", folder)
    found = fetch("tiny/templates").folder
    assert (found / "additional_chat_templates" / "tool.jinja").is_file()
    assert not (found / "sub").exists()


def test_a_commit_in_the_cache_needs_no_hub(served: LoopbackHub) -> None:
    pinned = fetch("tiny/base").pinned
    n = len(served.requests)
    assert hub.fetch(pinned).pinned == pinned
    assert len(served.requests) == n


def test_a_pinned_commit_stays_when_its_branch_moves(
    served: LoopbackHub, tmp_path: Path
) -> None:
    before = fetch("tiny/base")
    newest = served.commit("tiny/base", tiny_model(tmp_path / "new", seed=5))
    assert hub.fetch(before.pinned) == before
    after = fetch("tiny/base")
    assert after.pinned.revision == newest != before.pinned.revision
    prints = {read_model(found.folder).fingerprint for found in (before, after)}
    assert len(prints) == 2


def test_a_branch_a_tag_and_a_commit_are_revisions(
    served: LoopbackHub, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "new", seed=5)
    commit = served.commit("tiny/base", folder, branch="refs/pr/1")
    for revision in ("refs/pr/1", commit):
        assert fetch(f"tiny/base@{revision}").pinned.revision == commit
    assert fetch("tiny/base").pinned.revision != commit


@pytest.mark.parametrize("act", [hub.fetch, hub.look_up])
def test_what_the_hub_lacks_is_named(
    served: LoopbackHub, act: Callable[[hub.HubId], object]
) -> None:
    said = refusal("tiny/none", act)
    assert "no model 'tiny/none'" in said
    assert served.url in said
    said = refusal("tiny/base@gone", act)
    assert "no revision 'gone' of 'tiny/base'" in said


def test_a_gated_or_private_model_asks_for_a_token_and_never_shows_it(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = served.repositories["models", "tiny/base"]
    repository.token = "hf_right"
    for is_gated, told in ((False, "no model 'tiny/base'"), (True, "granted access")):
        repository.is_gated = is_gated
        for token in ("", SECRET):
            monkeypatch.setenv("HF_TOKEN", token)
            said = refusal("tiny/base")
            assert told in said
            assert "HF_TOKEN" in said
            assert SECRET not in said
    assert SECRET in {asked.token for asked in served.requests}
    monkeypatch.setenv("HF_TOKEN", repository.token)
    assert fetch("tiny/base").folder.is_dir()


@pytest.mark.parametrize("act", [hub.fetch, hub.look_up])
def test_a_token_that_cannot_be_sent_is_not_shown(
    served: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[hub.HubId], object],
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}ü")
    said = refusal("tiny/base", act)
    assert "HF_TOKEN" in said
    assert SECRET not in said


@pytest.mark.parametrize("act", [hub.fetch, hub.look_up])
def test_a_hub_in_trouble_is_told_with_its_answer(
    served: LoopbackHub, act: Callable[[hub.HubId], object]
) -> None:
    served.failing_with = 500
    assert "answered 500" in refusal("tiny/base", act)


@pytest.mark.parametrize("act", [hub.fetch, hub.look_up])
def test_a_hub_that_does_not_answer_is_told_by_its_address_without_password(
    served: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[hub.HubId], object],
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:1")
    said = refusal("tiny/base", act)
    assert "http://127.0.0.1:1) did not answer" in said
    assert "secret" not in said


@pytest.mark.parametrize("act", [hub.fetch, hub.look_up])
def test_offline_the_cache_is_used_and_its_lack_is_told(
    served: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[hub.HubId], object],
) -> None:
    before = fetch("tiny/base")
    n = len(served.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("tiny/base") == before
    said = refusal("tiny/other@v1", act)
    assert "HF_HUB_OFFLINE is set" in said
    assert "'tiny/other@v1' is not whole" in said
    assert len(served.requests) == n


def test_a_download_cut_short_is_no_model_offline(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fetch("tiny/base")
    (found.folder / "tokenizer.json").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not whole" in refusal("tiny/base")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert (fetch("tiny/base").folder / "tokenizer.json").is_file()


def test_weights_that_are_only_a_pickle_are_refused_unfetched(
    served: LoopbackHub, model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "old"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    served.commit("tiny/old", folder)
    with pytest.raises(
        CheckpointError, match=r"only as 'pytorch_model\.bin', a pickle"
    ):
        fetch("tiny/old")
    assert not any(asked.path.endswith(".bin") for asked in served.requests)


def test_a_repository_without_weights_is_refused(
    served: LoopbackHub, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    served.commit("tiny/bare", tmp_path / "bare")
    with pytest.raises(CheckpointError, match="'tiny/bare' has no safetensors"):
        fetch("tiny/bare")


@pytest.mark.parametrize("commit", ["../../../out", "main", "0" * 39])
def test_a_commit_that_is_no_hash_is_not_believed(
    served: LoopbackHub, commit: str
) -> None:
    repository = served.repositories["models", "tiny/base"]
    (files,) = repository.commits.values()
    repository.commits = {commit: files}
    repository.refs["main"] = commit
    with pytest.raises(HubError):
        fetch("tiny/base")


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    program = (
        "from evomerge.checkpoints import hub\n"
        "try: hub.fetch(hub.HubId('org/name'))\n"
        "except hub.HubError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_ENDPOINT": "http://127.0.0.1:port", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("HF_ENDPOINT is no address")
