"""The operator's file says what studies may do, and all that is wrong with it."""

from pathlib import Path

import pytest

from evomerge.core.policy import ENGINE_OPTIONS, Policy
from evomerge.errors import SpecError
from evomerge.service.policy import NEVER, read_policy, refuse_readable
from evomerge.specs.reading.spec import all_keys
from evomerge.specs.schema.policy import PolicySpec

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def written(folder: Path, text: str) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return file


def test_what_is_not_written_is_refused(tmp_path: Path) -> None:
    assert read_policy(written(tmp_path, "version: 1\n")) == Policy()
    assert Policy() == Policy(False, False, (), False, ENGINE_OPTIONS)


def test_a_policy_is_what_the_file_says(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        f"allow_task_code: true\nallow_remote_code: true\nroots: [{tmp_path}]\n"
        "hub: allow\nengine_options: [block_size]\nmax_workers: 4\nmax_trials: 100\n"
        "max_items: 1000\nmax_minutes: 1.5\n",
    )
    wanted = Policy(
        True, True, (str(tmp_path),), True, frozenset({"block_size"}), 4, 100, 1000, 1.5
    )
    assert read_policy(file) == wanted
    again = tmp_path / "again.yaml"
    again.write_text(str(wanted.to_json()).replace("True", "true"))
    assert read_policy(again) == wanted


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    text = (
        'allow_task_code: "yes"\nhub: maybe\nmax_worker: 3\nmax_trials: 0\n'
        "roots:\n- /\n- models\n- /nowhere/at/all\n- /tmp/../etc\n"
        "engine_options:\n- model\n- trust_remote_code\n- No Option\n"
    )
    with pytest.raises(SpecError) as error:
        read_policy(written(tmp_path, text))
    told = str(error.value).splitlines()
    for start in (
        "cluster.yaml:1: allow_task_code: expected true or false",
        "cluster.yaml:2: hub: expected 'allow' or 'deny'",
        "cluster.yaml:3: max_worker: unknown key; did you mean 'max_workers'?",
        "cluster.yaml:4: max_trials: expected a number above 0",
        "cluster.yaml:6: roots.0: expected a folder of models or data, and not the wh",
        "cluster.yaml:7: roots.1: expected a path from the root",
        "cluster.yaml:8: roots.2: expected a folder of this machine",
        "cluster.yaml:9: roots.3: expected a path from the root, without `..`",
        "cluster.yaml:13: engine_options.2",
    ):
        assert [line for line in told if line.startswith(start)], start


@pytest.mark.parametrize("name", sorted(NEVER))
def test_no_operator_lets_strangers_choose_what_is_run(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=rf"engine_options\.0: .*{name}"):
        read_policy(written(tmp_path, f"engine_options: [{name}]\n"))
    assert not Policy().permits_option(name)


def test_roots_are_no_way_to_what_is_the_services_own(tmp_path: Path) -> None:
    for name in ("srv", "srv/models", "spool"):
        (tmp_path / name).mkdir()
    (tmp_path / "srv/link").symlink_to(tmp_path)
    spool = [("the spool", tmp_path / "spool")]
    refuse_readable(Policy(roots=(str(tmp_path / "srv/models"),)), spool)
    for root in (".", "spool", "srv/link"):
        with pytest.raises(SpecError, match="the spool"):
            refuse_readable(Policy(roots=(str(tmp_path / root),)), spool)
    with pytest.raises(SpecError, match="its token"):
        refuse_readable(
            Policy(roots=(str(tmp_path / "srv"),)),
            [("its token", tmp_path / "srv" / "token")],
        )


def test_every_key_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for key in all_keys(PolicySpec):
        assert f"| `{key.dotted}` | {key.help} |" in page, key.dotted
