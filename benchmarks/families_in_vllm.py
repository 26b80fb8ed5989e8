"""What vLLM makes of the families that merge: a column of docs/models.md's table.

Every family that merges is started in vLLM, one after another. What comes of it is kept
beside this file, so that a run goes on where the last one stopped; families that are
named are done again. `families.py` joins what is kept to its table as well.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

from architectures.built import CAUSAL, IMAGE_TEXT, KINDS
from architectures.by_vllm import PASSES, InVllm, examine_in_vllm
from architectures.served import EXACT

KEPT = Path(__file__).with_suffix(".jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
COLUMN, SUMMARY = "`vllm`", "- `vllm` ("

Rows = Mapping[tuple[str, str], InVllm]


def main() -> None:
    """Serve the families asked for; write the page's column if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="model types, done anew")
    kinds = [CAUSAL.name, IMAGE_TEXT.name]
    parser.add_argument("--kinds", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--all", action="store_true", help="all that were not done yet")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    asked = parser.parse_args()
    rows = dict(kept())
    merging = _that_merge()
    for kind in asked.kinds:
        for family in KINDS[kind].families:
            is_named = family in asked.families
            is_due = asked.all and (kind, family) not in rows
            if (kind, family) in merging and (is_named or is_due):
                found = rows[kind, family] = examine_in_vllm(KINDS[kind], family)
                print(f"{kind:12} {family:28} {found.outcome[:200]}", flush=True)
                _keep(rows)
    print(_summary(rows))
    if asked.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        text, _, after = rest.partition(END)
        table = joined(text.strip("\n"))
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _that_merge() -> set[tuple[str, str]]:
    """Return kind and family of what the page's table says merges."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    cells = [_cells(line) for line in table.splitlines() if line.startswith("| ")]
    return {(row[0], row[1].strip("`")) for row in cells if row[2] == "merges"}


def kept() -> Rows:
    """Return what vLLM has made of families so far, by kind and family."""
    if not KEPT.is_file():
        return {}
    rows = [InVllm(**json.loads(line)) for line in KEPT.read_text().splitlines()]
    return {(row.kind, row.family): row for row in rows}


def _keep(rows: Rows) -> None:
    lines = [json.dumps(asdict(rows[key])) for key in sorted(rows)]
    KEPT.write_text("\n".join(lines) + "\n")


def joined(text: str) -> str:
    """Return the table of families with the column and its summary, made anew."""
    rows = kept()
    lines = [line for line in text.splitlines() if not line.startswith(SUMMARY)]
    first = next(i for i, line in enumerate(lines) if line.startswith("| "))
    titles = _cells(lines[first])
    old = titles.index(COLUMN) if COLUMN in titles else None
    for i in range(first, len(lines)):
        cells = _cells(lines[i])
        if old is not None:
            del cells[old]
        row = rows.get((cells[0], cells[1].strip("`")))
        new = row.outcome if row else ""
        new = {first: COLUMN, first + 1: "---"}.get(i, new)
        cells.insert(-1, new.replace("|", "/").replace("\n", " "))
        lines[i] = f"| {' | '.join(cells)} |"
    lines.insert(first - 1, _summary(rows))
    return "\n".join(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


def _summary(rows: Rows) -> str:
    states = Counter(_state(row.outcome) for row in rows.values())
    known = states[EXACT] + states[PASSES] + states["refused"]
    versions = ", ".join(sorted({row.version for row in rows.values()}))
    return (
        f"{SUMMARY}{versions}, on a CPU): of {len(rows)} that were tried it knows "
        f"{known}; {states[EXACT]} are swapped in, pass the self-test and answer as "
        f"transformers does with the merged folder; {states[PASSES]} pass, but vLLM "
        f"itself differs from transformers; {states['refused']} are refused or do not "
        "start."
    )


def _state(outcome: str) -> str:
    states = (EXACT, PASSES, "refused")
    return next((state for state in states if outcome.startswith(state)), "other")


if __name__ == "__main__":
    main()
