"""The walls around a process that works on what a stranger wrote."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, socket, sys
from pathlib import Path
from evomerge.sandbox import Limits, limit, wall_in
asked = json.loads(sys.argv[1])
limit(Limits(1 << 30, 20, 1 << 16))
walled = wall_in([Path(asked["readable"])], [Path(asked["work"])], network=False)
found = {"walled": walled}
def trial(name, action):
    try:
        action()
        found[name] = "done"
    except (OSError, MemoryError) as error:
        found[name] = type(error).__name__
readable, work = Path(asked["readable"]), Path(asked["work"])
trial("read", (readable / "a").read_text)
trial("list", lambda: os.listdir(readable))
trial("write there", lambda: (readable / "b").write_text("x"))
trial("read elsewhere", Path(asked["secret"]).read_text)
trial("list elsewhere", lambda: os.listdir(Path(asked["secret"]).parent))
trial("read by a link", (readable / "link").read_text)
trial("make a link", lambda: os.symlink(asked["secret"], work / "link"))
trial("read by one's own link", (work / "link").read_text)
trial("write", lambda: (work / "x").write_text("x"))
trial("write much", lambda: (work / "y").write_bytes(b"x" * (1 << 17)))
trial("write elsewhere", lambda: Path(asked["secret"]).write_text("x"))
trial("read others' variables", Path(f"/proc/{os.getppid()}/environ").read_bytes)
trial("connect", lambda: socket.create_connection(("127.0.0.1", asked["port"]), 5))
trial("take memory", lambda: bytes(2 << 30))
import subprocess
child = [sys.executable, "-c", "import sys; open(sys.argv[1])", asked["secret"]]
found["child"] = subprocess.run(child, capture_output=True).returncode
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock is Linux's")
def test_what_is_not_named_is_neither_read_nor_written(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("readable", "work", "far")}
    for folder in places.values():
        folder.mkdir()
    (places["readable"] / "a").write_text("a")
    secret = places["far"] / "secret"
    secret.write_text("s3")
    (places["readable"] / "link").symlink_to(secret)
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = {
            "readable": str(places["readable"]),
            "work": str(places["work"]),
            "secret": str(secret),
            "port": server.getsockname()[1],
        }
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(asked)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
    found = json.loads(ran.stdout)
    if not found.pop("walled"):
        pytest.skip("this kernel has no Landlock, or keeps it off")
    allowed = ("read", "list", "write", "make a link")
    assert {name for name, how in found.items() if how == "done"} == set(allowed)
    assert found.pop("child") == 1
    assert found["take memory"] == "MemoryError"
    assert {found[n] for n in ("read elsewhere", "connect")} == {"PermissionError"}
    assert secret.read_text() == "s3"
