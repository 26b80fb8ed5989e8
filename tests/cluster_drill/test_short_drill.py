"""The shortest drill: a machine is cut off while it is at a trial."""

from pathlib import Path

import pytest
from support.machines.stand import Stand


@pytest.mark.drill
@pytest.mark.ray
@pytest.mark.timeout(600)  # on a busy machine four raylets need minutes to start
def test_a_trial_of_a_machine_that_is_cut_off_is_scored_elsewhere(
    the_stand: Stand, tmp_path: Path
) -> None:
    lost = the_stand.workers[1]
    drill = the_stand.begin("short")
    drill.at_work(n_attempts=2)
    the_stand.cluster.cut(lost)
    lost_s = drill.until(lambda now: now.faults >= 1)
    the_stand.took("machine cut off: its trial is known to be lost", lost_s)
    the_stand.took("machine cut off: two trials more", lost_s + drill.goes_on())
    the_stand.cluster.heal(lost)
    drill.ends_as_undisturbed(tmp_path)
