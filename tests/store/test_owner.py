"""Who lives and who does not."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

from evomerge.store.base import Owner
from evomerge.store.owner import host_name, is_alive, this_process

_PRINT_OWNER = """if True:
    import json, dataclasses, sys
    from evomerge.store.owner import this_process
    print(json.dumps(dataclasses.asdict(this_process())), flush=True)
    sys.stdin.read()
"""


def start_process():
    import json

    process = subprocess.Popen(
        [sys.executable, "-c", _PRINT_OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Owner(**json.loads(process.stdout.readline()))


def test_this_process_is_alive():
    assert is_alive(this_process())
    assert this_process() == this_process()
    assert this_process().pid == os.getpid()


def test_a_killed_process_is_dead_even_before_its_parent_noticed():
    process, owner = start_process()
    assert is_alive(owner)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # still a zombie
    assert not is_alive(owner)
    process.wait()
    assert not is_alive(owner)


def test_a_reused_process_id_is_not_the_owner():
    assert not is_alive(replace(this_process(), started="1"))


def test_without_a_start_time_only_the_process_id_counts():
    process, owner = start_process()
    unknown = replace(owner, started="")
    assert is_alive(unknown)
    process.kill()
    process.wait()
    assert not is_alive(unknown)


def test_a_process_that_cannot_be_looked_at_counts_as_alive():
    assert is_alive(Owner("elsewhere", 1, "1"))
    assert is_alive(Owner(this_process().host + "0", 2**22 + 1, "1"))


def test_the_host_is_shown_by_its_name_alone():
    assert host_name(Owner("node7+abc+123", 1, "1")) == "node7"
