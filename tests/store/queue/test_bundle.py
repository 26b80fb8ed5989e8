"""What a bundle may hold, and by what it is named."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import bundle

from evomerge.errors import SpecError
from evomerge.store.queue.bundle import MAX_BYTES, MAX_FILES, Bundle, differences

STUDY = {"study.yaml": b"name: x\n"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../out", "has an empty part, '.' or '..'"),
        ("a/../../out", "has an empty part, '.' or '..'"),
        ("./a", "has an empty part, '.' or '..'"),
        ("a//b", "has an empty part, '.' or '..'"),
        ("a/", "has an empty part, '.' or '..'"),
        ("", "has an empty part, '.' or '..'"),
        ("/etc/passwd", "is absolute"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\\b", "backslash"),
        ("a\ud800", "no Unicode text"),
        ("n" * 256, "is too long"),
        ("/".join(["n" * 200] * 6), "is too long"),
        ("study.yaml/a", "lies in 'study.yaml', which is a file"),
        ("Study.YAML", "is 'study.yaml' in other letters"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Bundle({**STUDY, name: b""})


def test_a_bundle_has_bounds() -> None:
    Bundle({**STUDY, "a": b"x" * (MAX_BYTES - len(STUDY["study.yaml"]))})
    with pytest.raises(SpecError, match="at most 8 MiB are taken"):
        Bundle({**STUDY, "a": b"x" * MAX_BYTES})
    many = {f"f{i}": b"" for i in range(MAX_FILES)}
    with pytest.raises(SpecError, match="holds 201 files; at most 200"):
        Bundle({**STUDY, **many})
    with pytest.raises(SpecError, match=r"study\.yaml: is missing"):
        Bundle({"a": b""})


@given(st.dictionaries(st.text("ab/.é", max_size=4), st.binary(max_size=8), max_size=5))
def test_what_is_taken_is_written_and_read_again(files: dict[str, bytes]) -> None:
    try:
        taken = Bundle({**STUDY, **files})
    except SpecError:
        return
    assert Bundle.from_json(taken.to_json()) == taken
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "new"
        taken.write(folder)
        assert Bundle.read(folder) == taken
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(FileExistsError):
            taken.write(folder)


def test_the_digest_is_of_names_and_contents_alone() -> None:
    one = Bundle({"study.yaml": b"x", "a": b"1"})
    assert one.digest == Bundle({"a": b"1", "study.yaml": b"x"}).digest
    others = [
        Bundle({"study.yaml": b"x", "a": b"2"}),
        Bundle({"study.yaml": b"x", "b": b"1"}),
        Bundle({"study.yaml": b"x"}),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_links_and_pipes_are_not_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "study.yaml").write_text("name: x")
    odd = tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/etc" if kind == "folder" else "/etc/passwd")
    with pytest.raises(SpecError, match=r"odd: is (a link|no plain file)"):
        Bundle.read(tmp_path)


def test_differences_name_file_and_line() -> None:
    old = bundle("a\nb\n", gone=b"", same=b"1", odd=b"\xff")
    new = bundle("a\nc\n", more=b"", same=b"1", odd=b"\xff\xff")
    assert list(map(str, differences(old, new))) == [
        "gone: is among the files there are, and not here",
        "more: is not among the files there are",
        "odd: 1 other bytes are there, 2 here",
        "study.yaml: line 2 is 'b' there, 'c' here",
    ]
    assert "nothing here" in str(*differences(bundle("a\nb\n"), bundle("a\n")))
    assert "ends of lines" in str(*differences(bundle("a\n"), bundle("a\r\n")))
