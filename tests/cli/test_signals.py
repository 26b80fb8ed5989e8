"""What a program says of the signal that ended it."""

import os
import signal

import pytest

from evomerge.cli.app import Stop


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_the_exit_code_is_the_signals_though_a_library_raised_another(
    number: signal.Signals, code: int
) -> None:
    def killed() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            # As Ray does where a signal finds it waiting in C.
            raise KeyboardInterrupt from None

    stop = Stop()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop.once():
        killed()
    assert stop.exit_code == code
    assert signal.getsignal(number) is before
