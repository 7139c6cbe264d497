"""The environment of a local trainer: what a program needs to run as it would by hand, and no secret.

It has, of the worker's environment, only the variables named here and those with a prefix named here. Of these it
has none whose name speaks of a secret, and none whose value is a URL with a password. `ORCHESTRATOR_*` settings,
`PG*`, `AWS_*` and whatever else holds the keys to a service are therefore not in it. What else a trainer needs
belongs into its config.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator.training_v2.runner.surroundings import LAUNCH, RUN_FOLDER, RUN_ID

NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP"),
        *("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"),
        *("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    }
)
PREFIXES = (
    *("LC_", "PYTHON", "CUDA", "NVIDIA_", "NCCL_", "ROCR_", "HIP_", "HSA_"),
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "NUMEXPR_", "TORCH", "PYTORCH_", "TF_", "XLA_", "JAX_", "HF_"),
)
#: Names that speak of a secret.
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|(^|_)KEY|API_?KEY|PRIVATE")
#: Values that carry a password.
WITH_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")
#: How many threads the usual libraries of numbers start.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def trainer_environment(run_id: str, launch: int, folder: Path, cores: int) -> dict[str, str]:
    """What the trainer of a launch has in its environment; `cores` is how many threads are of use to it."""
    return {
        **harmless(os.environ),
        **dict.fromkeys(THREADS, str(cores)),
        "PYTHONUNBUFFERED": "1",
        RUN_FOLDER: str(folder),
        RUN_ID: run_id,
        LAUNCH: str(launch),
    }


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """What a trainer may see."""
    return {name: value for name, value in environment.items() if _is_harmless(name.upper(), value)}


def _is_harmless(name: str, value: str) -> bool:
    if name not in NAMES and not name.startswith(PREFIXES):
        return False
    return not SECRET.search(name) and not WITH_PASSWORD.search(value)
