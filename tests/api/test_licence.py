"""What a model folder names as its licence."""

from pathlib import Path

import pytest

from evomerge.api.models.provenance import licence_of

CARDS = {
    "---\nlicense: apache-2.0\n---\n# A model\n": "apache-2.0",
    "---\ntags:\n- merge\nlicense: 'mit'  # as its base\n---\n": "mit",
    "---\nlicense: other\nlicense_name: gemma\n---\n": "gemma",
    "---\nlicense:\n- cc-by-nc-4.0\n- mit\n---\n": "cc-by-nc-4.0",
    "---\r\nlicense: llama3\r\n---\r\n": "llama3",
}


@pytest.mark.parametrize(("text", "licence"), CARDS.items())
def test_a_card_names_it(tmp_path: Path, text: str, licence: str) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    (tmp_path / "LICENSE").write_text("MIT License\n")
    assert licence_of(tmp_path, {"license": "bsd"}) == licence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "license: mit",
        "---\nlicense: mit\n",  # never ends: no front matter
        "---\nlicense: null\n---\n",
        "# license: mit\n---\n",
        "\x00\xff---",
    ],
)
def test_what_is_no_card_names_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert licence_of(tmp_path, {}) is None
    assert licence_of(tmp_path, {"license": " mit "}) == "mit"
    assert licence_of(tmp_path, {"license": ["mit"]}) is None


def test_the_first_line_of_a_licence_is_its_name(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("\n\n   Apache License\n  Version 2.0\n")
    assert licence_of(tmp_path, {}) == "Apache License"
    (tmp_path / "LICENSE").mkdir()
    assert licence_of(tmp_path, {}) == "Apache License"


def test_only_the_beginning_of_a_file_is_read(tmp_path: Path) -> None:
    with (tmp_path / "README.md").open("wb") as file:
        file.write(b"---\nlicense: mit\n")
        file.truncate(1 << 33)
    assert licence_of(tmp_path, {}) is None
