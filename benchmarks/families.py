"""Which architectures of transformers merge: docs/models.md's table, made anew.

Every architecture is built tiny in a process of its own, merged by every method of the
table, loaded again, and compared with plain arithmetic tensor by tensor.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

from architectures.built import KINDS
from architectures.plain_merges import METHODS
from architectures.published import FORMS, Outcome, examine_form
from architectures.table import Row, examine_apart
from families_in_vllm import joined

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
PUBLISHED = ("<!-- published: begin -->", "<!-- published: end -->")


def main() -> None:
    """Examine the architectures asked for; write the page if that is all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="model types; all if none is named")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", type=Path, help="keep rows here, and go on from them")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument(
        "--published",
        action="store_true",
        help="examine families in the form in which they are published instead",
    )
    asked = parser.parse_args()
    if asked.published:
        text = published_page([_examined(form.name) for form in FORMS])
        print(text)
        if asked.write:
            _write(PUBLISHED, text)
        return
    rows = _kept(asked.rows)
    for name in asked.kinds:
        for family in KINDS[name].families:
            is_asked = not asked.families or family in asked.families
            if is_asked and (name, family) not in rows:
                row = examine_apart(KINDS[name], family)
                rows[name, family] = row
                print(
                    f"{name:12} {family:28} {row.state:10} {row.why[:160]}", flush=True
                )
                if asked.rows:
                    with asked.rows.open("a") as out:
                        out.write(json.dumps(asdict(row)) + "\n")
    text = joined(page(list(rows.values())))
    print(text.split("| Task |")[0])
    if asked.write:
        _write((BEGIN, END), text)


def _write(marks: tuple[str, str], text: str) -> None:
    begin, end = marks
    before, _, rest = PAGE.read_text().partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _examined(name: str) -> Outcome:
    form = next(form for form in FORMS if form.name == name)
    with TemporaryDirectory() as folder:
        return examine_form(form, Path(folder))


def published_page(outcomes: Sequence[Outcome]) -> str:
    """Return the table of families in their published form."""
    good = sum(not outcome.why for outcome in outcomes)
    lines = [
        f"{good} of {len(outcomes)} merge, keep every type, carry every further part "
        "bit for bit and load without a missing or unexpected tensor:",
        "",
        "| Family | Outcome | Tensors | In pieces | Types, as the frame's | Carried |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        types = ", ".join(f"{n} {kind}" for kind, n in one.types.items())
        carried = ", ".join(f"{n} {kind}" for kind, n in one.carried.items())
        lines.append(
            f"| {one.name} | {one.why or 'merges'} | {one.tensors} | {one.cut} "
            f"| {types} | {carried} |"
        )
    return "\n".join(lines)


def _kept(file: Path | None) -> dict[tuple[str, str], Row]:
    if file is None or not file.is_file():
        return {}
    found = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [Row(**{**row, "carried": tuple(row["carried"])}) for row in found]
    return {(row.kind, row.family): row for row in rows}


def page(rows: Sequence[Row]) -> str:
    """Return the table, with how many there are of each kind before it."""
    import transformers

    lines = [
        f"Of transformers {transformers.__version__}, merged by "
        f"{', '.join(METHODS)}, and loaded again:",
        "",
    ]
    for kind in KINDS:
        states = Counter(row.state for row in rows if row.kind == kind)
        if not states:
            continue
        built = sum(states.values()) - states["not built"]
        lines.append(
            f"- {kind}: {states['merges']} of {built} that can be built here merge, "
            f"{states['refused']} refused, {states['wrong']} wrong; "
            f"{states['not built']} cannot be built."
        )
    served = Counter(row.hf.split(":")[0] for row in rows if row.hf)
    if n := sum(served.values()):
        lines.append(
            f"- `hf`: {served['exact']} of {n} that merge are swapped in and answer as "
            "transformers does with the merged folder; "
            f"{served['refused']} refused, {served['wrong']} wrong, and "
            f"{served['not run']} tiny models do not run in transformers."
        )
    stacked = Counter(row.stack.split(":")[0] for row in rows if row.stack)
    if n := sum(stacked.values()):
        lines.append(
            f"- Stacks in `hf`: layers of {stacked['exact']} of {n} run in any order "
            "and as often as asked, and answer as a folder of these layers does; "
            f"{stacked['refused']} refused, {stacked['wrong']} wrong."
        )
    titles = (
        "Task",
        "Family",
        "Outcome",
        "Tensors",
        "`hf`",
        "Stacks in `hf`",
        "Carried",
    )
    lines += ["", f"| {' | '.join(titles)}, or why not |"]
    lines += [f"|{' --- |' * len(titles)}"]
    for row in sorted(rows, key=lambda r: (list(KINDS).index(r.kind), r.family)):
        last = ", ".join(row.carried) or row.why
        cells = (row.state, row.tensors or "", row.hf, row.stack, last)
        shown = " | ".join(_shown(str(cell)) for cell in cells)
        lines.append(f"| {row.kind} | `{row.family}` | {shown} |")
    return "\n".join(lines)


def _shown(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    main()
