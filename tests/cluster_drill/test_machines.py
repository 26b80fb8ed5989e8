"""Machines of a cluster fail, and a study goes on and ends as an undisturbed one."""

import os
from pathlib import Path

import pytest
from support.machines.cluster import until
from support.machines.drill import clock
from support.machines.stand import Stand

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_cable_is_cut_and_mended(the_stand: Stand, tmp_path: Path) -> None:
    cluster, (cut, _) = the_stand.cluster, the_stand.workers
    drill = the_stand.begin("cable", trials=96)
    drill.at_work()
    n_up = cluster.times_up(cut)
    cluster.cut(cut)
    lost_s = drill.until(lambda now: now.faults >= 1)
    the_stand.took("cable cut: its trial is known to be lost", lost_s)
    drill.goes_on()
    cluster.heal(cut)
    back_s = until(lambda: cluster.times_up(cut) > n_up, 120)
    the_stand.took("cable mended: its machine has joined again", back_s)
    back_s += drill.until(lambda now: now.at_work == 2)
    the_stand.took("cable mended: two workers are at work", back_s)
    drill.ends_as_undisturbed(tmp_path)


def test_a_machine_loses_its_power_and_another_one_joins(
    the_stand: Stand, tmp_path: Path
) -> None:
    cluster, (lost, kept) = the_stand.cluster, the_stand.workers
    drill = the_stand.begin("power", trials=120, block_s=0.3)
    drill.at_work()
    lost.power_off()
    lost_s = drill.until(lambda now: now.faults >= 1)
    the_stand.took("machine off: its trial is known to be lost", lost_s)
    drill.goes_on()
    seconds = clock()
    new = cluster.machine(f"w{len(cluster.names) - 1}")
    the_stand.workers[:] = [kept, new]
    cluster.join(new, n_cpus=1)
    the_stand.took("new machine switched on: it has joined", seconds())
    drill.until(lambda _: the_stand.service.parts_done("power", new) >= 2)
    the_stand.took("new machine switched on: it has done two parts", seconds())
    drill.ends_as_undisturbed(tmp_path)


def test_the_head_is_killed_and_the_study_does_not_wait_for_it(
    the_stand: Stand, tmp_path: Path
) -> None:
    cluster, head = the_stand.cluster, the_stand.head
    drill = the_stand.begin("head", trials=120, block_s=0.3)
    drill.at_work()
    coordinator = the_stand.service.coordinator("head")
    cluster.kill_ray(head)
    paused_s = drill.goes_on(by=3)
    the_stand.took("head killed: three more trials have ended", paused_s)
    seconds = clock()
    cluster.start_head(head)
    the_stand.took("head started again: it is up", seconds())
    drill.goes_on()
    assert the_stand.service.coordinator("head") == coordinator
    worker = the_stand.workers[0].named("ray::Worker")[0]
    os.kill(worker, 9)
    lost_s = drill.until(lambda now: now.faults >= 1)
    the_stand.took("worker killed after the head's return: known to be lost", lost_s)
    next_s = lost_s + drill.until(lambda now: now.at_work == 2)
    the_stand.took("worker killed after the head's return: two at work", next_s)
    drill.ends_as_undisturbed(tmp_path)
    assert [e.kind for e in the_stand.service.events("head")].count("claimed") == 1
