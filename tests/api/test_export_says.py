"""What an export says of itself: parents, whose it is, and whether bounds hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support.study_files import simulated_study, write_models, write_study

import evomerge.api as api
from evomerge.cli.app import app
from evomerge.export.parents import Standing


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("models"))
    card = "---\nlicense: {}\n---\n"
    (folder / "math" / "README.md").write_text(card.format("apache-2.0"))
    (folder / "ja" / "README.md").write_text(card.format("cc-by-nc-4.0"))
    return folder


class Case:
    """A study over three models, searched."""

    def __init__(self, folder: Path, models: Path, **changes: Any) -> None:
        self.folder = folder
        self.db = f"sqlite:///{folder / 'mine.db'}"
        study = simulated_study(models, name="mine", **changes)
        file = write_study(folder / "study.yaml", study)
        where = api.Where(1, None, True, cache_dir=folder / "cache")
        api.search(api.prepare(file, db=self.db, where=where))

    def export(self, label: str | None = None) -> tuple[api.Exported, str, Any]:
        """Export a trial by its label; return what came, its card and metadata."""
        rows = api.trials("mine", db=self.db)
        numbers = [row.number for row in rows if row.label == label]
        out = self.folder / f"{label}-model"
        wanted = api.Export(numbers[0] if label else None, out)
        done = api.export("mine", wanted, db=self.db, cache_dir=self.folder / "cache")
        card = (out / "README.md").read_text(encoding="utf-8")
        return done, card, yaml.safe_load(card.split("---\n")[1])


def parents(card: str) -> list[str]:
    """Return the first cells of the table of parents."""
    part = card.split("## Parents")[1].split("##")[0]
    return [line.split(" | ")[0][2:] for line in part.splitlines() if "`" in line]


START = [
    {"name": "only", "knobs": {"weight.ja": 0.0, "weight.math": 0.7}},
    {"name": "both", "knobs": {"weight.ja": 0.3, "weight.math": 0.7}},
    {"name": "none", "knobs": {"weight.ja": 0.0, "weight.math": 0.0}},
]


def test_a_card_names_what_the_merge_is_made_of(tmp_path: Path, models: Path) -> None:
    case = Case(tmp_path, models, start=START, budget={"trials": 1})
    done, card, metadata = case.export("only")
    assert parents(card) == ["base", "math"]
    assert "base_model" not in metadata
    assert f"| math | local folder {models / 'math'} | apache-2.0 |" in card
    assert "Unknown: the licence of base" in card
    assert "cc-by" not in card
    assert done.standing is not None
    assert (done.standing.kind, done.standing.label) == ("start", "only")

    _, card, _ = case.export("both")
    assert parents(card) == ["base", "ja", "math"]
    assert "licences differ (cc-by-nc-4.0, apache-2.0)" in card
    assert "By its name cc-by-nc-4.0 allows no commercial use." in card

    done, card, _ = case.export("none")
    assert parents(card) == ["base"]
    assert done.standing == Standing("parent", "base", is_best=False)
    assert "# none-model: the parent base, unchanged\n" in card


BOUNDS = [
    {"measure": "one/acc", "at_least": 0.0},
    {"measure": "two/acc", "at_least": 1.0},
    {"measure": "one/acc", "drop_at_most": 0.5, "relative_to": "math"},
    {"measure": "cost/layers", "at_most": 2},
]


def test_bounds_are_told_and_who_is_best_in_card_terminal_and_json(
    tmp_path: Path, models: Path
) -> None:
    free = Case(tmp_path, models, budget={"trials": 1})
    done, card, _ = free.export()
    assert done.standing is not None
    assert done.standing.is_best
    assert "# None-model: the parent ja, unchanged\n" in card
    assert "no candidate was better on the items searched on." in card
    assert done.bounds == ()
    assert "Does it keep its bounds?" not in card

    (tmp_path / "bound").mkdir()
    case = Case(tmp_path / "bound", models, constraints=BOUNDS, budget={"trials": 1})
    done, card, _ = case.export("ja")
    assert [bound.said for bound in done.bounds][:2] == ["kept", "broken"]
    assert done.bounds[2].relative_to == "math"
    assert done.bounds[3].said == "kept"
    section = card.split("## Does it keep its bounds?")[1].split("##")[0]
    assert "| one/acc | at least 0 |" in section
    assert "| one/acc minus that of math | at least -0.5 |" in section
    assert "| cost/layers | at most 2 | 2 | kept |" in section
    # Compared with itself a model differs by nothing.
    done, _, _ = case.export("math")
    mine = done.bounds[2]
    assert mine.value is not None
    assert (mine.value.value, mine.said) == (0.0, "kept")

    arguments = ["export", "mine", "--trial", "1", "--db", case.db]
    said = CliRunner().invoke(app, [*arguments, str(tmp_path / "text")])
    assert said.exit_code == 0, said.output
    assert "is the parent ja as it is, no merge" in said.output
    assert "bounds on held-out items" in said.output
    assert "broken" in said.output
    told = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "json")])
    data = json.loads(told.stdout)
    assert data["standing"] == {"kind": "parent", "label": "ja", "is_best": False}
    assert [one["said"] for one in data["bounds"]][:2] == ["kept", "broken"]


def test_a_card_has_no_rows_for_tensors_a_model_has_not(
    tmp_path: Path, models: Path
) -> None:
    case = Case(tmp_path, models, start=START, budget={"trials": 1})
    _, card, _ = case.export("both")
    table = card.split("## Recipe")[1].split("<details>")[0]
    assert "| embedding | all |" in table
    assert "bias" not in table
    assert "router" not in table
    assert "expert" not in table
