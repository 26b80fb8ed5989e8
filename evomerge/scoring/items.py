"""Which questions are searched on, and which are held out for the report.

Called by the harness and by simulated tasks when a task is built. An item's name is
the hash of its content, so roles and blocks follow from the questions alone: not from
their order in a file, the process, or the task's name. Knows no lm-eval and no files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evomerge.core.digest import digest
from evomerge.core.scoring_protocol import Item, ItemRole
from evomerge.core.work import TaskSettings
from evomerge.errors import Problem, SpecError

_ID_LENGTH = 32


def item_id(doc: Any) -> str:
    """Name a question by its content.

    Args:
        doc: Plain data as read from a dataset; NaN, bytes and dates are allowed.

    Raises:
        TypeError: The question holds something without stable content (an image).
    """
    return digest(_plain(doc))


def split_items(
    settings: TaskSettings,
    ids: Sequence[str],
    report_ids: Sequence[str] | None = None,
    examples: Collection[str] = (),
) -> tuple[Item, ...]:
    """Give every used question its role and block.

    A question that occurs twice is kept once. Both roles are ordered by id, which is
    as good as random and the same everywhere, and ``limit`` takes from the front of
    each role, so a larger limit only adds items.

    Args:
        settings: Fraction, explicit lists, limit and number of blocks.
        ids: Names of the questions, in dataset order; of the search split if
            ``report_ids`` is given, else of both roles together.
        report_ids: Names of the questions of the report split.
        examples: Names of the few-shot examples in use.

    Returns:
        The search items, then the report items, each role in block order.

    Raises:
        SpecError: A role overlaps the other or the examples, an explicit item does
            not exist, or nothing is left to search on.
    """
    search, report = _roles(settings, ids, report_ids)
    _refuse_overlap(settings, search, report)
    if settings.limit is not None:
        n_search = math.ceil(settings.limit * _share(settings, search, report))
        search = search[:n_search]
        report = report[: settings.limit - n_search]
    if not search:
        raise _wrong(
            settings,
            f"no items are left to search on: {len(ids)} in the dataset, "
            f"search_fraction {settings.search_fraction}, limit "
            f"{settings.limit or 'none'}. Use more items or a larger search_fraction, "
            "or list those searched on under items.search.",
        )
    seen = sorted(set(examples) & {*search, *report})
    if seen:
        raise _wrong(
            settings,
            f"{len(seen)} few-shot example(s) are also items that are scored, for "
            f"example {seen[0]}. Take examples from another split (fewshot_split), "
            "list other items under items.search and items.report, or set "
            "num_fewshot: 0.",
        )
    return (
        *_blocks(
            search,
            ItemRole.SEARCH,
            min(settings.n_blocks, len(search) // settings.block_items),
        ),
        *_blocks(report, ItemRole.REPORT, 1),
    )


def _roles(
    settings: TaskSettings, ids: Sequence[str], report_ids: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return the names of both roles, sorted, before any limit."""
    wanted = _named(settings, "search", settings.search_items, ids)
    held_out = _named(settings, "report", settings.report_items, report_ids or ids)
    if report_ids is not None:
        search = set(ids) if wanted is None else wanted
        report = set(report_ids) if held_out is None else held_out
    elif wanted is not None:
        search = wanted
        report = set(ids) - wanted if held_out is None else held_out
    elif held_out is not None:
        search, report = set(ids) - held_out, held_out
    else:
        search = {i for i in ids if _draw(i) < settings.search_fraction}
        report = set(ids) - search
    return sorted(search), sorted(report)


def _share(settings: TaskSettings, search: list[str], report: list[str]) -> float:
    """Return the search items' part of a limit: as declared, else as listed."""
    by_hash = (settings.search_items, settings.report_items, settings.report_split)
    if by_hash == (None, None, None):
        return settings.search_fraction
    return len(search) / max(1, len(search) + len(report))


def _named(
    settings: TaskSettings,
    key: str,
    wanted: Sequence[str] | None,
    ids: Sequence[str],
) -> set[str] | None:
    """Resolve an explicit list of ids and positions."""
    if wanted is None:
        return None
    known = set(ids)
    found = set()
    for name in wanted:
        if name in known:
            found.add(name)
        elif len(name) < _ID_LENGTH and name.isdecimal() and int(name) < len(ids):
            found.add(ids[int(name)])
        else:
            raise _wrong(
                settings,
                f"{name!r} is neither an item id nor a position from 0 to "
                f"{len(ids) - 1}.",
                f"items.{key}",
            )
    return found


def _refuse_overlap(
    settings: TaskSettings, search: list[str], report: list[str]
) -> None:
    both = sorted(set(search) & set(report))
    if both:
        raise _wrong(
            settings,
            f"{len(both)} question(s) would be both searched on and reported on, for "
            f"example {both[0]} (equal content counts as equal). Remove them from one "
            "side, or split by search_fraction.",
        )


def _blocks(ids: Sequence[str], role: ItemRole, n_blocks: int) -> list[Item]:
    """Cut ordered ids into contiguous groups whose sizes differ by at most one."""
    n = max(min(n_blocks, len(ids)), 1)
    return [Item(name, role, place * n // len(ids)) for place, name in enumerate(ids)]


def _draw(name: str) -> float:
    """Return a number in [0, 1) that depends on the id alone, not on its order."""
    bits = hashlib.blake2b(name.encode(), digest_size=8, person=b"item role").digest()
    return int.from_bytes(bits, "big") / 2**64


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, bytes | bytearray):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if hasattr(value, "isoformat"):
        return {"time": value.isoformat()}
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    raise TypeError(
        f"A question holds a {type(value).__name__}, which has no stable content to "
        "name it by; only text, numbers, dates, bytes, lists and mappings are scored."
    )


def counted(items: Sequence[Item]) -> tuple[int, int]:
    """Return how many items are searched on, and how many are held out."""
    n_search = sum(item.role is ItemRole.SEARCH for item in items)
    return n_search, len(items) - n_search


def keyed(settings: TaskSettings, error: SpecError) -> list[Problem]:
    """Say where in a study's ``tasks`` each problem of a task stands."""
    told = f"task {settings.name}"
    found = []
    for problem in error.problems:
        inner = problem.where.removeprefix(told).removeprefix(": ")
        if problem.where.startswith(told):
            where, message = f"{settings.name}.{inner}".rstrip("."), problem.message
        else:
            where, message = settings.name, str(problem)
        found.append(Problem(where, message))
    return found


def _wrong(settings: TaskSettings, message: str, key: str = "items") -> SpecError:
    return SpecError([Problem(f"task {settings.name}: {key}", message)])
