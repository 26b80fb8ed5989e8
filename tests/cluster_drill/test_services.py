"""Parts of the service fail, and a study goes on and ends as an undisturbed one."""

import os
import signal
import time
from pathlib import Path

import pytest
from support.machines.stand import Stand

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.timeout(900)]
AWAY_S = 5.0


def test_the_database_is_killed_and_comes_back(
    the_stand: Stand, tmp_path: Path
) -> None:
    drill = the_stand.begin("database")
    drill.at_work()
    coordinator = the_stand.service.coordinator("database")
    the_stand.server.kill()
    time.sleep(AWAY_S)
    the_stand.server.start()
    back_s = drill.goes_on()
    the_stand.took(f"database back after {AWAY_S:.0f} s: two trials ended", back_s)
    assert the_stand.service.coordinator("database") == coordinator
    drill.ends_as_undisturbed(tmp_path)


def test_a_coordinator_of_real_models_is_killed(
    the_stand: Stand, tmp_path: Path
) -> None:
    drill = the_stand.begin_real("coordinator")
    drill.at_work()
    os.kill(the_stand.service.coordinator("coordinator"), signal.SIGKILL)
    back_s = drill.goes_on()
    the_stand.took("coordinator killed: another one has ended two trials", back_s)
    drill.ends_as_undisturbed(tmp_path)


def test_a_replica_is_killed_and_another_one_takes_over(
    the_stand: Stand, tmp_path: Path
) -> None:
    service = the_stand.service
    drill = the_stand.begin("replica")
    drill.at_work()
    holder = drill.now.replica
    assert holder is not None
    service.start_replica()
    service.replicas.pop(holder).kill()
    taken_s = drill.until(lambda now: now.replica not in (None, holder))
    the_stand.took("replica killed: another one has its job", taken_s)
    back_s = taken_s + drill.goes_on()
    the_stand.took("replica killed: two trials ended", back_s)
    drill.ends_as_undisturbed(tmp_path)
    kinds = [event.kind for event in service.events("replica")]
    assert kinds.count("claimed") == 2
    assert kinds.count("supervisor_lost") == 1


def test_the_way_back_from_a_worker_is_lost_for_a_while(
    the_stand: Stand, tmp_path: Path
) -> None:
    deaf, serving = the_stand.workers[0], the_stand.serving
    drill = the_stand.begin("way-back", trials=48)
    drill.at_work()
    deaf.block(serving)
    time.sleep(4 * AWAY_S)  # its trial, and so its generation, waits
    deaf.unblock(serving)
    back_s = drill.goes_on(by=4)
    the_stand.took("way back open after 20 s: four trials ended", back_s)
    drill.ends_as_undisturbed(tmp_path)


def test_the_disk_of_a_worker_is_full(the_stand: Stand, tmp_path: Path) -> None:
    worker = the_stand.workers[0]
    drill = the_stand.begin("disk", trials=72)
    drill.at_work()
    worker.fill_disk()
    the_stand.took("disk full: four more trials have ended", drill.goes_on(by=4))
    os.kill(worker.named("ray::Worker")[0], signal.SIGKILL)
    lost_s = drill.until(lambda now: now.faults >= 1)
    the_stand.took("worker killed on a full disk: known to be lost", lost_s)
    on_s = lost_s + drill.goes_on(by=4)  # there, if one can start, or elsewhere
    the_stand.took("worker killed on a full disk: four trials have ended", on_s)
    worker.free_disk()
    drill.ends_as_undisturbed(tmp_path)
