"""What children of the service know of its environment: what they need, by name.

A variable that nobody thought of, perhaps another service's secret, is not passed on.
"""

from __future__ import annotations

import os
from pathlib import Path

from evomerge.core.policy import OFFLINE, Policy

_PLAIN = ("LANG", "LC_ALL", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "TZ")
_OF_HUB = (
    *("HF_ENDPOINT", "HF_TOKEN", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_CLIENTS = ("EVOMERGE_CLUSTER", "EVOMERGE_TOKEN_FILE")
"""A coordinator that had these would ask a cluster to do its work."""
_NAMES = (
    *("HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    *(name for name in _OF_HUB if name.lower().endswith("_proxy")),
)
_PREFIXES = (
    *("CUDA", "EVOMERGE_", "GLOO_", "GRPC_", "HF_", "HUGGING_FACE_", "LANG", "LC_"),
    *("MKL_", "NCCL_", "NUMBA_", "NVIDIA_", "OMP_", "OPENBLAS_", "PG", "PYTHON"),
    *("PYTORCH_", "RAY_", "SSL_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_"),
    *("UCX_", "VLLM_", "XDG_"),
)


def passed_on() -> dict[str, str]:
    """Return what every child gets, beside what it is given; no hub's token."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in (*_TOKENS, *_CLIENTS)
        and (name in _NAMES or name.startswith(_PREFIXES))
    }
    # Not even a module in the folder where it runs is imported by accident.
    return found | {"PYTHONSAFEPATH": "1"}


def of_coordinator(policy: Policy | None) -> dict[str, str]:
    """Return what a process of a study gets besides: its way to a hub, or none.

    Args:
        policy: What the study may do; None for all.
    """
    if policy is not None and not policy.hub:
        return dict(OFFLINE)
    return {name: os.environ[name] for name in _TOKENS if name in os.environ}


def of_look(work: Path, *, has_hub: bool) -> dict[str, str]:
    """Return what a process gets that resolves a study, and asks nobody but a hub.

    Args:
        work: A folder of its own.
        has_hub: Whether it may ask a hub; only then it has the token for it.
    """
    kept = (*_PLAIN, *(_OF_HUB if has_hub else ()))
    homes = {name: str(work) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **homes,
        "HF_HOME": str(hub_home() if has_hub else work),
        "PYTHONSAFEPATH": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({} if has_hub else OFFLINE),
    }


def hub_home() -> Path:
    """Return where what was fetched from a hub is kept."""
    home = os.environ.get("HF_HOME")
    return Path(home) if home else Path.home() / ".cache" / "huggingface"
