"""Run a command that ends with the process that asked for it: a script, not a module.

``python die_with_parent.py PARENT COMMAND...`` asks the kernel for SIGTERM when the
parent is gone, and becomes the command, which keeps the wish. Only Linux can do this;
elsewhere the command runs on. The standard library is all there is here.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Whoever was gone before the wish was made gives no signal any more.
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)
