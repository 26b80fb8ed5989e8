"""``docs/methods.md`` says what the catalogue says."""

import re
from pathlib import Path

import pytest

from evomerge.core.operators import CATALOGUE
from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.presets import PRESETS, Preset

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "methods.md"


def default_text(knob: Knob) -> str:
    if knob.default is None:
        return "1/N"
    return str(knob.default).lower() if knob.kind == "choice" else f"{knob.default:g}"


def range_text(knob: Knob) -> str:
    if knob.kind == "choice":
        return ", ".join(str(choice).lower() for choice in knob.choices)
    log = ", log" if knob.log else ""
    return f"{knob.low:g} to {knob.high:g}{log}" if knob.searchable else "not searched"


def only(knob: Knob) -> str:
    parts = [
        f"`{name}` {' or '.join(str(value) for value in values)}"
        for name, values in knob.only_with
    ]
    return ", ".join(parts) or "always"


def knob_row(operator: Operator, knob: Knob) -> list[str]:
    each = "each input" if knob.per_input else "all"
    name = f"`{operator.name}`"
    default, values = default_text(knob), range_text(knob)
    return [name, f"`{knob.name}`", each, default, values, only(knob), knob.help]


def operator_row(operator: Operator) -> list[str]:
    inputs = "any number" if operator.n_inputs is None else str(operator.n_inputs)
    if operator.factors_with == ():
        inputs += ", one model with adapters"
    if operator.statistics:
        inputs += f", with {' and '.join(operator.statistics)} statistics"
    roles = ", ".join(r for r, p in (operator.policies or {}).items() if p == "linear")
    if operator.spectral_with:
        roles += "; embed, head with a basis or a flat spectrum"
    return [
        f"`{operator.name}`",
        operator.summary,
        operator.source,
        inputs,
        operator.base,
        roles or "none",
    ]


def table(heading: str) -> list[list[str]]:
    text = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_operator_stands_in_the_page_as_the_catalogue_has_it():
    rows = [row[:6] for row in table("Operators")]
    assert rows == [operator_row(operator) for operator in CATALOGUE.values()]


def test_every_knob_stands_in_the_page_as_the_catalogue_has_it():
    expected = [knob_row(o, k) for o in CATALOGUE.values() for k in o.knobs]
    assert table("Knobs") == expected


def preset_row(preset: Preset) -> list[str]:
    operator = preset.operator
    becomes, name = f"`{preset.becomes}`", f"`{operator.name}`"
    for knob, values in operator.factors_with or ():
        becomes += f"; with `{knob}: {values[0]}` `lora_linear`"
    return [name, operator.summary, operator.source, becomes, operator.wanted_inputs]


def test_every_preset_stands_in_the_page_with_its_knobs():
    assert table("Checkpoint sets") == [preset_row(p) for p in PRESETS.values()]
    rows = [knob_row(p.operator, k) for p in PRESETS.values() for k in p.operator.knobs]
    without = [row[:5] + row[6:] for row in rows]
    assert table("Knobs of checkpoint sets") == without


@pytest.mark.parametrize("row", table("Operators"), ids=lambda row: row[0])
def test_every_operator_names_its_status_and_a_proof_that_exists(row):
    status, proof = row[6:]
    assert status in ("equals mergekit 0.1.5", "tested against its definition")
    links = re.findall(r"`(tests/[\w/]+\.py)`", proof)
    assert links
    for link in links:
        assert row[0].strip("`") in (ROOT / link).read_text()


@pytest.mark.parametrize("row", table("Methods"), ids=lambda row: f"{row[0]} {row[1]}")
def test_every_method_that_is_done_names_tests_that_exist(row):
    *_, written, status, proof = row
    known = {**CATALOGUE, **PRESETS}
    named = [name for name in re.findall(r"`(\w+)`", written) if name != "by"]
    assert all(name in known for name in named)
    links = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", proof)
    assert bool(links) != status.startswith("planned")
    for file, test in links:
        assert f"def {test}(" in (ROOT / file).read_text()


def test_every_operator_and_preset_is_written_for_a_method():
    written = " ".join(row[3] for row in table("Methods"))
    assert set(re.findall(r"`(\w+)`", written)) - {"by"} == {*CATALOGUE, *PRESETS}
