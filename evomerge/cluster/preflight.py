"""What would keep this process from joining a Ray, looked at before Ray is asked.

Ray itself waits long, or ends the process from C++, where an address, a token or the
node beside the coordinator is missing.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from time import monotonic, sleep

from evomerge.errors import EvomergeError, SetupError, WorkerError

CONNECT_S = 5.0
_ASK_S = 10.0
_COMING_UP_S = 20.0
_TOKEN = "RAY_AUTH_TOKEN_PATH"


def look(address: str) -> None:
    """Make sure that a driver on this machine can join the Ray at an address.

    Args:
        address: ``host:port`` of its head; of another form, nothing is looked at.

    Raises:
        SetupError: The token is missing or wrong, or the address is none.
        WorkerError: Nobody answers there, or this machine has no node of it.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in address:
        return
    if not port.isdecimal():
        raise SetupError(f"Expected an address of Ray as HOST:PORT, got {address!r}.")
    _require_token()
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(
            f"No Ray answers at {address}: {error}. Is its head running, and the "
            "address right? Leave --address out for a Ray on this machine."
        ) from None
    _require_node(address)


def told(error: BaseException, address: str | None) -> EvomergeError:
    """Say in our words why Ray was not joined, or not started."""
    words = str(error)
    if isinstance(error, EvomergeError):
        return error
    if "InvalidAuthToken" in words:
        return SetupError(
            f"The Ray at {address} does not know this token. Set {_TOKEN} to a file "
            "with the token that its nodes were started with (and RAY_AUTH_MODE=token)."
        )
    if "ersion mismatch" in words:
        return SetupError(
            f"The Ray at {address} is of other versions than this process: "
            f"{' '.join(words.split())} Install the same Ray and Python everywhere."
        )
    return WorkerError(
        f"Could not reach or start Ray at {address or 'this machine'}: {error}. Check "
        "the address and the token (RAY_AUTH_TOKEN_PATH), or leave --address out."
    )


def _require_token() -> None:
    """Look for the token's file, without which Ray ends the process."""
    path = os.environ.get(_TOKEN)
    if os.environ.get("RAY_AUTH_MODE") != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return
    if path is None:
        path = str(Path("~/.ray/auth_token").expanduser())
    try:
        is_there = bool(Path(path).read_text().strip())
    except (OSError, UnicodeDecodeError):
        is_there = False
    if not is_there:
        raise SetupError(
            f"Expected the token of the Ray cluster in {path}, which cannot be read or "
            f"is empty. Set {_TOKEN} to a file with the token of its nodes."
        )


def _require_node(address: str) -> None:
    """Make sure that this machine has a node; where one comes up, wait for it."""
    from ray._private import services

    patience = monotonic() + _COMING_UP_S
    while not _alive(address) & services.find_node_ids():
        # A head answers before the node beside it is registered.
        coming_up = address in services.find_gcs_addresses() or _is_here(address)
        if not coming_up or monotonic() > patience:
            raise WorkerError(
                f"This machine has no node of the Ray at {address}, and a coordinator "
                "needs one beside it. Start one without work of its own: "
                f"ray start --address={address} --num-cpus=0. From a machine that is "
                "no part of the cluster: evomerge submit."
            )
        sleep(0.5)


def _is_here(address: str) -> bool:
    """Tell whether an address is one of this machine's own."""
    with socket.socket() as probe:
        try:
            probe.bind((address.rpartition(":")[0], 0))
        except OSError:
            return False
    return True


def _alive(address: str) -> set[str]:
    """Return the ids of the nodes that the Ray at an address has."""
    import ray

    try:
        found = ray._raylet.GcsClient(address=address).get_all_node_info(timeout=_ASK_S)
    except Exception as error:  # noqa: BLE001 - Ray raises bare ones here
        raise told(error, address) from None
    return {node.node_id.hex() for node in found.values() if node.state == 0}
